"""How a job's process ends, what becomes of what it leaves running, and of what it prints."""

import asyncio
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.local.sandbox import process
from pipeline.local.sandbox.process import Command, Exit, JobDirectory, JobProcess
from tests.local.lab import Lab
from tests.local.samples import processes_of, wait_until

DAEMONS = """
    import os, subprocess, sys, time
    sleeper = "import sys, time; open(sys.argv[1], 'w'); time.sleep(60)"
    folder = sys.argv[1]
    def daemon(name):
        return [sys.executable, "-c", sleeper, f"{folder}/{name}"]
    subprocess.Popen(daemon("child"))
    subprocess.Popen(daemon("session"), start_new_session=True)
    subprocess.run(["sh", "-c", '"$@" & exit 0', "sh", "setsid", "env", "-i", *daemon("cleared")])
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.environ.clear()
        os.execve(sys.executable, daemon("twice"), {})
    while len(os.listdir(folder)) < 4:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_what_a_job_leaves_running_is_ended_however_it_hides(any_lab: Lab, isolation: str) -> None:
    step = any_lab.processing("Daemons", DAEMONS, outputs=["names"], arguments=["/opt/ml/processing/output/names"])
    report = any_lab.run(step, environment={"LOCAL_ISOLATION": isolation})
    assert report.statuses == {"Daemons": "Succeeded"}
    assert report.step("Daemons")["seconds"] < 30
    assert len(list(any_lab.path("s3://bucket/out").rglob("names/*"))) == 4
    assert not processes_of(Path("/opt/ml/processing/output/names"))
    assert not processes_of(any_lab.home)


def run(folder: Path, words: list[str], timeout_seconds: float = 30, stop_after: float | None = None) -> list[object]:
    """The exit of a command's process, then what it handed on."""
    lines: list[object] = []
    job = JobProcess(JobDirectory(folder, "job"), Command(words, {}, "/opt/ml"), None)

    async def main() -> Exit:
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, job.stop)
        return await job.run(timeout_seconds, lines.append)

    return [asyncio.run(main()), *lines]


def test_a_script_that_ignores_sigterm_is_killed_after_the_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_STOP_GRACE_SECONDS", "0.3")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    words = [sys.executable, "-c", f"{deaf}; time.sleep(60)"]
    began = time.monotonic()
    assert run(tmp_path, words, 0.7) == [Exit(-signal.SIGKILL, "timeout"), "deaf"]
    assert run(tmp_path, words, stop_after=0.7) == [Exit(-signal.SIGKILL, "stopped"), "deaf"]
    assert time.monotonic() - began < 30
    assert process.GRACE_SECONDS == 120  # as the service has


def test_a_process_group_is_asked_to_end_also_before_it_has_begun(tmp_path: Path) -> None:
    words = ["sh", "-c", "trap 'echo ended; exit 3' TERM; sleep 60 & wait"]
    assert run(tmp_path, words, stop_after=0.5) == [Exit(3, "stopped"), "ended"]
    job = JobProcess(JobDirectory(tmp_path, "other"), Command(["sleep", "60"], {}, "/opt/ml"), None)
    job.stop()
    assert asyncio.run(job.run(60, print)) == Exit(-signal.SIGTERM, "stopped")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["no-such-program"], "No such file or directory"),
        (["/etc/hostname"], "Permission denied"),
        (["a\0b"], "embedded null"),
    ],
)
def test_a_program_that_cannot_be_executed_is_named(tmp_path: Path, words: list[str], reason: str) -> None:
    with pytest.raises(process.ProgramError, match=re.escape(repr(words[0])) + f".*{reason}"):
        run(tmp_path, words)


def test_an_endless_line_is_handed_on_in_parts_and_shown_by_its_end(any_lab: Lab) -> None:
    code = "import sys; [sys.stdout.write('x' * 100_000) for _ in range(100)]; sys.exit('the end')"
    report = any_lab.run(any_lab.processing("Flood", code))
    assert report.statuses["Flood"].startswith("AlgorithmError")
    assert len(report.log("Flood")) > 10**7
    shown = any_lab.run(any_lab.processing("Flood", code), options=["--no-cache"]).stderr
    assert "exit code: 1" in " ".join(shown.split())
    assert len(shown) < 10_000


def test_a_gigabyte_of_output_leaves_the_runners_memory_flat_and_a_log_has_an_end(tmp_path: Path) -> None:
    code = """
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
    done = asyncio.run(run_python(code, str(tmp_path)))
    assert done == 0
    log = (tmp_path / "jobs" / "job" / "log.txt").read_bytes()
    assert len(log) < 1_200_000
    assert b"The log ends here" in log


async def run_python(code: str, *arguments: str) -> int:
    """The exit code of a program in Python."""
    return await (await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments)).wait()


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_nothing_outlives_a_runner_that_is_killed(any_lab: Lab, isolation: str) -> None:
    step = any_lab.processing("Sleep", DAEMONS + "    time.sleep(60)", outputs=["n"], arguments=["/opt/ml/output"])
    words = any_lab.command({"Version": "2020-12-01", "Parameters": [], "Steps": [step]})
    environment = {"LOCAL_ISOLATION": isolation}

    def runner() -> int | None:
        for pid in processes_of(any_lab.home):
            if "pipeline.local.runner" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        return None

    import os
    import subprocess

    with subprocess.Popen(
        words, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        wait_until(lambda: len(list(any_lab.home.glob("jobs/*/ml/output/*"))) >= 4)
        pid = runner()
        assert pid
        os.kill(pid, signal.SIGKILL)
        started.wait(30)
    wait_until(lambda: not processes_of(any_lab.home))
