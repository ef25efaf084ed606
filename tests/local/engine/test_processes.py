"""Executions as processes: several at once, ended or suspended at any moment by anybody; afterwards they go on."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.runner_process import lock_path, runner_pid
from pipeline.local.engine.settlement import LOST
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.engine.conftest import Home
from tests.local.lab import ROLE, Lab
from tests.local.samples import command_line, definition, model_archive, processes_of, python_step, run_cli, wait_until

Json = dict[str, Any]
ALL = ["First", "Second", "Waits", "Last"]


def slow(home: Home) -> list[Json]:
    """Two quick steps, one that waits for the test, one after it."""
    steps = [home.noting("First"), home.noting("Second"), home.waiting("Waits"), home.noting("Last")]
    for before, step in zip(ALL, steps[1:], strict=False):
        step["DependsOn"] = [before]
    return steps


def file_of(home: Home, *steps: Json, name: str = "pipe") -> Path:
    """A definition file; of the slow steps, unless others are given."""
    path = home.folder / f"{name}.json"
    path.write_text(json.dumps(definition(*(steps or slow(home)))))
    return path


def started(*words: object) -> subprocess.Popen[str]:
    """run_pipeline.py as somebody's process."""
    return subprocess.Popen(command_line(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waiting(home: Home, name: str = "pipe") -> subprocess.Popen[str]:
    """`run`, while the third step runs."""
    process = started("run", "--definition", file_of(home, name=name), "--home", home.path)
    wait_until(lambda: home.ran[-1:] == ["Waits"])
    return process


def newest(home: Home) -> str:
    """The ARN of the newest execution."""
    return str(State(home.path).executions()[0]["PipelineExecutionArn"])


def runner_of(home: Home, arn: str | None = None) -> int:
    """The process that runs an execution, the newest unless another is named."""
    pid = runner_pid(lock_path(State(home.path), arn or newest(home)))
    assert pid
    return pid


def all_at_once(count: int, act: Callable[[], Any]) -> list[str]:
    """Do the same in threads; the messages of those that were refused."""
    refusals: list[str] = []

    def one() -> None:
        try:
            act()
        except ClientError as problem:
            refusals.append(problem.response["Error"]["Message"])

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refusals


# ended from outside


def test_kill_9_of_the_command_ends_everything_and_retry_goes_on(home: Home) -> None:
    process = waiting(home)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(home.folder), seconds=5)  # nobody has looked yet
    arn = newest(home)
    assert home.described(arn)["FailureReason"] == LOST
    step = home.steps(arn)["Waits"]
    assert (step["StepStatus"], step["FailureReason"], "EndTime" in step) == ("Failed", LOST, True)
    name = step["Metadata"]["ProcessingJob"]["Arn"].split("/")[1]
    job = home.sagemaker.describe_processing_job(ProcessingJobName=name)
    assert (job["ProcessingJobStatus"], job["FailureReason"], "ProcessingEndTime" in job) == ("Failed", LOST, True)
    home.go()
    done = run_cli("retry", "--json", "--home", home.path, "--pipeline", "pipe")
    assert (done.returncode, home.statuses(arn)) == (0, dict.fromkeys(ALL, "Succeeded"))
    assert home.ran == ["First", "Second", "Waits", "Waits", "Last"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.4, 0.55])
