"""Executions as processes: two at once, and ended at any moment by anybody; afterwards they are readable and go on."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.runner_process import lock_path, runner_pid
from pipeline.local.engine.settlement import LOST
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.local_target import LocalTarget
from pipeline.status import status as status_document
from tests.local.samples import (
    command_line,
    definition,
    model_archive,
    processes_of,
    python_step,
    run_cli,
    status_of,
    statuses,
    wait_until,
)

Json = dict[str, Any]


@pytest.fixture
def home(tmp_path) -> Iterator[Path]:
    """A home; whatever a test did, nothing of it runs afterwards."""
    yield tmp_path / "home"
    wait_until(lambda: not processes_of(tmp_path), seconds=5)


@pytest.fixture
def slow(tmp_path) -> Path:
    """Two quick steps, one that lasts until the file `go` is there, one after it; each writes a line when it runs."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    note = f"open({str(ran)!r}, 'a').write"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    return written(
        tmp_path / "slow.json",
        definition(
            python_step("First", f"{note}('First\\n')"),
            python_step("Second", f"{note}('Second\\n')", depends_on=["First"]),
            python_step("Waits", f"{note}('Waits\\n')\n{wait}", depends_on=["Second"]),
            python_step("Last", f"{note}('Last\\n')", depends_on=["Waits"]),
        ),
    )


def written(path: Path, content: Json) -> Path:
    path.write_text(json.dumps(content))
    return path


def runs_of(folder: Path) -> list[str]:
    """The steps that ran, in that order."""
    return (folder / "ran").read_text().split() if (folder / "ran").is_file() else []


def started(*words: object) -> subprocess.Popen[str]:
    """run_pipeline.py as somebody's process."""
    return subprocess.Popen(command_line(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waiting(home: Path, slow: Path) -> subprocess.Popen[str]:
    """`run`, while the third step runs."""
    process = started("run", "--definition", slow, "--home", home)
    wait_until(lambda: runs_of(slow.parent)[-1:] == ["Waits"])
    return process


def runner_of(home: Path) -> int:
    """The process that runs the home's newest execution."""
    state = State(home)
    pid = runner_pid(lock_path(state, state.executions()[0]["PipelineExecutionArn"]))
    assert pid
    return pid


def client(home: Path) -> Any:
    return local_session(State(home)).client("sagemaker")


def put(home: Path, content: Json, name: str = "pipe") -> Any:
    """A pipeline of a home."""
    found = client(home)
    found.create_pipeline(PipelineName=name, PipelineDefinition=json.dumps(content), RoleArn="role")
    return found


def status(found: Any, arn: str) -> str:
    return str(found.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"])


def document_of(home: Path) -> Json:
    """What `status --json` says of the newest execution."""
    target = LocalTarget(None, home)
    return status_document(target, target.state.executions()[0]["PipelineExecutionArn"])


def retried(home: Path) -> None:
    """Go on with the newest execution, until it ends."""
    found, arn = client(home), State(home).executions()[0]["PipelineExecutionArn"]
    found.retry_pipeline_execution(PipelineExecutionArn=arn)
    pid = runner_of(home)
    wait_until(lambda: status(found, arn) != "Executing")
    os.waitpid(pid, 0)


# ended from outside


def test_kill_9_of_the_command_ends_everything_and_retry_goes_on(home, slow):
    process = waiting(home, slow)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(home.parent), seconds=5)  # nobody has looked yet
    wait_until(lambda: document_of(home)["status"] == "Failed", seconds=1)
    document = status_of(home, "slow")
    assert document["failure_reason"] == LOST
    assert statuses(document) == {"First": "Succeeded", "Second": "Succeeded", "Waits": "Failed"}
    assert document["steps"][2]["failure_reason"] == LOST
    assert document["steps"][2]["ended"]
    (slow.parent / "go").touch()
    done = run_cli("retry", "--json", "--home", home, "--pipeline", "slow")
    assert (done.returncode, set(statuses(json.loads(done.stdout)).values())) == (0, {"Succeeded"})
    assert runs_of(slow.parent) == ["First", "Second", "Waits", "Waits", "Last"]


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.4, 0.55])
def test_kill_9_of_the_command_at_any_moment_leaves_a_readable_execution(home, slow, seconds):
    process = started("run", "--definition", slow, "--home", home)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_of(home.parent), seconds=5)
    if not State(home).executions():  # it had not come as far
        return
    wait_until(lambda: document_of(home)["status"] != "Executing", seconds=1)
    document = document_of(home)
    assert document["status"] == "Failed"
    assert set(statuses(document).values()) <= {"Succeeded", "Failed"}
    (slow.parent / "go").touch()
    retried(home)
    assert statuses(document_of(home)) == dict.fromkeys(["First", "Second", "Waits", "Last"], "Succeeded")
    before = [name for name, how in statuses(document).items() if how == "Succeeded"]
    assert all(runs_of(slow.parent).count(name) == 1 for name in before)


