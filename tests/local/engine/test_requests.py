"""What requests leave behind: tokens that make them idempotent, the names of jobs and of pipelines."""

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.store.state import State
from tests.local.engine.conftest import Home
from tests.local.lab import ROLE, Lab, compare, condition, get, parameter
from tests.local.samples import run_cli

X = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}
KINDS = {
    "Processing": "ProcessingJob",
    "Training": "TrainingJob",
    "Tuning": "HyperParameterTuningJob",
    "Model": "Model",
}


def test_a_client_request_token_makes_a_request_idempotent(home: Home) -> None:
    home.define(home.noting("Waits", "import time; time.sleep(60)"))
    token, other = "t" * 32, "o" * 32
    arn = home.start(ClientRequestToken=token)
    assert home.start(ClientRequestToken=token) == arn
    assert len(home.sagemaker.list_pipeline_executions(PipelineName="pipe")["PipelineExecutionSummaries"]) == 1
    with pytest.raises(ClientError, match="given before, with another request") as caught:
        home.start(ClientRequestToken=token, PipelineExecutionDisplayName="else")
    assert caught.value.response["Error"]["Code"] == "ConflictException"
    for _ in range(2):
        home.stop(arn, ClientRequestToken=token)
    assert home.ended(arn) == "Stopped"
    home.define(home.noting("Waits"))
    for _ in range(2):
        retried = home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        assert retried["PipelineExecutionArn"] == arn
    home.stop(arn, ClientRequestToken=other)
    assert home.ended(arn) == "Stopped"
    assert home.start(ClientRequestToken=other) != arn


def test_jobs_are_named_as_the_service_names_them_and_by_a_custom_prefix(lab: Lab) -> None:
    long = "_with-a-name-of-more-characters-than-a-job-may-have-of-it"
    container = {"Image": "img", "ModelDataUrl": get("Steps.Train.ModelArtifacts.S3ModelArtifacts")}
    model = {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    steps = [
        lab.processing(f"Prep{long}", ""),
        lab.training("Train", "open('/opt/ml/model/m', 'w')"),
        lab.tuning(f"Tune{long}", "open('/opt/ml/model/m', 'w'); print('score=1')", X, jobs=1),
        {"Name": f"Model{long}", "Type": "Model", "Arguments": model},
    ]
    expected = [
        "pipelines-ID-Prep-with-a-name-of-RANDOM",
        "pipelines-ID-Train-RANDOM",
        "ID-Tune-wit-RANDOM",
        "pipelines-ID-Model-with-a-name-of-RANDOM",
    ]
    seen: set[str] = set()
    for run in range(3):
        report = lab.run(*steps)
        assert report.code == 0, report.stdout
        execution = report.document["execution_arn"].rpartition("/")[2]
        for step, name in zip(steps, expected, strict=True):
            kind, request = KINDS[step["Type"]], step["Arguments"]
            (arn,) = (value["Arn"] for value in report.record(step["Name"])["Metadata"].values())
            job = State(lab.home).get(kind, arn.rpartition("/")[2])
            assert job is not None
            made = job[f"{kind}Name"]
            if run == 0:
                assert re.sub(r"\w{10}$", "RANDOM", made.replace(execution, "ID")) == name
            else:
                assert made.startswith(request[f"{kind}Name"][:15])
                assert len(made) <= (32 if step["Type"] == "Tuning" else 63)
            assert made not in seen
            seen.add(made)
            assert job.get(f"{kind}Status") in (None, "Completed")
            request[f"{kind}Name"] = f"my-own-{step['Type'].lower()}-{'x' * 40 if kind == 'TrainingJob' else 'p'}"


def test_unrelated_definitions_do_not_share_a_pipeline_and_every_name_is_said(lab: Lab) -> None:
    step = lab.processing("Prep", "")
    names: dict[str, list[str]] = {}
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


def test_a_foreign_run_is_given_no_advice_of_ours_and_registers_again_as_on_aws(lab: Lab) -> None:
    container = {"Image": "img", "ModelDataUrl": lab.put("s3://bucket/model.tar.gz", b"any")}
    request: dict[str, Any] = {
        "ModelPackageGroupName": "lab",
        "InferenceSpecification": {"Containers": [container], "SupportedContentTypes": ["text/csv"]},
        "ModelApprovalStatus": "PendingManualApproval",
    }
    write = "open('/opt/ml/processing/output/evaluation/evaluation.json', 'w').write('{}')"
    steps = [
        lab.processing("Eval", write, outputs=["evaluation"]),
        {"Name": "Register", "Type": "RegisterModel", "Arguments": request},
        condition("Gate", [compare("Equals", 1, 1)]),
    ]
    report = lab.run(*steps, parameters=[parameter("InputDataUri", "String", "s3://x/y")])
    assert report.document["reports"] == {"evaluation": None, "debugger": None, "profiler": None}
    said = [run_cli(*words, "--home", lab.home).stdout for words in (
        ["run", "--definition", lab.folder / "lab.json"], ["status", "--pipeline", "lab"]
    )]  # fmt: skip
    for output in said:
        assert "lab/2  PendingManualApproval" in output
        for word in ("approve", "teardown", "invoke", "--data", "report.html", "Evaluation", "reused"):
            assert word not in output
