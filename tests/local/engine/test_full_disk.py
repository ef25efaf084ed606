"""A full disk, on a tmpfs in a namespace of its own: said in a sentence, recorded, and over once there is room."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.lab import ROOT, Json, Lab, s3_input
from tests.local.samples import definition, python_step

CANNOT = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0
pytestmark = pytest.mark.skipif(CANNOT, reason="this machine does not let users mount a tmpfs")

FILL = "cat /dev/zero > {} 2> /dev/null"  # the last page, too
COMMANDS = f"""
mkdir disk; mount -t tmpfs -o size=8m none disk; cp -r home disk/home
run() {{ answer run --definition pipe.json --home ${{home:-disk/home}} "$@"; }}
on() {{ answer "$@" --pipeline pipe --home disk/home; }}
answer() {{
    n=$((n + 1)); timeout 50 {sys.executable} {ROOT}/run_pipeline.py "$@" > $n.out 2> $n.err; echo $? > $n.code
}}
more() {{ mount -o remount,size=99m disk; }}
drain() {{ rm disk/home/state.reserve; {FILL.format("disk/ballast")}; }}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "home").mkdir()
    return Lab(tmp_path)  # whose home is copied to the disk


def on_disk(lab: Lab, steps: list[Json], commands: str) -> list[tuple[int, str, str]]:
    """Run commands on a definition, the disk filled or enlarged in between: status, output and error of each."""
    (lab.folder / "pipe.json").write_text(json.dumps(definition(*steps)))
    words = ["unshare", "-rm", "bash", "-c", COMMANDS + commands]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd=lab.folder)
    assert done.stderr == ""
    read = [[(lab.folder / f"{path.stem}.{end}").read_text() for end in ("code", "out", "err")]
            for path in sorted(lab.folder.glob("*.code"))]  # fmt: skip
    assert "Traceback" not in str(read)
    return [(int(code), out, error) for code, out, error in read]


def steps_of(lab: Lab, kind: str) -> list[Json]:
    """Steps of which the last meets a full disk: by its input, by what it writes, or by what its trials do."""
    write = "import os\nopen('/opt/ml/{}', 'wb').write(os.urandom({}))\nprint('score=1')"
    if kind == "search":
        ranges = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
        return [lab.tuning("Greedy", write.format("model/m", 1_500_000), ranges, jobs=6)]
    if kind == "step":
        return [python_step("Greedy", write.format("ballast", 20_000_000))]
    lab.put("s3://b/in/a", bytes(2_500_000))
    reads = python_step("Greedy", "pass", depends_on=["Fills"])
    reads["Arguments"]["ProcessingInputs"] = [s3_input("i", "s3://b/in", "/opt/ml/processing/i")]
    return [python_step("Fills", f"import os; os.system({FILL.format('/opt/ml/ballast')!r})"), reads]


@pytest.mark.parametrize("kind", ["input", "step", "search"])
def test_what_meets_a_full_disk_fails_with_that_reason_and_retry_goes_on(lab: Lab, kind: str) -> None:
    commands = "run --json; on status --json; on status; more; on retry --json"
    run, status, summary, again = on_disk(lab, steps_of(lab, kind), commands)
    assert run[0] == 1
    for said in (run, status):
        *before, failed = json.loads(said[1])["steps"]
        assert ([step["status"] for step in before], failed["status"]) == (["Succeeded"] * len(before), "Failed")
        assert f"The disk {lab.folder}/disk, on which {lab.folder}/disk/home lies, is full" in failed["failure_reason"]
    assert "Greedy failed: " in summary[1]
    assert "retry" in summary[1]
    assert {row["status"] for row in json.loads(again[1])["steps"]} == {"Succeeded"}


def test_without_any_room_every_command_says_what_is_missing(lab: Lab) -> None:
    commands = "run; drain; on status; run; on stop; home=disk/other run; more; run"
    first, *refused, again = on_disk(lab, [python_step("One", "pass")], commands)
    assert (first[0], again[0], len(refused)) == (0, 0, 4)
    for code, out, error in refused:
        assert (code, out) == (1, "")
        assert f"The disk {lab.folder}/disk, on which {lab.folder}/disk/" in error
        assert "is full (0 of 8 MB free); make room there" in error