def test_kill_9_of_the_runner_is_told_by_the_command(home, slow):
    process = waiting(home, slow)
    os.kill(runner_of(home), signal.SIGKILL)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    assert f"Waits failed: {LOST}" in out
    assert "retry --home" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_stops_the_execution(home, slow, number):
    process = waiting(home, slow)
    process.send_signal(number)
    began = time.monotonic()
    out, error = process.communicate(timeout=10)
    assert time.monotonic() - began < 9
    assert process.returncode == 1
    assert error == "\nStopping ...\n" or "Stopping ..." in error
    assert "Stopped" in out
    assert not processes_of(home.parent)
    document = document_of(home)
    assert document["status"] == "Stopped"
    assert statuses(document) == {"First": "Succeeded", "Second": "Succeeded", "Waits": "Stopped"}
    (slow.parent / "go").touch()
    retried(home)
    assert runs_of(slow.parent) == ["First", "Second", "Waits", "Waits", "Last"]


@pytest.mark.parametrize("seconds", [0.25, 0.35, 0.5])
def test_ctrl_c_soon_after_the_start_stops_too(home, slow, seconds):
    process = started("run", "--definition", slow, "--home", home)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert process.returncode in (1, -signal.SIGINT)  # the latter while Python itself starts
    assert "Last" not in out
    wait_until(lambda: not processes_of(home.parent), seconds=5)


def test_a_job_that_left_the_process_group_is_ended_by_the_next_look(home, tmp_path):
    ready = tmp_path / "ready"
    leave = (
        f"import os, time\nif os.fork() == 0: os.setsid(); open({str(ready)!r}, 'w'); time.sleep(600)\ntime.sleep(600)"
    )
    path = written(tmp_path / "leaver.json", definition(python_step("Leaver", leave)))
    process = started("run", "--definition", path, "--home", home)
    wait_until(ready.exists)
    process.kill()
    process.communicate()
    wait_until(lambda: document_of(home)["status"] == "Failed")
    wait_until(lambda: not processes_of(home.parent), seconds=5)


