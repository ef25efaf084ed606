"""Executions on AWS: started in part, watched, listed, explained, audited, and what is said of their models."""

import datetime
import json
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_account
import pytest
from own_account import BUCKET, IMAGE, NAME, OWN, execute, make_pipeline, make_processing_job, step
from said import Said

import describe_inputs
from pipeline.cli.reports import PREPARED, prepared_images
from pipeline.cli.runs import Start, selection
from pipeline.errors import PassingError, ServiceError, UsageError
from pipeline.service import executions
from pipeline.service.aws_target import AwsTarget
from pipeline.service.status import status

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ENDED = START + datetime.timedelta(seconds=90)
JOB, LOGS = "pipelines-abc-TrainWithDebugger-1", "/aws/sagemaker/TrainingJobs"
PROCESSING = {"Type": "Processing", "Arguments": {}}
READS = {"Environment": {"A": {"Get": "Steps.First.ProcessingJobName"}}}


@pytest.fixture
def target(client: Any, configured: Any) -> AwsTarget:
    """An account with a bucket."""
    client("s3").create_bucket(Bucket=BUCKET)
    return AwsTarget(configured(aws=OWN))


def put(client: Any, key: str, body: bytes) -> None:
    client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)


def lines(said: Said) -> list[str]:
    assert said.status == 0, said.error
    return said.out.splitlines()


def test_a_selection_reads_the_newest_execution_that_has_what_is_needed(client, target):
    asked: list[dict[str, Any]] = []
    event = "before-parameter-build.sagemaker.StartPipelineExecution"
    target.client("sagemaker").meta.events.register(event, lambda params, **rest: asked.append(dict(params)))
    steps = {"First": {}, "Second": {"Arguments": READS}, "Third": {"DependsOn": ["Second"]}}
    text = make_pipeline(client, *({"Name": name, **PROCESSING, **members} for name, members in steps.items()))
    with pytest.raises(UsageError, match="has what the chosen steps read, the values of First; run the whole pipeline"):
        selection(Start(from_step="Second"), target, NAME, text)
    source = execute(client, step("First"), step("Second", status="Failed"))
    execute(client, step("First", status="Failed"))
    selected = [{"StepName": "Second"}, {"StepName": "Third"}]
    for arguments, expected in (
        (Start(from_step="Second"), {"SourcePipelineExecutionArn": source, "SelectedSteps": selected}),
        (Start(only="Third"), {"SelectedSteps": selected[1:]}),
        (Start(), None),
    ):
        executions.start(target, NAME, {}, selection(arguments, target, NAME, text))
        assert asked[-1].get("SelectiveExecutionConfig") == expected


@pytest.mark.parametrize(("check", "is_said"), [("CheckIsNew", True), ("Other", False)])
def test_a_check_of_what_an_earlier_execution_found_registered_says_so(client, target, capsys, check, is_said):
    steps = {"First": {}, "Second": {"Arguments": READS}, check: {"Arguments": READS, "DependsOn": ["Second"]}}
    text = make_pipeline(client, *({"Name": name, **PROCESSING, **members} for name, members in steps.items()))
    source = execute(client, step("DescribeInputs")).rpartition("/")[2]
    selection(Start(from_step=check), target, NAME, text.replace("First", "DescribeInputs"))
    said = " ".join(capsys.readouterr().err.split())
    assert (f"DescribeInputs is of execution {source}: a model that was registered" in said) is is_said


def test_what_prepare_data_wrote_is_copied_and_what_is_gone_is_named(client, target):
    places = {name: f"s3://{BUCKET}/e/{name}" for name in PREPARED}
    for name in PREPARED:
        put(client, f"e/{name}/file", name.encode())
    put(client, "e/manifest/samples/0.png", b"not needed")
    make_pipeline(client)
    execution = execute(client, step("PrepareData", "ProcessingJob", make_processing_job(client, "job", places)))
    with prepared_images(target, execution) as folder:
        found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert found == {f"{name}/file": name.encode() for name in PREPARED}
    assert not folder.exists()
    client("s3").delete_object(Bucket=BUCKET, Key="e/test/file")
    gone = rf"^What execution {execution.rpartition('/')[2]} has prepared, {places['test']}, is gone; "
    with pytest.raises(ServiceError, match=gone), prepared_images(target, execution):
        pass


