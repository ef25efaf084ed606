"""What requests leave behind: tokens that make them idempotent, the names of jobs and of pipelines."""

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.store.state import State
from tests.local.engine.conftest import Home
from tests.local.lab import ROLE, Lab, condition, get
from tests.local.samples import run_cli

X = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
MODEL = {"Image": "img", "ModelDataUrl": get("Steps.Train.ModelArtifacts.S3ModelArtifacts")}


def test_a_client_request_token_makes_a_request_idempotent(home: Home) -> None:
    home.put(home.noting("Waits", "import time; time.sleep(60)"))
    token, other = "t" * 32, "o" * 32
    arn = home.start(ClientRequestToken=token)
    assert home.start(ClientRequestToken=token) == arn
    assert len(home.sagemaker.list_pipeline_executions(PipelineName="pipe")["PipelineExecutionSummaries"]) == 1
    with pytest.raises(ClientError, match="given before, with another request") as caught:
        home.start(ClientRequestToken=token, PipelineExecutionDisplayName="else")
    assert caught.value.response["Error"]["Code"] == "ConflictException"
    for _ in range(2):
        home.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
    assert home.ended(arn) == "Stopped"
    home.put(home.noting("Waits"))
    for _ in range(2):
        retried = home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        assert retried["PipelineExecutionArn"] == arn
    home.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=other)
    assert home.ended(arn) == "Stopped"
    assert home.start(ClientRequestToken=other) != arn


def job_names(lab: Lab, step: str, execution: str) -> dict[str, Any]:
    """The records of a step's jobs, by name."""
    kinds = ("ProcessingJob", "TrainingJob", "HyperParameterTuningJob", "TransformJob", "Model")
    state = State(lab.home)
    found = {document[f"{kind}Name"]: document for kind in kinds for document in state.all(kind)}
    state.close()
    return {name: document for name, document in found.items() if step in name or execution in name}


def jobs_of_every_kind(lab: Lab) -> list[dict[str, Any]]:
    """A step of each kind that becomes a job or a model, under a name as long as a step's may be."""
    long = "_with-a-name-of-more-characters-than-a-job-may-have-of-it"
    train = lab.training("Train", "open('/opt/ml/model/m', 'w')")
    tune = lab.tuning(f"Tune{long}", "open('/opt/ml/model/m', 'w'); print('score=1')", X, jobs=1)
    model = {
        "Name": f"Model{long}",
        "Type": "Model",
        "Arguments": {"PrimaryContainer": MODEL, "ExecutionRoleArn": ROLE},
    }
    return [lab.processing(f"Prep{long}", ""), train, tune, model]


def test_jobs_are_named_as_the_service_names_them(lab: Lab) -> None:
    report = lab.run(*jobs_of_every_kind(lab))
    assert report.code == 0, report.stdout
    execution = report.document["execution_arn"].rpartition("/")[2]
    names = [name for name in job_names(lab, execution, execution) if not re.search(r"-001-\w{8}$", name)]
    assert sorted(re.sub(r"\w{10}$", "RANDOM", name.replace(execution, "ID")) for name in names) == [
        "ID-Tune-wit-RANDOM",
        "pipelines-ID-Model-with-a-name-of-RANDOM",
        "pipelines-ID-Prep-with-a-name-of-RANDOM",
        "pipelines-ID-Train-RANDOM",
    ]


def test_a_custom_prefix_begins_the_names_and_every_record_ends(lab: Lab) -> None:
    members = ("ProcessingJobName", "TrainingJobName", "HyperParameterTuningJobName", "ModelName")
    steps = jobs_of_every_kind(lab)
    for step, member in zip(steps, members, strict=True):
        step["Arguments"][member] = f"my-own-{step['Type'].lower()}-{'x' * 40 if step['Type'] == 'Training' else 'p'}"
    again = lab.run(*steps)
    reports = [lab.run(*steps), again]
    for report in reports:
        assert report.code == 0, report.stdout
        for step in steps:
            (arn,) = (value["Arn"] for value in report.record(step["Name"])["Metadata"].values())
            name = arn.rpartition("/")[2]
            document = job_names(lab, name, name)[name]
            assert name.startswith(step["Arguments"][members[steps.index(step)]][:15])
            assert len(name) <= (32 if step["Type"] == "Tuning" else 63)
            statuses = {value for member, value in document.items() if member.endswith("JobStatus")}
            assert statuses <= {"Completed"}
    assert reports[0].record("Train")["Job"] != reports[1].record("Train")["Job"]