def test_the_jobs_of_a_lost_execution_are_no_longer_in_progress(home, slow):
    process = waiting(home, slow)
    process.kill()
    process.communicate()
    wait_until(lambda: document_of(home)["status"] == "Failed")
    found = client(home)
    step = found.list_pipeline_execution_steps(
        PipelineExecutionArn=State(home).executions()[0]["PipelineExecutionArn"]
    )["PipelineExecutionSteps"][0]
    job = found.describe_processing_job(ProcessingJobName=step["Metadata"]["ProcessingJob"]["Arn"].split("/")[1])
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["FailureReason"] == LOST
    assert job["ProcessingEndTime"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_transform_ends_with_its_server(home, tmp_path, number):
    storage = Storage(State(home))
    storage.write("s3://b/model.tar.gz", model_archive("slow"))
    for name in ("a", "b"):
        storage.write(f"s3://b/in/{name}", b"sleep 20")
    environment = {"SAGEMAKER_PROGRAM": "serve.py"}
    container = {"Image": "i", "ModelDataUrl": "s3://b/model.tar.gz", "Environment": environment}
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}
    request = {
        "ModelName": {"Get": "Steps.Model.ModelName"},
        "TransformInput": {"DataSource": source},
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    }
    steps = [
        {"Name": "Model", "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": "role"}},
        {"Name": "Transform", "Type": "Transform", "Arguments": request},
    ]
    path = written(tmp_path / "transform.json", definition(*steps))
    process = started("run", "--definition", path, "--home", home)
    wait_until(lambda: list(home.glob("endpoints/*/*/model/name.txt")) and len(processes_of(tmp_path)) == 3)
    process.send_signal(number)
    process.communicate(timeout=10)
    wait_until(lambda: document_of(home)["status"] in ("Stopped", "Failed"))
    wait_until(lambda: not processes_of(tmp_path), seconds=3)
    assert statuses(document_of(home))["Transform"] == {signal.SIGINT: "Stopped", signal.SIGKILL: "Failed"}[number]
    [job] = State(home).all("TransformJob")
    assert job["TransformJobStatus"] == {signal.SIGINT: "Stopped", signal.SIGKILL: "Failed"}[number]


# by another command


def test_stop_from_another_terminal(home, slow):
    process = waiting(home, slow)
    done = run_cli("stop", "--json", "--home", home, "--pipeline", "slow")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "Stopped")
    process.communicate(timeout=10)
    assert process.returncode == 1
    arn = State(home).executions()[0]["PipelineExecutionArn"]
    with pytest.raises(ClientError, match="can be stopped; this one is Stopped"):
        client(home).stop_pipeline_execution(PipelineExecutionArn=arn)


def test_a_stop_right_after_the_start_is_not_lost(home, slow):
    found = put(home, json.loads(slow.read_text()))
    for _ in range(3):
        arn = found.start_pipeline_execution(PipelineName="pipe")["PipelineExecutionArn"]
        found.stop_pipeline_execution(PipelineExecutionArn=arn)
        wait_until(lambda arn=arn: status(found, arn) == "Stopped", seconds=5)
    assert "Waits" not in runs_of(slow.parent)


def test_an_execution_whose_runner_is_slow_to_start_is_not_taken_for_lost(home, slow):
    (slow.parent / "go").touch()
    found = put(home, json.loads(slow.read_text()))
    arn = found.start_pipeline_execution(PipelineName="pipe")["PipelineExecutionArn"]
    pid = runner_of(home)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert {status(found, arn) for _ in range(20)} == {"Executing"}
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: status(found, arn) == "Succeeded")
    os.waitpid(pid, 0)


def test_many_who_look_at_a_starting_execution_do_not_disturb_it(home, slow):
    (slow.parent / "go").touch()
    found = put(home, json.loads(slow.read_text()))
    over = threading.Event()

    def look() -> None:
        mine = client(home)
        while not over.is_set():
            mine.list_pipeline_executions(PipelineName="pipe")

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        arn = found.start_pipeline_execution(PipelineName="pipe")["PipelineExecutionArn"]
        wait_until(lambda: status(found, arn) != "Executing", seconds=30)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert status(found, arn) == "Succeeded"


def test_two_retries_at_once_start_one_runner(home, slow):
    found = put(home, json.loads(slow.read_text()))
    arn = found.start_pipeline_execution(PipelineName="pipe")["PipelineExecutionArn"]
    wait_until(lambda: runs_of(slow.parent)[-1:] == ["Waits"])
    pid = runner_of(home)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: status(found, arn) == "Failed")
    (slow.parent / "go").touch()
    refusals: list[str] = []

    def retry() -> None:
        try:
            client(home).retry_pipeline_execution(PipelineExecutionArn=arn)
        except ClientError as problem:
            refusals.append(problem.response["Error"]["Message"])

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: status(found, arn) == "Succeeded")
    assert len(refusals) == 3
    assert runs_of(slow.parent) == ["First", "Second", "Waits", "Waits", "Last"]


