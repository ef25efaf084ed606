"""A full disk, on a tmpfs in a namespace of its own: said in a sentence, recorded, and over once there is room."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local.lab import Lab
from tests.local.samples import ROOT, definition, python_step

CANNOT = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0
pytestmark = pytest.mark.skipif(CANNOT, reason="this machine does not let users mount a tmpfs")

DRIVER = """
import json, shutil, subprocess, sys
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", sys.argv[1]], check=True)
disk, answers = Path(sys.argv[1]), []
def fill():
    with open(disk / "ballast", "ab", buffering=0) as stream:
        try:
            for size in (65536, 512):
                while stream.write(bytes(size)) == size:
                    pass
        except OSError:
            pass
def empty():
    for ballast in disk.rglob("ballast"):
        ballast.unlink()
for words in json.loads(sys.argv[2]):
    if words == "empty": empty()
    elif words == "more": subprocess.run(["mount", "-o", "remount,size=99m", str(disk)], check=True)
    elif words == "drain":
        (disk / "home/state.reserve").unlink()
        fill()
    elif words == "seed":
        shutil.copytree(disk.parent / "home", disk / "home")
    else:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=50)
        answers.append([done.returncode, done.stdout, done.stderr])
logs = [path.read_text() for path in disk.glob("home/executions/*.log")]
print(json.dumps([answers, logs]))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where the small disk is mounted."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def on_disk(disk: Path, *commands: Any) -> tuple[list[list[Any]], str]:
    """Run commands, fill or empty the disk between them; (status, output, error) of each, and the runners' logs."""
    program, home = str(ROOT / "run_pipeline.py"), ["--home", str(disk / "home")]
    words = [
        c if c in ("drain", "empty", "more", "seed") else [program, str(c[0]), *home, *map(str, c[1:])]
        for c in commands
    ]
    command = ["unshare", "-rm", sys.executable, "-c", DRIVER, str(disk), json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=disk.parent)
    assert done.returncode == 0, done.stderr
    answers, logs = json.loads(done.stdout)
    assert not any("Traceback" in text for answer in answers for text in answer[1:]), answers
    assert not any("Traceback" in log for log in logs), logs
    return answers, "".join(logs)


FILL = """
try:
    with open("/opt/ml/ballast", "ab", buffering=0) as stream:
        for size in (65536, 512):
            while stream.write(bytes(size)) == size:
                pass
except OSError:
    pass
"""


def written(disk: Path, *steps: dict[str, Any]) -> Path:
    path = disk.parent / "pipe.json"
    path.write_text(json.dumps(definition(*steps)))
    return path


def test_a_step_that_meets_a_full_disk_fails_with_that_reason_and_retry_goes_on(disk: Path) -> None:
    reads = python_step("Reads", "pass", depends_on=["Fills"])
    source = {"S3Uri": "s3://b/in", "LocalPath": "/opt/ml/processing/i", "S3DataType": "S3Prefix"}
    Lab(disk.parent).put("s3://b/in/a", bytes(2_500_000))
    reads["Arguments"]["ProcessingInputs"] = [{"InputName": "i", "S3Input": source}]
    path = written(disk, python_step("Fills", FILL), reads)
    (run, status, summary, again), logs = on_disk(
        disk,
        "seed",
        ["run", "--json", "--definition", path],
        ["status", "--json", "--pipeline", "pipe"],
        ["status", "--pipeline", "pipe"],
        "empty",
        ["retry", "--json", "--pipeline", "pipe"],
    )
    assert run[0] == 1
    for said in (run, status):
        rows = {row["name"]: row for row in json.loads(said[1])["steps"]}
        assert (rows["Fills"]["status"], rows["Reads"]["status"]) == ("Succeeded", "Failed")
        reason = rows["Reads"]["failure_reason"]
        assert f"The disk {disk}, on which {disk / 'home'} lies, is full" in reason
    assert "Reads failed: " in summary[1]
    assert again[0] == 0, again
    assert {row["status"] for row in json.loads(again[1])["steps"]} == {"Succeeded"}
    assert "No space" not in logs


def test_without_any_room_status_answers_and_what_would_write_says_what_is_missing(disk: Path) -> None:
    path = written(disk, python_step("One", "pass"))
    (_, status, *refused, again), _ = on_disk(
        disk,
        ["run", "--definition", path],
        "drain",
        ["status", "--json", "--pipeline", "pipe"],
        ["run", "--definition", path],
        ["run", "--json", "--definition", path, "--home", str(disk / "other")],
        ["stop", "--pipeline", "pipe"],
        "empty",
        ["run", "--definition", path],
    )
    assert (status[0], json.loads(status[1])["status"]) == (0, "Succeeded")
    for code, out, error in refused:
        assert (code, out) == (1, "")
        assert f"The disk {disk}, on which {disk}/" in error
        assert "is full (0 of 8 MB free); make room there" in error
    assert again[0] == 0


def test_a_job_that_fills_the_disk_itself_is_told_so_too(disk: Path) -> None:
    path = written(disk, python_step("Greedy", "open('/opt/ml/ballast', 'wb').write(bytes(20_000_000))"))
    (run, status), _ = on_disk(disk, ["run", "--json", "--definition", path], ["status", "--pipeline", "pipe"])
    (row,) = json.loads(run[1])["steps"]
    assert row["status"] == "Failed"
    assert f"The disk {disk}, on which" in row["failure_reason"]
    assert "retry" in status[1]


def test_a_search_whose_trials_have_no_room_fails_with_that_reason(disk: Path) -> None:
    code = "import os\nopen('/opt/ml/model/m', 'wb').write(os.urandom(1500000))\nprint('score=1')"
    ranges = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
    path = written(disk, Lab(disk.parent).tuning("Tune", code, ranges, jobs=6))
    (run, again), _ = on_disk(
        disk,
        "seed",
        ["run", "--json", "--definition", path],
        "more",
        ["retry", "--json", "--pipeline", "pipe"],
    )
    (row,) = json.loads(run[1])["steps"]
    assert row["failure_reason"].startswith(f"InternalServerError: The disk {disk}, on which")
    assert [row["status"] for row in json.loads(again[1])["steps"]] == ["Succeeded"]
