"""How a job's process ends, what becomes of what it leaves running, and of what it prints."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from pipeline.local.sandbox import process
from tests.local.lab import ROOT, Json, Lab, processing_step, source
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
def test_what_a_job_leaves_running_is_ended_however_it_hides_also_when_the_runner_is_killed(
    any_lab: Lab, kind: str, isolation: str
) -> None:
    settings = {"LOCAL_ISOLATION": isolation}
    report = any_lab.run(daemons(any_lab, kind), environment=settings)
    assert report.statuses == {"Step": "Succeeded"}
    count = 2 if kind == "forked trial" else 1
    assert len(list(any_lab.home.glob("jobs/*/ml/**/twice"))) == count
    wait_until(lambda: not processes_of(any_lab.home), seconds=5)  # the runner itself is about to end
    words = any_lab.command({"Version": "2020-12-01", "Steps": [daemons(any_lab, kind, "time.sleep(60)")]})
    with subprocess.Popen(words, env={**os.environ, **settings}, stderr=subprocess.DEVNULL):
        wait_until(lambda: len(list(any_lab.home.glob("jobs/*/ml/**/twice"))) > count)
        told = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(any_lab.home)}
        (runner,) = [pid for pid, words in told.items() if b"pipeline.local.runner" in words]
        os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not processes_of(any_lab.home))


def test_a_job_is_asked_to_end_and_killed_after_the_grace_time(any_lab: Lab) -> None:
    polite = "trap 'echo ended; exit 3' TERM; echo asleep; sleep 60 & wait"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    programs = {"Polite": ["sh", "-c", polite], "Deaf": ["python3", "-c", f"{deaf}; time.sleep(60)"]}
    request = {"StoppingCondition": {"MaxRuntimeInSeconds": 5}}
    steps = [processing_step(name, words, request=request) for name, words in programs.items()]
    report = any_lab.run(*steps, environment={"LOCAL_STOP_GRACE_SECONDS": "2"})
    assert (report.log("Polite"), report.log("Deaf")) == ("asleep\nended\n", "deaf\n")
    assert ["MaxRuntimeInSeconds" in report.statuses[name] for name in programs] == [True, True], report.statuses
    assert all(report.step(name)["seconds"] < 55 for name in programs)
    assert process.GRACE_SECONDS == 120  # as the service has


def test_a_program_that_cannot_be_executed_is_named(any_lab: Lab) -> None:
    reasons = {"no-such-program": "No such file", "/etc/hostname": "Permission denied"}
    report = any_lab.run(*(processing_step(f"Step{n}", [program]) for n, program in enumerate(reasons)))
    for (program, reason), said in zip(reasons.items(), report.statuses.values(), strict=True):
        assert re.search(f"{program!r}.*{reason}", said)


def test_an_endless_line_is_handed_on_in_parts_and_shown_by_its_end(any_lab: Lab) -> None:
    code = "import sys; [sys.stdout.write('x' * 100_000) for _ in range(100)]; sys.exit('the end')"
    report = any_lab.run(any_lab.processing("Flood", code))
    reason = report.statuses["Flood"]
    assert reason.startswith("AlgorithmError") and reason.endswith("exit code: 1")
    assert len(report.log("Flood")) > 10**7
    assert len(report.stderr) < 10_000


def test_a_gigabyte_of_output_leaves_the_runners_memory_flat_and_a_log_has_an_end(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MEASURED, tmp_path], check=True, timeout=60)
    log = (tmp_path / "jobs" / "job" / "log.txt").read_bytes()
    assert len(log) < 1_200_000
    assert b"The log ends here" in log


def test_ctrl_c_that_comes_while_python_forks_is_heard(tmp_path: Path) -> None:
    # the module is asked, not a command: only here can the moment be chosen
    script = """
        import os, signal, sys
        from pathlib import Path
        from pipeline.local.sandbox.namespaces import find_mount
        os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            find_mount(Path(sys.argv[1]))
        except KeyboardInterrupt:
            print("heard")
    """
    words = [sys.executable, "-c", dedent(script), str(tmp_path)]
    asked = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (asked.stdout, asked.stderr) == ("heard\n", "")
