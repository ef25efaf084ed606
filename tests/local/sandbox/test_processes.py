"""How a job's process ends, what becomes of what it leaves running, and of what it prints."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.local.sandbox import process
from pipeline.local.sandbox.process import Command, Exit, JobDirectory, JobProcess
from tests.local.lab import Json, Lab, source
from tests.local.samples import processes_of, wait_until

RANGES = {"CategoricalParameterRanges": [{"Name": "any", "Values": ["a", "b"]}]}
DAEMONS = """
    import os, subprocess, sys, time
    folder = os.environ.get("SM_MODEL_DIR") or sys.argv[1]
    sleeper = "import sys, time; open(sys.argv[1], 'w'); time.sleep(60)"
    def daemon(name):
        return [sys.executable, "-c", sleeper, f"{folder}/{name}", os.environ["MARK"]]
    subprocess.Popen(daemon("child"))
    subprocess.Popen(daemon("session"), start_new_session=True)
    subprocess.run(["sh", "-c", '"$@" & exit 0', "sh", "setsid", "env", "-i", *daemon("cleared")])
    if os.fork() == 0:  # which never becomes another program
        os.setsid()
        open(f"{folder}/forked", "w")
        time.sleep(60)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execve(sys.executable, daemon("twice"), {})
    while len(os.listdir(folder)) < 5:
        time.sleep(0.01)
    print("score=1", flush=True)
"""
MEASURED = """
import asyncio, resource, sys
from pathlib import Path
from pipeline.local.sandbox import process
process.LOG_LIMIT_BYTES = 10**6
job = process.JobProcess(process.JobDirectory(Path(sys.argv[1]), "job"),
                         process.Command(["head", "-c", "1000000000", "/dev/zero"], {}, "/opt/ml"), None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ended = asyncio.run(job.run(60, lambda line: None))
assert ended.code == 0 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
"""


def daemons(lab: Lab, kind: str, more: str = "") -> Json:
    """A step of a job that leaves all sorts of processes running, all of which have the home's path as a mark."""
    code, environment = source(DAEMONS) + more, {"MARK": str(lab.home)}
    if kind == "forked trial":
        return lab.tuning("Step", code, RANGES, jobs=2, environment=environment)
    folder = "/opt/ml/processing/output/names"
    return lab.processing("Step", code, outputs=["names"], arguments=[folder], environment=environment)


@pytest.mark.parametrize("isolation", ["on", "off"])
@pytest.mark.parametrize("kind", ["processing", "forked trial"])
def test_what_a_job_leaves_running_is_ended_however_it_hides(any_lab: Lab, kind: str, isolation: str) -> None:
    report = any_lab.run(daemons(any_lab, kind), environment={"LOCAL_ISOLATION": isolation})
    assert report.statuses == {"Step": "Succeeded"}
    assert report.step("Step")["seconds"] < 30
    assert len(list(any_lab.home.glob("jobs/*/ml/**/twice"))) == (2 if kind == "forked trial" else 1)
    assert not processes_of(any_lab.home)


@pytest.mark.parametrize("isolation", ["on", "off"])
@pytest.mark.parametrize("kind", ["processing", "forked trial"])
def test_nothing_outlives_a_runner_that_is_killed(any_lab: Lab, kind: str, isolation: str) -> None:
    words = any_lab.command({"Version": "2020-12-01", "Steps": [daemons(any_lab, kind, "time.sleep(60)")]})
    with subprocess.Popen(
        words, env={**os.environ, "LOCAL_ISOLATION": isolation}, stderr=subprocess.DEVNULL
    ) as started:
        wait_until(lambda: list(any_lab.home.glob("jobs/*/ml/**/twice")))
        told = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(any_lab.home)}
        (runner,) = [pid for pid, words in told.items() if b"pipeline.local.runner" in words]
        os.kill(runner, signal.SIGKILL)
        started.wait(30)
    wait_until(lambda: not processes_of(any_lab.home))


def run(folder: Path, words: list[str], timeout_seconds: float = 30, stop_after: float | None = None) -> list[object]:
    """The exit of a command's process, then what it handed on."""
    lines: list[object] = []
    job = JobProcess(JobDirectory(folder, "job"), Command(words, {}, "/opt/ml"), None)

    async def main() -> Exit:
        if stop_after == 0:
            job.stop()
        elif stop_after:
            asyncio.get_running_loop().call_later(stop_after, job.stop)
        return await job.run(timeout_seconds, lines.append)

    return [asyncio.run(main()), *lines]


def test_a_job_is_asked_to_end_also_before_it_has_begun_and_killed_after_the_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polite = ["sh", "-c", "trap 'echo ended; exit 3' TERM; sleep 60 & wait"]
    assert run(tmp_path, polite, stop_after=1) == [Exit(3, "stopped"), "ended"]
    assert run(tmp_path, ["sleep", "60"], stop_after=0) == [Exit(-signal.SIGTERM, "stopped")]
    assert process.GRACE_SECONDS == 120  # as the service has
    monkeypatch.setenv("LOCAL_STOP_GRACE_SECONDS", "0.3")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    words = [sys.executable, "-c", f"{deaf}; time.sleep(60)"]
    began = time.monotonic()
    assert run(tmp_path, words, 1.0) == [Exit(-signal.SIGKILL, "timeout"), "deaf"]
    assert run(tmp_path, words, stop_after=1.0) == [Exit(-signal.SIGKILL, "stopped"), "deaf"]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("program", "reason"),
    [("no-such-program", "No such file"), ("/etc/hostname", "Permission denied"), ("a\0b", "embedded null")],
)
def test_a_program_that_cannot_be_executed_is_named(tmp_path: Path, program: str, reason: str) -> None:
    with pytest.raises(process.ProgramError, match=re.escape(repr(program)) + f".*{reason}"):
        run(tmp_path, [program])


def test_an_endless_line_is_handed_on_in_parts_and_shown_by_its_end(any_lab: Lab) -> None:
    code = "import sys; [sys.stdout.write('x' * 100_000) for _ in range(100)]; sys.exit('the end')"
    report = any_lab.run(any_lab.processing("Flood", code))
    assert report.statuses["Flood"].startswith("AlgorithmError")
    assert len(report.log("Flood")) > 10**7
    assert "exit code: 1" in " ".join(report.stderr.split())
    assert len(report.stderr) < 10_000


def test_a_gigabyte_of_output_leaves_the_runners_memory_flat_and_a_log_has_an_end(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MEASURED, tmp_path], check=True, timeout=60)
    log = (tmp_path / "jobs" / "job" / "log.txt").read_bytes()
    assert len(log) < 1_200_000
    assert b"The log ends here" in log
