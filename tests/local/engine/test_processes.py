"""Executions as processes: several at once, ended or suspended at any moment by anybody; afterwards they go on."""

import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.runner_process import LOST, lock_path, runner_pid
from pipeline.local.sagemaker.session import local_session
from tests.local.engine.conftest import CASES, Home
from tests.local.lab import Json, call
from tests.local.samples import command_line, definition, model_archive, processes_of, run_cli, wait_until

SLOW = "First | Second < First | Waits~ < Second | Last < Waits"
SUCCEEDED = dict.fromkeys(["First", "Second", "Waits", "Last"], "Succeeded")
STOPPED = {"First": "Succeeded", "Second": "Succeeded", "Waits": "Stopped"}
RANGES = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}


def started(home: Home, *steps: Json, name: str = "pipe", options: Any = ()) -> subprocess.Popen[str]:
    """`run` of these steps, or of the slow ones."""
    path = home.folder / f"{name}.json"
    path.write_text(json.dumps(definition(*(steps or home.flow(SLOW)))))
    words = command_line("run", "--definition", path, "--home", home.home, *options)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waiting(home: Home, name: str = "pipe") -> subprocess.Popen[str]:
    """`run`, while the third step runs."""
    before = len(home.ran) if home.home.exists() else 0
    process = started(home, name=name)
    wait_until(lambda: home.home.exists() and home.ran[before:][2:] == ["Waits"])
    return process


def newest(home: Home) -> str:
    """The ARN of the newest execution."""
    return str(home.state.page("PipelineExecution", [])[0][1]["PipelineExecutionArn"])


def signal_runner(home: Home, number: signal.Signals) -> None:
    """Signal the runner of the newest execution."""
    pid = runner_pid(lock_path(home.state, newest(home)))
    assert pid
    os.kill(pid, number)


def all_gone(home: Home) -> None:
    """Nothing of the home runs any more, though nobody has looked."""
    wait_until(lambda: not processes_of(home.folder), seconds=5)


@pytest.mark.parametrize("killed", ["command", "runner"])
def test_kill_9_of_command_or_runner_ends_everything_and_one_retry_goes_on(home: Home, killed: str) -> None:
    process = waiting(home)
    arn = newest(home)
    with pytest.raises(ClientError, match="can be retried; this one is Executing"):
        home.retry(arn)
    process.kill() if killed == "command" else signal_runner(home, signal.SIGKILL)
    out, _ = process.communicate(timeout=10)
    all_gone(home)
    assert home.ended(arn) == "Failed"  # a process that is on its way out holds its lock a moment longer
    if killed == "runner":
        words = " ".join(out.split())
        assert (process.returncode, f"Waits failed: {LOST}" in words, "retry --home" in words) == (1, True, True)
    step = home.steps(arn)["Waits"]
    name = step["Metadata"]["ProcessingJob"]["Arn"].split("/")[1]
    job = home.sagemaker.describe_processing_job(ProcessingJobName=name)
    assert (step["StepStatus"], job["ProcessingJobStatus"]) == ("Failed", "Failed")
    assert {home.described(arn)["FailureReason"], step["FailureReason"], job["FailureReason"]} == {LOST}
    assert {"EndTime", "ProcessingEndTime"} < {*step, *job}
    home.go()
    if killed == "command":
        assert run_cli("retry", "--home", home.home, "--pipeline", "pipe").returncode == 0
    else:
        with ThreadPoolExecutor(4) as pool:
            retries = [pool.submit(home.sagemaker.retry_pipeline_execution, PipelineExecutionArn=arn) for _ in range(4)]
        assert sum(isinstance(retry.exception(), ClientError) for retry in retries) == 3
        assert home.ended(arn) == "Succeeded"
    assert (home.statuses(arn), home.ran) == (SUCCEEDED, ["First", "Second", "Waits", "Waits", "Last"])
    with pytest.raises(ClientError, match="can be retried; this one is Succeeded"):
        home.retry(arn)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0, 0.1, 0.2, 0.4])
def test_a_signal_to_the_command_at_any_moment_leaves_a_readable_execution(
    home: Home, seconds: float, number: int
) -> None:
    process = started(home)
    wait_until(home.home.exists)  # before, a signal may meet the interpreter's own start
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate(timeout=15)
    all_gone(home)
    if not home.state.count("PipelineExecution", []):  # it had not come as far
        return
    arn = newest(home)
    # Ctrl-C between the start and the first look is as a kill.
    assert home.ended(arn) == "Failed" or (number, home.status(arn)) == (signal.SIGINT, "Stopped")
    before = [name for name, status in home.statuses(arn).items() if status == "Succeeded"]
    home.go()
    assert (home.retry(arn), home.statuses(arn)) == ("Succeeded", SUCCEEDED)
    assert all(home.ran.count(name) == 1 for name in before)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, "stop"])
def test_a_signal_or_another_terminal_stops_an_execution_and_no_other(home: Home, by: Any) -> None:
    stays, goes = waiting(home, "other"), waiting(home)
    run_cli("stop", "--home", home.home, "--pipeline", "pipe") if by == "stop" else goes.send_signal(by)
    out, error = goes.communicate(timeout=10)
    assert (goes.returncode, "Stopped" in out, "Stopping ..." in error) == (1, True, by != "stop")
    assert (home.status(newest(home)), home.statuses(newest(home))) == ("Stopped", STOPPED)
    with pytest.raises(ClientError, match="can be stopped; this one is Stopped"):
        home.stop(newest(home))
    home.go()
    stays.communicate(timeout=10)
    assert stays.returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "Stopped"), (signal.SIGKILL, "Failed")])
