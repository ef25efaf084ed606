"""A home's state and storage: shared by processes that come and go, and refused in one sentence where it cannot be."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError
from tests.local.samples import ROOT, command_line, wait_until

COUNT = """
import sys, time
from pathlib import Path
from pipeline.local.store.state import State
home, number, begin = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
while time.time() < begin:
    pass
state = State(home)
state.put("Own", number, {})
with state.transaction():
    if state.get("Shared", "count") is None:
        state.put("Shared", "count", {"count": 0})
for _ in range(25):
    state.change("Shared", "count", lambda document: document.update(count=document["count"] + 1))
"""
HANG_IN_A_TRANSACTION = """
import sys, time
from pathlib import Path
from pipeline.local.store.state import State
state = State(Path(sys.argv[1]))
state.put("Kind", "before", {})
with state.transaction():
    state.put("Kind", "within", {})
    Path(sys.argv[1], "ready").touch()
    time.sleep(60)
"""


def started(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_processes_that_open_a_new_home_at_the_same_instant_all_write(tmp_path: Path) -> None:
    for attempt in range(2):  # it takes luck to hit the instant
        home, begin = tmp_path / str(attempt), time.time() + 0.7
        processes = [started(COUNT, home, number, begin) for number in range(5)]
        assert [process.communicate()[1] for process in processes] == [""] * 5
        state = State(home)
        assert state.get("Shared", "count") == {"count": 125}
        assert len(state.all("Own")) == 5


def test_what_a_killed_process_had_not_finished_is_not_there_and_blocks_nobody(tmp_path: Path) -> None:
    process = started(HANG_IN_A_TRANSACTION, tmp_path)
    wait_until((tmp_path / "ready").exists)
    reader = State(tmp_path)
    assert reader.get("Kind", "within") is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reader.put("Kind", "after", {})
    assert reader.get("Kind", "before") == reader.get("Kind", "after") == {}
    assert reader.get("Kind", "within") is None


def test_documents_keep_their_place_and_a_transaction_within_another_is_part_of_it(tmp_path: Path) -> None:
    state = State(tmp_path)
    with pytest.raises(ZeroDivisionError), state.transaction():
        with state.transaction():
            state.put("Kind", "inner", {})
        state.change("Kind", "inner", lambda document: document.update(a=1))
        raise ZeroDivisionError
    assert state.all("Kind") == []
    for name, more in (("a", {}), ("b", {}), ("a", {"again": True})):
        state.put("Kind", name, {"name": name, **more})
    assert State(tmp_path).all("Kind") == [{"name": "a", "again": True}, {"name": "b"}]
    with pytest.raises(KeyError, match="nobody"):
        state.change("Kind", "nobody", lambda document: None)
    for name in "ABCD":
        state.put_step("execution", {"StepName": name})
    for name in "BC":
        state.delete_step("execution", name)
    state.put_step("execution", {"StepName": "B"})  # started anew, it comes after those that stayed
    assert [step["StepName"] for step in state.steps("execution")] == ["A", "D", "B"]


def put_something_in(home: Path) -> None:
    """Make a home that is too large for one page of the database."""
    state = State(home)
    for number in range(200):
        state.put("Kind", str(number), {"text": "x" * 1000})
    state.close()


def given_away(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o755 if len(paths) > 1 else 0o700)
        os.chown(path, 12345, 12345)


def damaged(home: Path) -> None:
    with (home / "state.db").open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 150_000)


SPOIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda home: (shutil.rmtree(home), home.touch()), "{home} is not a folder; choose another place by"),
    "below a file": (lambda home: (shutil.rmtree(home.parent), home.parent.touch()), "{home} cannot be written (Not a"),
    "no database": (lambda home: (home / "state.db").write_text("x" * 999), "cannot be used (file is not a database);"),
    "damaged": (damaged, "{home}/state.db cannot be used (database disk image is malformed); remove it to start anew"),
    "another release's": (
        lambda home: sqlite3.connect(home / "state.db", isolation_level=None).execute("PRAGMA user_version=7"),
        "cannot be used (it was made by another release: version 7, not 1); remove it to start",
    ),
    "another user's": (given_away, "{home}"),
    "another user's file": (lambda home: given_away(home / "state.db", home), "{home}"),
}


@pytest.mark.parametrize("what", SPOIL)
def test_a_home_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    home, (spoil, said) = tmp_path / "folder" / "home", SPOIL[what]
    if "user's" in what and (os.geteuid() != 0 or not shutil.which("setpriv")):
        pytest.skip("only root can make a file another user's")
    put_something_in(home)
    spoil(home)
    as_any_user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if "user's" in what else []
    path = tmp_path / "p.json"
    path.write_text('{"Version": "2020-12-01", "Steps": []}')
    for words in (["run", "--definition", path], ["status", "--pipeline", "p"], ["stop", "--pipeline", "p"]):
        command = [*as_any_user, *command_line(*words, "--home", home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode in (1, 2), done.stdout) == (True, ""), words
        assert said.format(home=home) in done.stderr or words[0] != "run"  # others may find nothing there
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 2


def test_a_state_that_another_process_holds_is_waited_for_and_then_said(tmp_path: Path) -> None:
    process = started(HANG_IN_A_TRANSACTION, tmp_path)
    wait_until((tmp_path / "ready").exists)
    state = State(tmp_path)
    state.connection.execute("PRAGMA busy_timeout=100")
    with pytest.raises(UsageError, match=r"cannot be used \(database is locked\); end the process that holds it"):
        state.put("Kind", "waits", {})
    process.kill()
    process.communicate()


def test_an_object_is_whole_or_not_there_and_uris_stay_within_the_storage(tmp_path: Path) -> None:
    storage = Storage(State(tmp_path))
    storage.write("s3://b/k/one", b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two").write_bytes(b"2")
    storage.upload(tmp_path / "in", "s3://b/k")
    storage.upload(tmp_path / "in", "s3://b/k")  # the same again
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