def prepared(client: Any, data: str, option: str) -> str:
    """Return the name of an execution whose job read those data."""
    source = {"S3Uri": f"s3://{BUCKET}/{data}", "LocalPath": "/data", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    application = {"ImageUri": IMAGE, "ContainerArguments": ["--views", option]}
    read = [{"InputName": "data", "S3Input": source}]
    job = make_processing_job(client, f"job-{data}", {}, AppSpecification=application, ProcessingInputs=read)
    ran = step("PrepareData", "ProcessingJob", job, StartTime=START, EndTime=ENDED)
    return execute(client, ran).rpartition("/")[2]


def test_executions_are_listed_and_a_step_that_ran_again_is_explained(client, target, cli):
    Path("pipeline.yaml").write_text(own_account.CONFIG)
    for number, key in enumerate(("old/a", "new/a", "same/a", "old/b", "new/b", "same/b")):
        put(client, key, b"1" if number < 3 else b"2" if number == 3 else b"3")
    make_pipeline(client, {"Name": "PrepareData", **PROCESSING, "CacheConfig": {"Enabled": True}})
    made = [prepared(client, data, option) for data, option in (("old", "1"), ("new", "2"), ("same", "2"))]
    assert sorted(line.split()[0] for line in lines(cli("list"))[1:]) == sorted(made)
    assert lines(cli("explain-cache", made[1]))[1:] == [
        f"PrepareData: ran against execution {made[0]}",
        "  AppSpecification.ContainerArguments.--views: 1 -> 2",
        "  ProcessingInputs.data.S3Input.S3Uri: 1 file changed: b",
    ]
    elsewhere = "  ProcessingInputs.data.S3Input.S3Uri: the same files at another place,"
    assert lines(cli("explain-cache", made[2]))[2].startswith(elsewhere)


@pytest.fixture
def ended(client: Any, target: AwsTarget) -> Any:
    """A function from DescribeInputs' answer and outcomes of conditions to the status of an execution of model aaa."""
    document = {"model_sha256": "aaa", "multiclass_classification_metrics": {"accuracy": {"value": 0.9}}}
    put(client, "evaluation/evaluation.json", json.dumps(document).encode())
    make_pipeline(client)

    def make(described: dict[str, str], *, accepted: str = "True", registers: str = "False") -> dict[str, Any]:
        outputs = [{"Name": name, "Value": value} for name, value in described.items()]
        job = make_processing_job(client, "job", {"evaluation": f"s3://{BUCKET}/evaluation"})
        steps = {
            "DescribeInputs": {"Lambda": {"OutputParameters": outputs}},
            "EvaluateModel": {"ProcessingJob": {"Arn": job}},
            "CheckAccuracy": {"Condition": {"Outcome": accepted}},
            "CheckIsNew": {"Condition": {"Outcome": registers}},
        }
        return status(target, execute(client, *(step(name, Metadata=found) for name, found in steps.items())))

    return make


@pytest.mark.parametrize(
    ("approval", "is_in_service", "words"),
    [
        ("Approved", True, ""),
        ("Approved", False, " It was not in service: `run_pipeline.py approve 1` deploys it."),
        ("PendingManualApproval", False, ""),
        ("Rejected", False, ""),
    ],
)
def test_the_version_that_the_model_equals_is_named(ended, register, approval, is_in_service, words):
    version = register(BUCKET, approval)
    known = {"registered": version, "registered_sha256": "aaa", "approved": "none", "champion_sha256": "none"}
    document = ended({**known, "champion": version if is_in_service else describe_inputs.NONE})
    which = "version 1" if approval == "Approved" else f"version 1 ({approval})"
    said = f"Nothing new: the model equals {NAME} {which}, so nothing was registered or deployed.{words}"
    assert document["nothing_new"] == said
    assert (document["model_package_arn"], document["model_approval_status"]) == (version, approval)


def test_the_newest_approved_version_is_named_where_a_newer_one_holds_another_model(ended, register):
    approved, newer = register(BUCKET), register(BUCKET, "Rejected")
    known = {"registered": newer, "registered_sha256": "bbb", "approved": approved, "champion_sha256": "aaa"}
    document = ended({**known, "champion": approved})
    assert document["model_package_arn"] == approved
    assert "version 1, so nothing" in document["nothing_new"]


@pytest.mark.parametrize("outcomes", [{"accepted": "False"}, {"registers": "True"}])
def test_nothing_is_said_of_a_model_that_is_refused_or_new(ended, outcomes):
    document = ended({"registered": "none", "registered_sha256": "none"}, **outcomes)
    assert (document["nothing_new"], document["model_package_arn"]) == (None, None)


def training(state: str, **members: Any) -> dict[str, Any]:
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{JOB}"
    return step("TrainWithDebugger", "TrainingJob", arn, state, StartTime=START, **members)


@pytest.fixture
def running(client: Any) -> Any:
    """An execution that runs, with a training job that has begun to print."""
    make_pipeline(client, {"Name": "TrainWithDebugger", "Type": "Training", "Arguments": {}})
    arn, logs = execute(client, training("Executing")), client("logs")
    logs.create_log_group(logGroupName=LOGS)
    for job in (JOB, f"{JOB}0"):
        logs.create_log_stream(logGroupName=LOGS, logStreamName=f"{job}/algo-1")
    backend = own_account.backend()
    record = backend.pipelines[NAME].pipeline_executions[arn]
    record.pipeline_execution_status = "Executing"
    tell(client, "reading images", "epoch=1 train_loss=1.0")
    return SimpleNamespace(record=record, steps=backend.steps_of_executions[arn])


def tell(client: Any, *printed: str, job: str = JOB) -> None:
    """What the job prints."""
    events = [{"timestamp": int(time.time() * 1000), "message": line} for line in printed]
    client("logs").put_log_events(logGroupName=LOGS, logStreamName=f"{job}/algo-1", logEvents=events)


def test_watching_shows_steps_lines_and_the_reason_as_they_come(client, running, cli, monkeypatch):
    Path("pipeline.yaml").write_text(own_account.CONFIG)
    reason = "AlgorithmError: CUDA out of memory while the third epoch was being trained, exit code: 1"

    def fail(seconds: float) -> None:
        """What happens between two looks."""
        assert seconds == 5.0
        tell(client, "epoch=2 train_loss=nan", "RuntimeError: CUDA out of memory")
        running.steps[0] = training("Failed", EndTime=ENDED, FailureReason=reason)
        running.record.pipeline_execution_status = "Failed"

    monkeypatch.setattr(executions, "time", SimpleNamespace(sleep=fail, monotonic=time.monotonic))
    said = cli("status", "--watch")
    shown, log = said.out.splitlines(), ["reading images", "epoch=1 train_loss=1.0", "epoch=2 train_loss=nan",
                                         "RuntimeError: CUDA out of memory"]  # fmt: skip
    assert [line[8:] for line in shown[: shown.index("")]] == [
        f"TrainWithDebugger    {text}" for text in ("started", *log, "Failed after 90.0 s")
    ]
    end = shown.index("TrainWithDebugger failed: AlgorithmError: CUDA out of memory while the third")
    assert shown[end + 1 : end + 7] == [
        "epoch was being trained, exit code: 1",
        f"The last lines of its log, {LOGS} {JOB}:",
        *(f"  {line}" for line in log),
    ]
    assert (said.status, said.error) == (1, "")


def test_of_a_log_the_end_of_the_jobs_own_stream_is_read(client, running, target):
    tell(client, "of another job", job=f"{JOB}0")
    assert target.last_lines(f"{LOGS} {JOB}", 1) == ["epoch=1 train_loss=1.0"]
    assert target.last_lines(LOGS, 1) == ["of another job"]
    assert target.last_lines(f"{LOGS} pipelines-none", 5) == target.last_lines("/aws/lambda/none", 5) == []


def watch() -> str:
    """Watch an execution of a target of which no more is needed than its name."""
    return executions.watch(SimpleNamespace(name="local"), "arn", lambda steps: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("throttled", [3, executions.WATCH_ATTEMPTS])
def test_watching_outlives_a_few_requests_that_are_not_answered(monkeypatch, throttled):
    answers: list[Any] = [PassingError("throttled")] * throttled + [{"PipelineExecutionStatus": "Succeeded"}]

    def describe(target: object, arn: str) -> Any:
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(executions, "describe", describe)
    monkeypatch.setattr(executions, "steps", lambda target, arn: [])
    if throttled < executions.WATCH_ATTEMPTS:
        assert watch() == "Succeeded"
    else:
        with pytest.raises(PassingError):
            watch()
    assert len(answers) == (throttled == executions.WATCH_ATTEMPTS)


def test_watching_slows_down_while_nothing_happens_and_not_on_aws(monkeypatch):
    """Looking at steps 20 times a second took a tenth of the processors from a training of minutes."""
    clock, looks = 0.0, [0.0]

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        looks.append(clock)

    def describe(target: object, arn: str) -> dict[str, str]:
        return {"PipelineExecutionStatus": "Executing" if clock < 62 else "Succeeded"}

    monkeypatch.setattr(executions, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock))
    monkeypatch.setattr(executions, "describe", describe)
    monkeypatch.setattr(executions, "steps", lambda target, arn: ["Prepare"] if clock < 60 else ["Prepare", "Train"])
    assert watch() == "Succeeded"
    waits = [later - earlier for earlier, later in pairwise(looks)]
    assert waits[0] == pytest.approx(0.05)
    assert max(waits) == pytest.approx(0.5)
    assert len([look for look in looks if 30 <= look < 60]) == pytest.approx(60, abs=2)
    assert len([look for look in looks if 60.5 <= look < 62]) == pytest.approx(30, abs=2)  # there was news
