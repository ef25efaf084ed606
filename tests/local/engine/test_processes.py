"""Executions as processes: several at once, ended or suspended at any moment by anybody; afterwards they go on."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.runner_process import LOST, lock_path, runner_pid
from pipeline.local.sagemaker.session import local_session
from tests.local.engine.conftest import Home
from tests.local.lab import ROLE, call
from tests.local.samples import command_line, definition, model_archive, processes_of, run_cli, wait_until

Json = dict[str, Any]
SLOW = "First | Second < First | Waits~ < Second | Last < Waits"
ALL = ["First", "Second", "Waits", "Last"]
ENDED_HERE = {"First": "Succeeded", "Second": "Succeeded", "Waits": "Stopped"}
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


def waiting_without_command(home: Home) -> str:
    """An execution that no command follows, while its third step runs."""
    home.define(*home.flow(SLOW))
    arn = home.start()
    wait_until(lambda: home.ran[-1:] == ["Waits"])
    return arn


def newest(home: Home) -> str:
    """The ARN of the newest execution."""
    return str(home.state.executions()[0]["PipelineExecutionArn"])


def signal_runner(home: Home, number: signal.Signals) -> None:
    """Signal the runner of the newest execution."""
    pid = runner_pid(lock_path(home.state, newest(home)))
    assert pid
    os.kill(pid, number)


def stopped_by_command(home: Home) -> bool:
    """Whether `stop` comes to its end and says that the execution is stopped."""
    done = run_cli("stop", "--json", "--home", home.home, "--pipeline", "pipe")
    return (done.returncode, json.loads(done.stdout)["status"]) == (0, "Stopped")


def refused_at_once(act: Callable[[], Any]) -> int:
    """Do the same four times at once; how many were refused."""
    with ThreadPoolExecutor(4) as pool:
        problems = [done.exception() for done in [pool.submit(act) for _ in range(4)]]
    assert all(problem is None or isinstance(problem, ClientError) for problem in problems)
    return len(list(filter(None, problems)))


def all_gone(home: Home) -> None:
    """Nothing of the home runs any more, though nobody has looked."""
    wait_until(lambda: not processes_of(home.folder), seconds=5)


@pytest.mark.parametrize("killed", ["command", "runner"])
def test_kill_9_of_command_or_runner_ends_everything_and_retry_goes_on(home: Home, killed: str) -> None:
    process = waiting(home)
    if killed == "command":
        process.kill()
        process.communicate()
        all_gone(home)
    else:
        signal_runner(home, signal.SIGKILL)
        out, _ = process.communicate(timeout=10)
        assert process.returncode == 1
        assert f"Waits failed: {LOST}" in out
        assert "retry --home" in out
    arn = newest(home)
    step = home.steps(arn)["Waits"]
    name = step["Metadata"]["ProcessingJob"]["Arn"].split("/")[1]
    job = home.sagemaker.describe_processing_job(ProcessingJobName=name)
    assert (step["StepStatus"], job["ProcessingJobStatus"]) == ("Failed", "Failed")
    assert {home.described(arn)["FailureReason"], step["FailureReason"], job["FailureReason"]} == {LOST}
    assert {"EndTime", "ProcessingEndTime"} < {*step, *job}
    home.go()
    done = run_cli("retry", "--json", "--home", home.home, "--pipeline", "pipe")
    assert (done.returncode, home.statuses(arn)) == (0, dict.fromkeys(ALL, "Succeeded"))
    assert home.ran == ["First", "Second", "Waits", "Waits", "Last"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, "Failed"), (signal.SIGINT, "Stopped")])
@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.4, 0.55])
def test_a_signal_to_the_command_at_any_moment_leaves_a_readable_execution(
    home: Home, seconds: float, number: int, status: str
) -> None:
    process = started(home)
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate(timeout=15)
    all_gone(home)
    if not home.home.exists() or not home.state.executions():  # it had not come as far
        return
    arn = newest(home)
    assert home.ended(arn) == status
    before = [name for name, status in home.statuses(arn).items() if status == "Succeeded"]
    home.go()
    assert home.retry(arn) == "Succeeded"
    assert home.statuses(arn) == dict.fromkeys(ALL, "Succeeded")
    assert all(home.ran.count(name) == 1 for name in before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_stops_its_execution_and_no_other(home: Home, number: int) -> None:
    stays = waiting(home, "other")
    goes = waiting(home)
    goes.send_signal(number)
    out, error = goes.communicate(timeout=10)
    assert (goes.returncode, "Stopped" in out, "Stopping ..." in error) == (1, True, True)
    assert (home.status(newest(home)), home.statuses(newest(home))) == ("Stopped", ENDED_HERE)
    home.go()
    stays.communicate(timeout=10)
    assert stays.returncode == 0


def test_a_job_that_left_the_process_group_is_ended_by_the_next_look(home: Home) -> None:
    home.define(home.noting("Leaver", "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(600)"))
    arn = home.start()
    wait_until(lambda: home.ran[:1] == ["Leaver"])
    time.sleep(0.1)
    signal_runner(home, signal.SIGKILL)
    assert home.ended(arn) == "Failed"
    wait_until(lambda: len(processes_of(home.folder)) <= 1, seconds=5)  # the runner itself, until it is waited for


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "Stopped"), (signal.SIGKILL, "Failed")])
def test_a_transform_ends_with_its_server(home: Home, number: int, status: str) -> None:
    model = home.put("s3://b/model.tar.gz", model_archive("slow"))
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": home.put("s3://b/in/a", b"sleep 20")}}
    container = {"Image": "i", "ModelDataUrl": model, "Environment": {"SAGEMAKER_PROGRAM": "serve.py"}}
    request = {
        "ModelName": {"Get": "Steps.Model.ModelName"},
        "TransformInput": {"DataSource": source},
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    }
    create = {"Name": "Model", "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}}
    process = started(home, create, {"Name": "Transform", "Type": "Transform", "Arguments": request})
    wait_until(lambda: list(home.home.glob("jobs/*/server/**/name.txt")) and len(processes_of(home.folder)) >= 3)
    process.send_signal(number)
    process.communicate(timeout=10)
    arn = newest(home)
    assert home.ended(arn) == status
    all_gone(home)
    assert home.statuses(arn)["Transform"] == status
    assert [job["TransformJobStatus"] for job in home.state.all("TransformJob")] == [status]


def test_kill_9_of_a_searchs_runner_ends_its_trials_and_their_records(home: Home) -> None:
    step = home.tuning("Tune", "import time\nprint('score=1', flush=True)\ntime.sleep(60)", RANGES, jobs=4)
    step["Arguments"]["HyperParameterTuningJobName"] = "own"
    process = started(home, step)
    wait_until(lambda: len(home.state.all("TrainingJob")) == 2)
    process.kill()
    process.communicate()
    assert home.ended(newest(home)) == "Failed"
    all_gone(home)
    trials = home.state.all("TrainingJob")
    assert {(trial["TrainingJobStatus"], trial["FailureReason"]) for trial in trials} == {("Failed", LOST)}
    [search] = home.state.all("HyperParameterTuningJob")
    assert search["HyperParameterTuningJobStatus"] == "Failed"
    assert search["HyperParameterTuningJobName"].startswith("own-")


def test_a_suspended_runner_is_stopped_and_one_that_is_suspended_again_is_killed(home: Home) -> None:
    arn = waiting_without_command(home)
    signal_runner(home, signal.SIGSTOP)
    assert {home.status(arn) for _ in range(5)} == {"Executing"}
    assert stopped_by_command(home)
    assert home.statuses(arn) == ENDED_HERE
    home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn)
    wait_until(lambda: home.ran.count("Waits") == 2)
    signal_runner(home, signal.SIGSTOP)
    home.stop(arn)
    home.state.update_execution(arn, StopTime=time.time() - 20)  # it has had its time
    assert home.ended(arn) == "Stopped"
    assert home.statuses(arn) == ENDED_HERE
    home.go()
    assert home.retry(arn) == "Succeeded"


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


def test_stop_from_another_terminal_comes_right_after_the_start_too(home: Home) -> None:
    process = waiting(home)
    assert stopped_by_command(home)
    process.communicate(timeout=10)
    assert process.returncode == 1
    with pytest.raises(ClientError, match="can be stopped; this one is Stopped"):
        home.stop(newest(home))
    arn = home.start()
    home.stop(arn)
    assert home.ended(arn) == "Stopped"
    assert home.ran.count("Waits") == 1


def test_an_execution_that_starts_slowly_is_disturbed_by_nobody_and_watched_to_its_end(home: Home) -> None:
    home.define(*home.flow(SLOW))
    over = threading.Event()

    def look() -> None:
        client = local_session(home.state).client("sagemaker")
        while not over.is_set():
            client.list_pipeline_executions(PipelineName="pipe")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        arn = home.start()
        signal_runner(home, signal.SIGSTOP)
        assert {home.status(arn) for _ in range(20)} == {"Executing"}
        signal_runner(home, signal.SIGCONT)
        wait_until(lambda: home.ran[-1:] == ["Waits"], seconds=30)
    finally:
        over.set()
        thread.join()
    words = command_line("status", "--watch", "--json", "--home", home.home, "--pipeline", "pipe")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    time.sleep(0.8)
    assert process.poll() is None
    home.go()
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, json.loads(out)["status"]) == (0, "Succeeded")


def test_only_one_of_several_retries_and_creations_at_once_has_an_effect(home: Home) -> None:
    arn = waiting_without_command(home)
    with pytest.raises(ClientError, match="can be retried; this one is Executing"):
        home.retry(arn)
    signal_runner(home, signal.SIGKILL)
    assert home.ended(arn) == "Failed"
    home.go()
    assert refused_at_once(lambda: home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn)) == 3
    assert home.ended(arn) == "Succeeded"
    assert home.ran == ["First", "Second", "Waits", "Waits", "Last"]
    with pytest.raises(ClientError, match="can be retried; this one is Succeeded"):
        home.retry(arn)
    request = {"PipelineName": "same", "PipelineDefinition": json.dumps(definition()), "RoleArn": ROLE}
    assert refused_at_once(lambda: home.sagemaker.create_pipeline(**request)) == 3


def test_runs_at_once_in_a_new_home_keep_their_own_steps_and_functions(home: Home) -> None:
    processes = {}
    for name in ("left", "right", "middle"):
        code = Path(home.folder, f"{name}.py")
        code.write_text(f"def handler(event, context):\n    return {{'name': {name!r}}}\n")
        asked = call("Call", {}, {"name": "String"}, DependsOn=[name])
        steps = [asked, home.noting(name, "import time; time.sleep(1)")]
        processes[name] = started(home, *steps, name=name, options=["--json", "--lambda", f"fn={code}:handler"])
    for name, process in processes.items():
        document = json.loads(process.communicate(timeout=60)[0])
        steps = {step["name"]: step for step in document["steps"]}
        assert (document["status"], sorted(steps)) == ("Succeeded", sorted(["Call", name]))
        assert steps["Call"]["outputs"] == {"name": name}
    assert len({document["PipelineName"] for document in home.state.executions()}) == 3
