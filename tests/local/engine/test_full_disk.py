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

FILL = """
def fill(path):
    try:
        with open(path, "ab", buffering=0) as stream:
            for size in (65536, 512):
                while stream.write(bytes(size)) == size:
                    pass
    except OSError:
        pass
"""
DRIVER = f"""
import json, shutil, subprocess, sys
from pathlib import Path
{FILL}
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", sys.argv[1]], check=True)
disk, answers = Path(sys.argv[1]), []
shutil.copytree(disk.parent / "home", disk / "home")
for words in json.loads(sys.argv[2]):
    if words == "more": subprocess.run(["mount", "-o", "remount,size=99m", str(disk)], check=True)
    elif words == "drain":
        (disk / "home/state.reserve").unlink()
        fill(disk / "ballast")
    else:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=50)
        answers.append([done.returncode, done.stdout, done.stderr])
print(json.dumps([answers, [path.read_text() for path in disk.glob("home/executions/*.log")]]))
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").mkdir()
    return Lab(tmp_path)  # whose home is copied to the disk


def on_disk(lab: Lab, steps: list[dict[str, Any]], *commands: str) -> list[tuple[int, str, str]]:
    """Run commands on a definition, the disk filled or enlarged in between: status, output and error of each."""
    disk, path = lab.folder / "disk", lab.folder / "pipe.json"
    path.write_text(json.dumps(definition(*steps)))
    words: list[Any] = []
    for command in commands:
        verb, *options = command.split()
        which = ["--definition", str(path)] if verb == "run" else ["--pipeline", "pipe"]
        program = [str(ROOT / "run_pipeline.py"), verb, "--home", str(disk / "home"), *which, *options]
        words.append(verb if verb in ("more", "drain") else program)
    command = ["unshare", "-rm", sys.executable, "-c", DRIVER, str(disk), json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=lab.folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    return [tuple(answer) for answer in json.loads(done.stdout)[0]]


def test_a_step_that_meets_a_full_disk_fails_with_that_reason_and_retry_goes_on(lab: Lab) -> None:
    reads = python_step("Reads", "pass", depends_on=["Fills"])
    source = {"S3Uri": "s3://b/in", "LocalPath": "/opt/ml/processing/i", "S3DataType": "S3Prefix"}
    lab.put("s3://b/in/a", bytes(2_500_000))
    reads["Arguments"]["ProcessingInputs"] = [{"InputName": "i", "S3Input": source}]
    steps = [python_step("Fills", f"{FILL}\nfill('/opt/ml/ballast')"), reads]
    run, status, summary, again = on_disk(
        lab, steps, "run --json", "status --json", "status", "more", "retry --json"
    )  # fmt: skip
    assert run[0] == 1
    for said in (run, status):
        fills, reads = json.loads(said[1])["steps"]
        assert (fills["status"], reads["status"]) == ("Succeeded", "Failed")
        assert f"The disk {lab.folder}/disk, on which {lab.folder}/disk/home lies, is full" in reads["failure_reason"]
    assert "Reads failed: " in summary[1]
    assert "retry" in summary[1]
    assert [row["status"] for row in json.loads(again[1])["steps"]] == ["Succeeded", "Succeeded"]


def test_without_any_room_every_command_says_what_is_missing(lab: Lab) -> None:
    other = f"run --home {lab.folder}/disk/other"
    commands = ("run", "drain", "status", "run", "stop", other, "more", "run")
    first, *refused, again = on_disk(lab, [python_step("One", "pass")], *commands)
    assert (first[0], again[0]) == (0, 0)
    for code, out, error in refused:
        assert (code, out) == (1, "")
        assert f"The disk {lab.folder}/disk, on which {lab.folder}/disk/" in error
        assert "is full (0 of 8 MB free); make room there" in error


@pytest.mark.parametrize("kind", ["step", "search"])
def test_a_job_that_fills_the_disk_itself_fails_with_that_reason_too(lab: Lab, kind: str) -> None:
    write = "import os\nopen('/opt/ml/{}', 'wb').write(os.urandom({}))\nprint('score=1')"
    ranges = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
    search = lab.tuning("Greedy", write.format("model/m", 1_500_000), ranges, jobs=6)
    step = search if kind == "search" else python_step("Greedy", write.format("ballast", 20_000_000))
    run, again = on_disk(lab, [step], "run --json", "more", "retry --json")
    assert f"The disk {lab.folder}/disk, on which" in json.loads(run[1])["steps"][0]["failure_reason"]
    assert json.loads(again[1])["status"] == "Succeeded"