def test_a_signal_to_the_command_at_any_moment_leaves_a_readable_execution(
    home: Home, seconds: float, number: int
) -> None:
    process = started("run", "--definition", file_of(home), "--home", home.path)
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate(timeout=15)
    wait_until(lambda: not processes_of(home.folder), seconds=5)
    if not home.path.exists() or not State(home.path).executions():  # it had not come as far
        return
    arn = newest(home)
    assert home.ended(arn) == ("Failed" if number == signal.SIGKILL else "Stopped")
    before = [name for name, status in home.statuses(arn).items() if status == "Succeeded"]
    home.go()
    assert home.retry(arn) == "Succeeded"
    assert home.statuses(arn) == dict.fromkeys(ALL, "Succeeded")
    assert all(home.ran.count(name) == 1 for name in before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_stops_the_execution(home: Home, number: int) -> None:
    process = waiting(home)
    process.send_signal(number)
    out, error = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "Stopping ..." in error
    assert "Stopped" in out
    assert not processes_of(home.folder)
    arn = newest(home)
    assert home.status(arn) == "Stopped"
    assert home.statuses(arn) == {"First": "Succeeded", "Second": "Succeeded", "Waits": "Stopped"}


def test_kill_9_of_the_runner_is_told_by_the_command(home: Home) -> None:
    process = waiting(home)
    os.kill(runner_of(home), signal.SIGKILL)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    assert f"Waits failed: {LOST}" in out
    assert "retry --home" in out


def test_a_job_that_left_the_process_group_is_ended_by_the_next_look(home: Home) -> None:
    leaves = "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(600)\ntime.sleep(600)"
    home.put(home.noting("Leaver", leaves))
    arn = home.start()
    wait_until(lambda: home.ran == ["Leaver"])
    time.sleep(0.1)
    os.kill(runner_of(home), signal.SIGKILL)
    assert home.ended(arn) == "Failed"
    wait_until(lambda: len(processes_of(home.folder)) <= 1, seconds=5)  # the runner itself, until it is waited for


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "Stopped"), (signal.SIGKILL, "Failed")])
def test_a_transform_ends_with_its_server(home: Home, number: int, status: str) -> None:
    storage = Storage(State(home.path))
    storage.write("s3://b/model.tar.gz", model_archive("slow"))
    for name in ("a", "b"):
        storage.write(f"s3://b/in/{name}", b"sleep 20")
    environment = {"SAGEMAKER_PROGRAM": "serve.py"}
    container = {"Image": "i", "ModelDataUrl": "s3://b/model.tar.gz", "Environment": environment}
    request = {
        "ModelName": {"Get": "Steps.Model.ModelName"},
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}},
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    }
    model = {"Name": "Model", "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}}
    path = file_of(home, model, {"Name": "Transform", "Type": "Transform", "Arguments": request})
    process = started("run", "--definition", path, "--home", home.path)
    wait_until(lambda: list(home.path.glob("endpoints/**/name.txt")) and len(processes_of(home.folder)) >= 3)
    process.send_signal(number)
    process.communicate(timeout=10)
    arn = newest(home)
    assert home.ended(arn) == status
    wait_until(lambda: not processes_of(home.folder), seconds=3)
    assert home.statuses(arn)["Transform"] == status
    [job] = State(home.path).all("TransformJob")
    assert job["TransformJobStatus"] == status


# suspended or hung


def test_a_suspended_runner_is_stopped_and_one_that_hears_nothing_is_killed(home: Home) -> None:
    home.put(*slow(home))
    arn = home.start()
    wait_until(lambda: home.ran[-1:] == ["Waits"])
    os.kill(runner_of(home), signal.SIGSTOP)
    assert {home.status(arn) for _ in range(5)} == {"Executing"}
    done = run_cli("stop", "--json", "--home", home.path, "--pipeline", "pipe")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "Stopped")
    assert home.statuses(arn)["Waits"] == "Stopped"


def test_a_runner_that_does_not_answer_is_killed_with_its_jobs_and_settled(home: Home) -> None:
    home.put(*slow(home))
    arn = home.start()
    wait_until(lambda: home.ran[-1:] == ["Waits"])
    pid = runner_of(home)
    os.kill(pid, signal.SIGSTOP)
    home.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)
    os.kill(pid, signal.SIGSTOP)  # if it was quick, it has stopped; else it hears nothing any more
    State(home.path).update_execution(arn, StopTime=time.time() - 2000)  # it has had its time
    assert home.ended(arn) == "Stopped"
    assert home.statuses(arn)["Waits"] == "Stopped"
    home.go()
    assert home.retry(arn) == "Succeeded"


def test_stop_from_another_terminal_comes_right_after_the_start_too(home: Home) -> None:
    process = waiting(home)
    done = run_cli("stop", "--json", "--home", home.path, "--pipeline", "pipe")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "Stopped")
    process.communicate(timeout=10)
    assert process.returncode == 1
    with pytest.raises(ClientError, match="can be stopped; this one is Stopped"):
        home.sagemaker.stop_pipeline_execution(PipelineExecutionArn=newest(home))
    home.forget()
    for _ in range(3):
        arn = home.start()
        home.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn)
        assert home.ended(arn) == "Stopped"
    assert "Waits" not in home.ran


# looked at, retried and started at the same time


def test_an_execution_that_starts_slowly_is_disturbed_by_nobody_and_watched_to_its_end(home: Home) -> None:
    home.put(*slow(home))
    over = threading.Event()

    def look() -> None:
        client = local_session(State(home.path)).client("sagemaker")
        while not over.is_set():
            client.list_pipeline_executions(PipelineName="pipe")

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        arn = home.start()
        os.kill(runner_of(home, arn), signal.SIGSTOP)
        assert {home.status(arn) for _ in range(20)} == {"Executing"}
        os.kill(runner_of(home, arn), signal.SIGCONT)
        wait_until(lambda: home.ran[-1:] == ["Waits"], seconds=30)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    process = started("status", "--watch", "--json", "--home", home.path, "--pipeline", "pipe")
    time.sleep(0.8)
    assert process.poll() is None
    home.go()
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, json.loads(out)["status"]) == (0, "Succeeded")


