"""A home's state and storage: shared by processes, and refused in one sentence where they cannot be used."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError
from tests.local.lab import Json
from tests.local.samples import command_line

SPOILT = Path(__file__).parent / "cases/spoilt.json"


def test_a_transaction_of_another_is_waited_for_and_what_it_did_not_finish_is_gone(tmp_path: Path) -> None:
    holder, other = State(tmp_path), State(tmp_path)
    other.connection.execute("PRAGMA busy_timeout=100")
    with pytest.raises(ZeroDivisionError), holder.transaction():
        holder.put("Kind", "within", {})
        assert other.get("Kind", "within") is None
        with pytest.raises(UsageError, match=r"cannot be used \(database is locked\); end the process that holds it"):
            other.put("Kind", "waits", {})
        raise ZeroDivisionError
    other.put("Kind", "after", {})
    assert [holder.get("Kind", name) for name in ("within", "waits", "after")] == [None, None, {}]


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


def test_what_is_stored_is_its_own_and_uris_stay_within_the_storage(tmp_path: Path) -> None:
    storage = Storage(State(tmp_path / "home"))
    (tmp_path / "two").write_bytes(b"2")
    for _ in range(2):
        storage.upload(tmp_path / "two", "s3://b/k/two")
    with pytest.raises(IsADirectoryError):
        storage.write("s3://b/k", b"a prefix")
    storage.write("s3://b/k/two", b"3")
    assert (tmp_path / "two").read_bytes() == b"2"  # though it may have been a link to it
    for uri in ("s3://b/../../x", "s3:///x", "file:///x", "b/x"):
        with pytest.raises(StorageError, match="is not a usable S3 URI"):
            storage.path(uri)