def test_start_returns_at_once_and_status_watch_follows(home, slow):
    found = put(home, json.loads(slow.read_text()), "slow")
    found.start_pipeline_execution(PipelineName="slow")
    wait_until(lambda: runs_of(slow.parent)[-1:] == ["Waits"])
    process = started("status", "--watch", "--json", "--home", home, "--pipeline", "slow")
    time.sleep(0.8)
    assert process.poll() is None
    (slow.parent / "go").touch()
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(out)["status"] == "Succeeded"


def test_an_execution_that_is_still_running_or_went_well_cannot_be_retried(home, slow):
    process = waiting(home, slow)
    done = run_cli("retry", "--home", home, "--pipeline", "slow")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("Only a Failed or Stopped execution can be retried; this one is Executing.\n")
    (slow.parent / "go").touch()
    process.communicate(timeout=10)
    with pytest.raises(ClientError, match="can be retried; this one is Succeeded"):
        retried(home)


def test_an_execution_that_a_fail_step_ended_cannot_be_retried(home, tmp_path):
    path = written(
        tmp_path / "judged.json",
        definition({"Name": "TooLow", "Type": "Fail", "Arguments": {"ErrorMessage": "0.4 is below 0.5"}}),
    )
    done = run_cli("run", "--definition", path, "--home", home)
    assert done.returncode == 1
    assert "TooLow failed: 0.4 is below 0.5" in done.stdout
    assert "retry" not in done.stdout
    done = run_cli("retry", "--home", home, "--pipeline", "judged")
    assert done.returncode == 1
    assert done.stderr.endswith("An execution that a Fail step ended cannot be retried; start a new one.\n")


# at the same time


def test_two_runs_at_once_in_a_new_home_both_succeed(home, tmp_path):
    paths = [
        written(tmp_path / f"{name}.json", definition(*[python_step(f"{name}{n}", "print('ran')") for n in range(4)]))
        for name in ("left", "right")
    ]
    processes = [started("run", "--json", "--definition", path, "--home", home) for path in [*paths, *paths]]
    documents = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert [document["status"] for document in documents] == ["Succeeded"] * 4
    assert len({document["execution_arn"] for document in documents}) == 4
    assert sorted(statuses(documents[0])) == ["left0", "left1", "left2", "left3"]
    assert sorted(statuses(documents[1])) == ["right0", "right1", "right2", "right3"]


def test_runs_at_once_of_definitions_of_one_name_keep_their_own_steps_and_functions(home, tmp_path):
    processes = {}
    for name in ("left", "right", "middle"):
        folder = tmp_path / name
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
        path = written(folder / "pipeline.json", definition(wait, call, python_step(name, "pass")))
        words = ["--definition", path, "--lambda", f"fn={folder / 'code.py'}:code.handler", "--home", home]
        processes[name] = started("run", "--json", *words)
    for name, process in processes.items():
        document = json.loads(process.communicate(timeout=60)[0])
        steps = {step["name"]: step for step in document["steps"]}
        assert document["status"] == "Succeeded"
        assert sorted(steps) == sorted(["Call", "Wait", name])
        assert steps["Call"]["outputs"] == {"name": name}


def test_one_of_two_runs_can_be_stopped_without_the_other(home, slow, tmp_path):
    other = written(tmp_path / "other.json", json.loads(slow.read_text()))
    stays = waiting(home, slow)
    (tmp_path / "ran").unlink()
    goes = waiting(home, other)
    goes.send_signal(signal.SIGINT)
    goes.communicate(timeout=10)
    assert [document["PipelineExecutionStatus"] for document in State(home).executions()] == ["Stopped", "Executing"]
    (tmp_path / "go").touch()
    stays.communicate(timeout=10)
    assert stays.returncode == 0


def test_pipelines_created_at_once_are_created_once(home):
    content = json.dumps(definition(python_step("One", "pass")))
    outcomes: list[str] = []

    def create() -> None:
        mine = client(home)
        with contextlib.suppress(ClientError):
            mine.create_pipeline(PipelineName="same", PipelineDefinition=content, RoleArn="role")
            outcomes.append("created")

    threads = [threading.Thread(target=create) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["created"]
