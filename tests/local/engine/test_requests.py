"""What requests leave behind: tokens that make them idempotent, the names of jobs and of pipelines."""

import json
import re

import pytest
from botocore.exceptions import ClientError

from pipeline.local.store.state import State
from tests.local.engine.conftest import CASES, Home
from tests.local.lab import ROLE, Lab, get
from tests.local.samples import run_cli

X = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0", "MaxValue": "1"}]}


def test_a_client_request_token_makes_a_request_idempotent(home: Home) -> None:
    home.define(*home.flow("Waits~"))
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
    for _ in range(2):
        retried = home.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=token)
        assert retried["PipelineExecutionArn"] == arn
    home.stop(arn, ClientRequestToken=other)
    assert home.ended(arn) == "Stopped"
    home.go()
    again = home.start(ClientRequestToken=other)
    assert (again != arn, home.ended(again)) == (True, "Succeeded")


def test_jobs_are_named_as_the_service_names_them_and_by_a_custom_prefix(lab: Lab) -> None:
    long, prefix = "_with-a-name-of-more-characters-than-a-job-may-have-of-it", f"own-{'x' * 40}"
    write = "open('/opt/ml/model/m', 'w'); print('score=1')"
    container = {"Image": "img", "ModelDataUrl": get("Steps.Train.ModelArtifacts.S3ModelArtifacts")}
    model = {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    steps = {
        "ProcessingJob": lab.processing(f"Prep{long}", ""),
        "TrainingJob": lab.training("Train", write),
        "HyperParameterTuningJob": lab.tuning(f"Tune{long}", write, X, jobs=1),
        "Model": {"Name": f"Model{long}", "Type": "Model", "Arguments": model},
    }
    plain = [f"pipelines-ID-{name}-R" for name in ("Prep-with-a-name-of", "Train", "Model-with-a-name-of")]
    plain.insert(2, "ID-Tune-wit-R")  # which has 32 characters of room, not 63
    custom = [f"{prefix[:21]}-R" if "Tuning" in kind else f"{prefix[:39]}-ID-R" for kind in steps]
    seen = set()
    for expected in (plain, plain, custom, custom):
        for kind, step in steps.items():
            step["Arguments"] |= {f"{kind}Name": prefix} if expected is custom else {}
        report = lab.run(*steps.values())
        assert report.code == 0, report.stdout
        arns = [value["Arn"] for step in steps.values() for value in report.record(step["Name"])["Metadata"].values()]
        names = [arn.rpartition("/")[2] for arn in arns]
        execution = report.document["execution_arn"].rpartition("/")[2]
        assert [re.sub(r"\w{10}$", "R", name.replace(execution, "ID")) for name in names] == expected
        for kind, name in zip(steps, names, strict=True):
            job = State(lab.home).get(kind, name) or {}
            assert (job[f"{kind}Name"], job.get(f"{kind}Status", "Completed")) == (name, "Completed")
        seen.update(names)
    assert len(seen) == 4 * len(steps)


def test_unrelated_definitions_do_not_share_a_pipeline_and_every_name_is_said(lab: Lab) -> None:
    for case in json.loads((CASES / "names.json").read_text()):
        path = lab.folder / case["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"Version": "2020-12-01", "Steps": [], **case.get("members", {})}))
        words = ["run", "--json", "--definition", path, "--home", lab.home]
        done = run_cli(*words, *case.get("options", []))
        assert done.returncode == 0, done.stderr
        [name] = re.findall(r"Pipeline (\S+) (?:created|updated|unchanged)", done.stderr)
        assert json.loads(done.stdout)["execution_arn"].split("/")[1] == name
        assert re.fullmatch(case["pipeline"], name)
        assert run_cli("status", "--home", lab.home, "--pipeline", name).returncode == 0
    refused = run_cli(*words, "--name", "no_name!")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PipelineName must be" in refused.stderr
