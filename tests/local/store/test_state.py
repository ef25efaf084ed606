"""A home's state and storage: shared by processes that come and go, and refused in one sentence where it cannot be."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError
from tests.local.samples import ROOT, command_line, wait_until

OPEN = """
import sys, time
from pathlib import Path
from pipeline.local.store.state import State
home, words = Path(sys.argv[1]), sys.argv[2:]
"""
COUNT = f"""{OPEN}
while time.time() < float(words[1]):
    pass
state = State(home)
state.put("Own", words[0], {{}})
with state.transaction():
    if state.get("Shared", "count") is None:
        state.put("Shared", "count", {{"count": 0}})
for _ in range(25):
    state.change("Shared", "count", lambda document: document.update(count=document["count"] + 1))
"""
HANG_IN_A_TRANSACTION = f"""{OPEN}
state = State(home)
state.put("Kind", "before", {{}})
with state.transaction():
    state.put("Kind", "within", {{}})
    Path(home, "ready").touch()
    time.sleep(60)
"""
SPOIL = {
    "a file": ("rm -r {home}; touch {home}", "{home} is not a folder; choose another place by"),
    "below a file": ("cd {home}/../..; rm -r folder; touch folder", "{home} cannot be written (Not a"),
    "no database": ("echo no > {home}/state.db", "cannot be used (file is not a database);"),
    "damaged": (
        "tr '\\0' x < /dev/zero | dd of={home}/state.db bs=4096 seek=1 count=30 conv=notrunc iflag=fullblock",
        "{home}/state.db cannot be used (database disk image is malformed); remove it to start anew",
    ),
    "another release's": ("", "cannot be used (it was made by another release: version 7, not 1); remove it to start"),
    "another user's": ("chown 12345 {home}; chmod 700 {home}", "{home}"),
    "another user's file": ("chown 12345 {home} {home}/state.db; chmod 755 {home} {home}/state.db", "{home}"),
}


def started(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_processes_that_open_a_new_home_at_the_same_instant_all_write(tmp_path: Path) -> None:
    for attempt in "12":  # it takes luck to hit the instant
        begin = time.time() + 0.7
        processes = [started(COUNT, tmp_path / attempt, number, begin) for number in range(5)]
        assert [process.communicate()[1] for process in processes] == [""] * 5
        state = State(tmp_path / attempt)
        assert (state.get("Shared", "count"), len(state.all("Own"))) == ({"count": 125}, 5)


def test_what_a_process_had_not_finished_is_waited_for_and_gone_when_it_is_killed(tmp_path: Path) -> None:
    process = started(HANG_IN_A_TRANSACTION, tmp_path)
    wait_until((tmp_path / "ready").exists)
    state = State(tmp_path)
    assert state.get("Kind", "within") is None
    state.connection.execute("PRAGMA busy_timeout=100")
    with pytest.raises(UsageError, match=r"cannot be used \(database is locked\); end the process that holds it"):
        state.put("Kind", "waits", {})
    process.kill()
    process.communicate()
    state.put("Kind", "after", {})
    assert [state.get("Kind", name) for name in ("before", "within", "after")] == [{}, None, {}]


def test_documents_keep_their_place_and_a_transaction_within_another_is_part_of_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    with pytest.raises(ZeroDivisionError), state.transaction():
        with state.transaction():
            state.put("Kind", "inner", {})
        state.change("Kind", "inner", lambda document: document.update(a=1))
        raise ZeroDivisionError
    assert state.all("Kind") == []
    for document in ({"name": "a"}, {"name": "b"}, {"name": "a", "again": True}):
        state.put("Kind", document["name"], document)
    assert State(tmp_path).all("Kind") == [{"name": "a", "again": True}, {"name": "b"}]
    with pytest.raises(KeyError, match="nobody"):
        state.change("Kind", "nobody", lambda document: None)
    for name in "ABCD":
        state.put_step("execution", {"StepName": name})
    for name in "BC":
        state.delete_step("execution", name)
    state.put_step("execution", {"StepName": "B"})  # started anew, it comes after those that stayed
    assert [step["StepName"] for step in state.steps("execution")] == ["A", "D", "B"]


@pytest.mark.parametrize("what", SPOIL)
def test_a_home_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    home, (spoil, said), prefix = tmp_path / "folder" / "home", SPOIL[what], []
    if "user's" in what:
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("only root can make a file another user's")
    state = State(home)
    for number in range(200):  # too much for one page of the database
        state.put("Kind", str(number), {"text": "x" * 1000})
    state.close()
    if what == "another release's":
        sqlite3.connect(home / "state.db", isolation_level=None).execute("PRAGMA user_version=7")
    subprocess.run(["bash", "-c", spoil.format(home=home)], check=True, stderr=subprocess.DEVNULL)
    path = tmp_path / "p.json"
    path.write_text('{"Version": "2020-12-01", "Steps": []}')
    for words in (["run", "--definition", path], ["status", "--pipeline", "p"], ["stop", "--pipeline", "p"]):
        command = [*prefix, *command_line(*words, "--home", home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode in (1, 2), done.stdout) == (True, ""), words
        assert said.format(home=home) in done.stderr or words[0] != "run"  # others may find nothing there
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 2


def test_an_object_is_whole_or_not_there_and_uris_stay_within_the_storage(tmp_path: Path) -> None:
    storage = Storage(State(tmp_path))
    storage.write("s3://b/k/one", b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two").write_bytes(b"2")
    for _ in range(2):
        storage.upload(tmp_path / "in", "s3://b/k")
    assert [name for name, _ in storage.objects("s3://b/k")] == ["one", "two"]
    with pytest.raises(IsADirectoryError):
        storage.write("s3://b/k", b"a prefix")
    assert [path.name for path in (tmp_path / "s3" / "b").iterdir()] == ["k"]
    before = storage.digest("s3://b/k")
    storage.write("s3://b/k/two", b"3")
    assert (tmp_path / "in" / "two").read_bytes() == b"2"
    assert storage.digest("s3://b/k") != before
    for uri in ("s3://b/../../x", "s3:///x", "file:///x", "b/x"):
        with pytest.raises(StorageError, match="is not a usable S3 URI"):
            storage.path(uri)
