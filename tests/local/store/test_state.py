"""A home's state and storage: shared by processes that come and go, and refused in one sentence where it cannot be."""

import json
import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError
from tests.local.lab import Json
from tests.local.samples import command_line, wait_until

SPOILT = Path(__file__).parent / "cases/spoilt.json"
PROCESSES = multiprocessing.get_context("spawn")


def count(home: Path, own: int, begin: Any) -> None:
    """Open a home at the same instant as others, and count with them."""
    begin.wait()
    state = State(home)
    state.put("Own", str(own), {})
    with state.transaction():
        if state.get("Shared", "count") is None:
            state.put("Shared", "count", {"count": 0})
    for _ in range(25):
        state.change("Shared", "count", lambda document: document.update(count=document["count"] + 1))


def hang_in_a_transaction(home: Path) -> None:
    state = State(home)
    state.put("Kind", "before", {})
    with state.transaction():
        state.put("Kind", "within", {})
        (home / "ready").touch()
        time.sleep(60)


def test_processes_that_open_a_new_home_at_the_same_instant_all_write(tmp_path: Path) -> None:
    for attempt in "12":  # it takes luck to hit the instant
        begin = PROCESSES.Barrier(5)
        processes = [PROCESSES.Process(target=count, args=(tmp_path / attempt, n, begin)) for n in range(5)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        state = State(tmp_path / attempt)
        assert (state.get("Shared", "count"), len(state.all("Own"))) == ({"count": 125}, 5)


def test_what_a_process_had_not_finished_is_waited_for_and_gone_when_it_is_killed(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=hang_in_a_transaction, args=(tmp_path,))
    process.start()
    wait_until((tmp_path / "ready").exists)
    state = State(tmp_path)
    assert state.get("Kind", "within") is None
    state.connection.execute("PRAGMA busy_timeout=100")
    with pytest.raises(UsageError, match=r"cannot be used \(database is locked\); end the process that holds it"):
        state.put("Kind", "waits", {})
    process.kill()
    process.join()
    state.put("Kind", "after", {})
    assert [state.get("Kind", name) for name in ("before", "within", "after")] == [{}, None, {}]


@pytest.mark.parametrize("case", json.loads(SPOILT.read_text()), ids=lambda case: case["name"])
def test_a_home_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, case: Json) -> None:
    home, prefix = tmp_path / "folder" / "home", []
    if "user's" in case["name"]:
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("only root can make a file another user's")
    state = State(home)
    for number in range(200):  # too much for one page of the database
        state.put("Kind", str(number), {"text": "x" * 1000})
    state.close()
    subprocess.run(["bash", "-c", case["spoil"].format(home=home)], check=True, stderr=subprocess.DEVNULL)
    path = tmp_path / "p.json"
    path.write_text('{"Version": "2020-12-01", "Steps": []}')
    for words in (["run", "--definition", path], ["status", "--pipeline", "p"], ["stop", "--pipeline", "p"]):
        command = [*prefix, *command_line(*words, "--home", home)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode in (1, 2), done.stdout) == (True, ""), words
        assert case["said"].format(home=home) in done.stderr or words[0] != "run"  # others may find nothing there
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 2


def test_an_object_is_whole_or_not_there_and_uris_stay_within_the_storage(tmp_path: Path) -> None:
    storage = Storage(State(tmp_path))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two").write_bytes(b"2")
    for _ in range(2):
        storage.upload(tmp_path / "in", "s3://b/k")
    with pytest.raises(IsADirectoryError):
        storage.write("s3://b/k", b"a prefix")
    assert [path.name for path in (tmp_path / "s3" / "b").iterdir()] == ["k"]
    storage.write("s3://b/k/two", b"3")
    assert (tmp_path / "in" / "two").read_bytes() == b"2"  # though it was a link to it
    for uri in ("s3://b/../../x", "s3:///x", "file:///x", "b/x"):
        with pytest.raises(StorageError, match="is not a usable S3 URI"):
            storage.path(uri)
