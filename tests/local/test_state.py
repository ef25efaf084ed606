"""state.db: shared by processes that come and go as they like, and refused in one sentence where it cannot be."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.local.store.state import State
from tests.local.samples import ROOT, wait_until

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


def test_processes_that_open_a_new_home_at_the_same_instant_all_write(tmp_path):
    for attempt in range(3):  # it takes luck to hit the instant
        home, begin = tmp_path / str(attempt), time.time() + 0.7
        processes = [started(COUNT, home, number, begin) for number in range(5)]
        assert [process.communicate()[1] for process in processes] == [""] * 5
        state = State(home)
        assert state.get("Shared", "count") == {"count": 125}
        assert len(state.all("Own")) == 5


def test_what_a_killed_process_had_not_finished_is_not_there_and_blocks_nobody(tmp_path):
    process = started(HANG_IN_A_TRANSACTION, tmp_path)
    wait_until((tmp_path / "ready").exists)
    reader = State(tmp_path)
    assert reader.get("Kind", "within") is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reader.put("Kind", "after", {})
    assert reader.get("Kind", "before") == reader.get("Kind", "after") == {}
    assert reader.get("Kind", "within") is None


def test_a_transaction_within_another_is_part_of_it(tmp_path):
    state = State(tmp_path)
    with pytest.raises(ZeroDivisionError), state.transaction():
        with state.transaction():
            state.put("Kind", "inner", {})
        state.change("Kind", "inner", lambda document: document.update(a=1))
        raise ZeroDivisionError
    assert state.all("Kind") == []
    state.put("Kind", "next", {})
    assert State(tmp_path).all("Kind") == [{}]


def test_replacing_a_document_keeps_its_place(tmp_path):
    state = State(tmp_path)
    for name in ("a", "b"):
        state.put("Kind", name, {"name": name})
    state.put("Kind", "a", {"name": "a", "again": True})
    assert state.all("Kind") == [{"name": "a", "again": True}, {"name": "b"}]


def test_a_missing_document_cannot_be_changed(tmp_path):
    with pytest.raises(KeyError, match="nobody"):
        State(tmp_path).change("Kind", "nobody", lambda document: None)


def test_a_step_that_is_started_anew_comes_after_those_that_stayed(tmp_path):
    state = State(tmp_path)
    for name in "ABCD":
        state.put_step("execution", {"StepName": name})
    for name in "BC":
        state.delete_step("execution", name)
    state.put_step("execution", {"StepName": "B"})
    assert [step["StepName"] for step in state.steps("execution")] == ["A", "D", "B"]


def refusal(home: Path) -> str:
    with pytest.raises(UsageError) as caught:
        State(home)
    return str(caught.value)


def test_a_home_that_is_a_file_is_refused(tmp_path):
    home = tmp_path / "notes.txt"
    home.write_text("mine")
    assert refusal(home) == f"{home} is not a folder; choose another place by --home."
    below = home / "home"
    assert refusal(below) == f"{below} cannot be written (Not a directory); choose another by --home."


def test_a_state_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "state.db").write_text("something else " * 100)
    place = tmp_path / "state.db"
    assert refusal(tmp_path) == (
        f"{place} cannot be used (file is not a database); remove it to start anew, or choose another --home."
    )


def test_the_state_of_another_release_is_refused(tmp_path):
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("PRAGMA user_version=7")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'state.db'} cannot be used (it was made by another release: version 7, not 1); "
        "remove it to start anew, or choose another --home."
    )
