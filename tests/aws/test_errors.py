"""What AWS refuses, and what happens before it answers, as one sentence each, and never a traceback."""

import json
from pathlib import Path
from typing import Any

import botocore.client
import botocore.exceptions as raised
import pytest
from own_account import OWN

from pipeline.aws.errors import explain, is_transient

CASES = json.loads((Path(__file__).with_name("cases") / "errors.json").read_text())
ROLE = "arn:aws:sts::123456789012:assumed-role/Scientist/anna"
EXECUTION = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification/execution/abc"
VERSION = "arn:aws:sagemaker:us-east-1:123456789012:model-package/image-classification/1"
ELSEWHERE = {"data": {"source": "s3://pictures/animals"}, "model": {"weights": "s3://pictures/weights"}}
CONFIG = json.dumps({**ELSEWHERE, "aws": OWN})


def client_error(code: str, message: str, operation: str = "CreatePipeline", status: int = 400) -> raised.ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return raised.ClientError(answer, operation)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["code"])
def test_what_a_service_answers_is_told_with_a_hint_where_users_need_one(case):
    said, message = explain(client_error(case["code"], case["message"])), " ".join(case["message"].split())
    if case["hint"]:
        assert said.startswith(f"{message.rstrip('.')} (CreatePipeline, {case['code']}): ")
        assert case["hint"] in said and "\n" not in said
    else:
        assert said == message


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (raised.NoCredentialsError(), "Unable to locate credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"),
        (raised.PartialCredentialsError(provider="env", cred_var="KEY"), "in env, missing: KEY: set AWS"),
        (raised.CredentialRetrievalError(provider="p", error_msg="no program"), "no program: set AWS_PROFILE"),
        (raised.ProfileNotFound(profile="work"), "(work) could not be found: correct AWS_PROFILE, or make it with"),
        (raised.UnauthorizedSSOTokenError(), ": log in again (for example with `aws sso login`"),
        (raised.EndpointConnectionError(endpoint_url="https://x/"), '"https://x/": AWS cannot be reached; check the'),
        (raised.SSLError(endpoint_url="https://x/", error="no"), ": AWS cannot be reached; check the network, a proxy"),
        (raised.NoRegionError(), "set aws.region in pipeline.yaml"),
        (raised.ParamValidationError(report="Missing\nparameter: PipelineName"), "Missing parameter: PipelineName"),
        (raised.DataNotFoundError(data_path="x"), "Unable to load data for: x"),
        (ValueError("anything\nelse"), "anything else"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_happens_before_a_service_answers_is_explained(error, part):
    assert part in explain(error)
    assert "\n" not in explain(error)


def test_what_is_throttled_fails_within_aws_or_is_not_reached_may_be_repeated():
    assert is_transient(client_error("SlowDown", "")) and is_transient(client_error("InternalError", "", status=500))
    assert is_transient(raised.ReadTimeoutError(endpoint_url="https://x/"))
    assert not is_transient(client_error("AccessDenied", "")) and not is_transient(raised.NoCredentialsError())


@pytest.fixture
def refuse(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from an error's code and message, in which ACTION stands for an action of IAM, to what refuses so."""
    Path("pipeline.yaml").write_text(CONFIG)
    Path("image.png").write_bytes(b"pixels")

    def set_answer(code: str, message: str) -> None:
        def send(self: Any, operation: str, parameters: dict[str, Any]) -> None:
            action = f"{self.meta.service_model.signing_name}:{operation}"
            raise client_error(code, message.replace("ACTION", action), operation)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", send)

    return set_answer


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("models", "sagemaker:ListModelPackages"),
        ("approve", "sagemaker:ListModelPackages"),
        (f"reject {VERSION}", "sagemaker:DescribeModelPackage"),
        ("endpoints", "sagemaker:ListEndpoints"),
        ("invoke image.png", "sagemaker:InvokeEndpoint"),
        ("status", "sagemaker:"),
        (f"status {EXECUTION}", "sagemaker:DescribePipelineExecution"),
        (f"stop {EXECUTION}", "sagemaker:StopPipelineExecution"),
        (f"retry {EXECUTION}", "sagemaker:RetryPipelineExecution"),
        ("upsert", "s3:"),
        ("schedule show", "scheduler:GetSchedule"),
        ("infra", "cloudformation:DescribeStacks"),
        ("images push", "cloudformation:DescribeStacks"),
        ("teardown --yes", "sagemaker:ListModels"),
    ],
)
def test_a_missing_permission_names_the_action_and_the_role(cli, refuse, words, action):
    refuse("AccessDeniedException", f"User: {ROLE} is not authorized to perform: ACTION on resource: r")
    said = cli(*words.split())
    assert (said.status, said.out) == (1, "")
    sentence = said.error.splitlines()[-1]
    assert f"{ROLE} is not authorized to perform: {action}" in sentence
    assert "AccessDeniedException): whoever administers the policies of that role" in sentence


def test_without_credentials_or_a_network_the_sentence_says_what_to_check(without_credentials, cli, monkeypatch):
    Path("pipeline.yaml").write_text(CONFIG)
    for words in (["models"], ["infra", "--yes"]):
        said = cli(*words)
        assert (said.status, said.out) == (1, "") and "Unable to locate credentials: set AWS_PROFILE" in said.error
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = cli("models")
    assert (said.status, said.out) == (1, "")
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9/' in said.error
    assert "AWS cannot be reached; check the network" in said.error


def test_what_is_due_on_aws_is_not_started_from_here(cli):
    said = cli("schedule", "run")
    assert (said.status, said.out) == (2, "")
    assert "on AWS EventBridge Scheduler starts what is due" in said.error