def test_unrelated_definitions_do_not_share_a_pipeline_and_every_name_is_said(lab: Lab) -> None:
    step = lab.processing("Prep", "")
    names = {}
    for place, options, members in (
        ("a/pipe line.json", [], {}),
        ("b/pipe line.json", [], {}),
        ("a/pipe line.json", [], {}),
        ("c/x.json", ["--name", "given"], {}),
        ("c/x.json", [], {"PipelineExperimentConfig": {"ExperimentName": "of-its-own", "TrialName": "t"}}),
        ("c/x.json", [], {"PipelineExperimentConfig": {"ExperimentName": get("Execution.PipelineName")}}),
        ("c/x.json", [], {"Metadata": {"PipelineName": "said"}}),
    ):
        path = lab.folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"Version": "2020-12-01", "Steps": [step], **members}))
        done = run_cli("run", "--json", "--definition", path, "--home", lab.home, *options)
        assert done.returncode == 0, done.stderr
        (name,) = re.findall(r"Pipeline (\S+) (?:created|updated|unchanged)", done.stderr)
        assert json.loads(done.stdout)["execution_arn"].split("/")[1] == name
        names.setdefault(place, []).append(name)
    (first, again), (other,) = names["a/pipe line.json"], names["b/pipe line.json"]
    assert first == again == "pipe-line"
    assert re.fullmatch(r"pipe-line-[0-9a-f]{8}", other)
    assert names["c/x.json"] == ["given", "of-its-own", "x", "said"]
    assert run_cli("status", "--home", lab.home, "--pipeline", other).returncode == 0
    refused = run_cli("run", "--definition", path, "--home", lab.home, "--name", "no_name!")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PipelineName must be" in refused.stderr


def test_a_foreign_run_is_given_no_advice_that_only_our_own_pipeline_can_follow(lab: Lab) -> None:
    lab.put("s3://bucket/model.tar.gz", b"any")
    container = {"Image": "img", "ModelDataUrl": "s3://bucket/model.tar.gz"}
    register = {
        "Name": "Register",
        "Type": "RegisterModel",
        "Arguments": {
            "ModelPackageGroupName": "theirs",
            "InferenceSpecification": {"Containers": [container], "SupportedContentTypes": ["text/csv"]},
            "ModelApprovalStatus": "PendingManualApproval",
        },
    }
    judged = lab.processing("Eval", "open('/opt/ml/processing/output/evaluation/evaluation.json', 'w').write('{}')",
                            outputs=["evaluation"])  # fmt: skip
    path = lab.folder / "theirs.json"
    declared = [{"Name": "InputDataUri", "Type": "String", "DefaultValue": "s3://x/y"}]
    path.write_text(json.dumps({"Version": "2020-12-01", "Parameters": declared, "Steps": [judged, register]}))
    for words in (["run", "--definition", path], ["status", "--pipeline", "theirs"]):
        done = run_cli(*words, "--home", lab.home)
        assert done.returncode == 0
        assert "theirs/1  PendingManualApproval" in done.stdout
        for word in ("approve", "teardown", "invoke", "--data", "report.html", "Evaluation"):
            assert word not in done.stdout
    assert lab.run(judged).document["reports"] == {"evaluation": None, "debugger": None, "profiler": None}


def test_a_registration_is_repeated_as_on_aws_whatever_its_cacheconfig_says(lab: Lab) -> None:
    lab.put("s3://bucket/model.tar.gz", b"any")
    container = {"Image": "img", "ModelDataUrl": "s3://bucket/model.tar.gz"}
    request = {"ModelPackageGroupName": "grp", "InferenceSpecification": {"Containers": [container]}}
    step = {"Name": "Register", "Type": "RegisterModel", "Arguments": request}
    versions = [lab.run(step).properties("Register")["ModelPackageVersion"] for _ in range(2)]
    assert versions == [1, 2]
    gate = condition("Gate", [{"Type": "Equals", "LeftValue": 1, "RightValue": 1}])
    assert lab.run(gate, lab.processing("Plain", "")).reused == lab.run(gate, lab.processing("Plain", "")).reused == []