def test_only_one_of_several_retries_and_creations_at_once_has_an_effect(home: Home) -> None:
    home.put(*slow(home))
    arn = home.start()
    wait_until(lambda: home.ran[-1:] == ["Waits"])
    with pytest.raises(ClientError, match="can be retried; this one is Executing"):
        home.retry(arn)
    os.kill(runner_of(home), signal.SIGKILL)
    assert home.ended(arn) == "Failed"
    home.go()
    retry = home.sagemaker.retry_pipeline_execution
    assert len(all_at_once(4, lambda: retry(PipelineExecutionArn=arn))) == 3
    assert home.ended(arn) == "Succeeded"
    assert home.ran == ["First", "Second", "Waits", "Waits", "Last"]
    with pytest.raises(ClientError, match="can be retried; this one is Succeeded"):
        home.retry(arn)
    request = {"PipelineName": "same", "PipelineDefinition": json.dumps(definition()), "RoleArn": ROLE}
    assert len(all_at_once(4, lambda: home.sagemaker.create_pipeline(**request))) == 3


def test_runs_at_once_in_a_new_home_keep_their_own_steps_and_functions(home: Home) -> None:
    processes = {}
    for name in ("left", "right", "middle"):
        folder = home.folder / name
        folder.mkdir()
        (folder / "code.py").write_text(f"def handler(event, context):\n    return {{'name': {name!r}}}\n")
        call = {
            "Name": "Call",
            "Type": "Lambda",
            "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:fn",
            "DependsOn": ["Wait"],
            "Arguments": {},
            "OutputParameters": [{"OutputName": "name", "OutputType": "String"}],
        }
        wait = python_step("Wait", "import time; time.sleep(0.3)")
        path = file_of(home, wait, call, python_step(name, "pass"), name=f"{name}/pipeline")
        words = ["--definition", path, "--lambda", f"fn={folder / 'code.py'}:code.handler", "--home", home.path]
        processes[name] = started("run", "--json", *words)
    for name, process in processes.items():
        document = json.loads(process.communicate(timeout=60)[0])
        steps = {step["name"]: step for step in document["steps"]}
        assert document["status"] == "Succeeded"
        assert sorted(steps) == sorted(["Call", "Wait", name])
        assert steps["Call"]["outputs"] == {"name": name}
    assert len({document["PipelineName"] for document in State(home.path).executions()}) == 3


def test_one_of_two_runs_can_be_stopped_without_the_other(home: Home) -> None:
    stays = waiting(home)
    home.forget()
    goes = waiting(home, "other")
    goes.send_signal(signal.SIGINT)
    goes.communicate(timeout=10)
    found = State(home.path).executions()
    assert [document["PipelineExecutionStatus"] for document in found] == ["Stopped", "Executing"]
    home.go()
    stays.communicate(timeout=10)
    assert stays.returncode == 0


def test_kill_9_of_a_searchs_runner_ends_its_trials_and_their_records(any_lab: Lab) -> None:
    code = "import pathlib, time\nprint('score=1', flush=True)\ntime.sleep(60)"
    ranges = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
    step = any_lab.tuning("Tune", code, ranges, jobs=4, parallel=2)
    step["Arguments"]["HyperParameterTuningJobName"] = "own"
    process = subprocess.Popen(any_lab.command({"Version": "2020-12-01", "Steps": [step]}), stdout=subprocess.PIPE)
    home = Home(any_lab.folder, any_lab.folder)
    wait_until(lambda: home.path.exists() and len(State(home.path).all("TrainingJob")) == 2)
    process.kill()
    process.communicate()
    assert home.ended(newest(home)) == "Failed"
    wait_until(lambda: not processes_of(home.folder), seconds=5)
    trials = State(home.path).all("TrainingJob")
    assert {(trial["TrainingJobStatus"], trial["FailureReason"]) for trial in trials} == {("Failed", LOST)}
    [search] = State(home.path).all("HyperParameterTuningJob")
    assert search["HyperParameterTuningJobStatus"] == "Failed"
    assert search["HyperParameterTuningJobName"].startswith("own-")