def test_a_transform_with_its_server_and_a_search_with_its_trials_end_with_the_command(
    home: Home, number: int, status: str
) -> None:
    home.put("s3://b/model.tar.gz", model_archive("slow"))
    home.put("s3://b/in/a", b"sleep 20")
    transform = json.loads((CASES / "transform.json").read_text())
    search = home.tuning("Search", "import time\nprint('score=1', flush=True)\ntime.sleep(60)", RANGES, jobs=4)
    search["Arguments"]["HyperParameterTuningJobName"] = "own"  # by which its trials are known as well
    process = started(home, *transform, search)
    wait_until(lambda: list(home.home.glob("jobs/*/server/**/name.txt")) and len(home.state.all("TrainingJob")) == 2)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert home.ended(newest(home)) == status
    all_gone(home)
    assert home.statuses(newest(home)) == {"Model": "Succeeded", "Transform": status, "Search": status}
    kinds = ("TransformJob", "TrainingJob", "HyperParameterTuningJob")
    jobs = [(job[f"{kind}Status"], job.get("FailureReason")) for kind in kinds for job in home.state.all(kind)]
    assert set(jobs) == {(status, LOST if status == "Failed" else None)}


def test_a_suspended_runner_is_lost_to_nobody_who_looks_and_can_be_stopped(home: Home) -> None:
    home.define(*home.flow(SLOW))
    over = threading.Event()

    def look() -> None:
        client = local_session(home.state).client("sagemaker")
        while not over.is_set():
            client.list_pipeline_executions(PipelineName="pipe")

    with ThreadPoolExecutor() as pool:
        pool.submit(look)
        try:
            arn = home.start()
            signal_runner(home, signal.SIGSTOP)
            assert {home.status(arn) for _ in range(20)} == {"Executing"}
            signal_runner(home, signal.SIGCONT)
            wait_until(lambda: home.ran[-1:] == ["Waits"])
            signal_runner(home, signal.SIGSTOP)
            done = run_cli("stop", "--json", "--home", home.home, "--pipeline", "pipe")
        finally:
            over.set()
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "Stopped")
        assert home.statuses(arn) == STOPPED
        just_started = home.start()
        home.stop(just_started)
        assert (home.ended(just_started), home.ran.count("Waits")) == ("Stopped", 1)
        home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn)
        words = ("status", "--watch", "--json", "--home", home.home, "--pipeline", "pipe", arn.rpartition("/")[2])
        watch = pool.submit(run_cli, *words)
        time.sleep(0.8)
        assert not watch.done()
        home.go()
        assert (watch.result().returncode, json.loads(watch.result().stdout)["status"]) == (0, "Succeeded")


@pytest.mark.parametrize("hangs", ["before it heard", "after it heard", "never"])
def test_a_runner_that_hangs_is_killed_after_a_stop_and_one_that_waits_for_its_job_is_not(
    home: Home, hangs: str
) -> None:
    """The regular expression of a metric takes for ever on what the script prints, at once or when it is stopped."""
    endless = "print('a' * 60, flush=True)"
    code = f"import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: {endless if 'after' in hangs else None})\n"
    code += f"print('ready', flush=True)\n{endless if 'before' in hangs else ''}\nwhile True: time.sleep(0.1)"
    home.define(home.training("Train", code, metrics={"loss": "(a+)+="}))
    arn = home.start()
    wait_until(lambda: any("ready" in log.read_text() for log in home.home.glob("jobs/*/log.txt")))
    time.sleep(0.5)
    home.stop(arn)
    time.sleep(3)
    document = home.state.execution(arn) or {}
    assert (document["PipelineExecutionStatus"], "StopHeard" in document) == ("Stopping", "before" not in hangs)
    assert (time.time() - document.get("StopHeard", 0) < 2.5) == (hangs == "never")
    if hangs == "never":
        signal_runner(home, signal.SIGKILL)
    home.state.update_execution(arn, StopTime=0, StopHeard=0)  # without our patience
    assert home.ended(arn) == "Stopped"
    assert home.statuses(arn) == {"Train": "Stopped"}


def test_runs_at_once_in_a_new_home_keep_their_own_steps_and_functions(home: Home) -> None:
    processes = {}
    for name in ("left", "right", "middle"):
        (home.folder / name).mkdir()
        function = Home(home.folder / name).function(f"def handler(event, context): return {{'name': {name!r}}}")
        steps = [call("Call", {}, {"name": "String"}, DependsOn=[name]), *home.flow(f"{name}~")]
        processes[name] = started(home, *steps, name=name, options=["--json", "--lambda", function])
    wait_until(lambda: home.home.exists() and len(home.ran) == 3)
    home.go()
    for name, process in processes.items():
        document = json.loads(process.communicate(timeout=60)[0])
        outputs = {step["name"]: step.get("outputs") for step in document["steps"]}
        assert (document["status"], outputs["Call"], sorted(outputs)) == ("Succeeded", {"name": name}, ["Call", name])
