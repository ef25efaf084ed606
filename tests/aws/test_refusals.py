"""Whatever AWS refuses, over HTTP as it says it, is one sentence of the command that met it, and never a traceback."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import SimpleNamespace

import pytest
from said import Said

import run_pipeline
from pipeline.errors import PassingError
from pipeline.service import control

ROLE = "arn:aws:sts::123456789012:assumed-role/Scientist/anna"
CONFIG = """
data: {source: "s3://pictures/animals"}
model: {weights: "s3://pictures/weights"}
aws:
  role_arn: arn:aws:iam::123456789012:role/pipeline
  bucket: a-bucket-of-ours
  training_image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/training:1
  inference_image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/inference:1
"""
EXECUTION = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification/execution/abc"
VERSION = "arn:aws:sagemaker:us-east-1:123456789012:model-package/image-classification/1"
LOG_IN = "log in again (for example with `aws sso login`) and repeat the command."


class Refusal(BaseHTTPRequestHandler):
    """Answers every request with the server's error, in the protocol of the service that was asked."""

    server: "Refusing"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        code, message = self.server.error
        message = message.replace("ACTION", self.server.action)
        if "X-Amz-Target" in self.headers or self.path.startswith(("/schedules", "/endpoints")):
            text = json.dumps({"__type": code, "message": message, "Message": message})
        elif "Action=" in body:
            text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        else:
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        content = text.encode()
        self.send_response(400)
        self.send_header("x-amzn-ErrorType", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


class Refusing(ThreadingHTTPServer):
    """What it answers with: an error's code and message, in which ACTION stands for an action of IAM."""

    error = ("", "")
    action = ""


@pytest.fixture(scope="module")
def server() -> Iterator[Refusing]:
    server = Refusing(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cli(server, tmp_path, monkeypatch, capsys) -> Callable[..., Said]:
    """A function that runs a command with `--target aws` in this process."""
    (tmp_path / "pipeline.yaml").write_text(CONFIG)
    (tmp_path / "image.png").write_bytes(b"pixels")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def run(*words: str) -> Said:
        capsys.readouterr()
        status = run_pipeline.main([*words, "--target", "aws", "--config", "pipeline.yaml", "--home", "home"])
        return Said(status, *capsys.readouterr())

    return run


MODELS = "Could not list the versions of model package group 'image-classification'"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ("ThrottlingException", "Rate exceeded"),
            "AWS is throttling ListModelPackages for this account: wait a minute and repeat the command.",
        ),
        (("ExpiredTokenException", "The token has expired."), f"The AWS credentials have expired: {LOG_IN}"),
        (
            ("UnrecognizedClientException", "The security token included in the request is invalid."),
            "AWS does not accept the credentials (UnrecognizedClientException): check AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
        ),
        (
            ("ResourceLimitExceeded", "The account-level service limit 'pipelines' is 500 Pipelines."),
            "The quota 'pipelines' of the account is 500 Pipelines, which is too little: ask for more in Service "
            "Quotas, or choose another instance type or fewer instances in pipeline.yaml.",
        ),
        (("ValidationException", "1 validation error\ndetected."), "1 validation error detected."),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_refusal_is_the_commands_own_sentence(cli, server, error, sentence):
    server.error = error
    assert cli("models") == (1, "", f"{MODELS}: {sentence}\n")


def test_without_credentials_the_sentence_says_where_to_put_them(cli, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    sentence = (
        "No AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in "
        "with `aws sso login`.\n"
    )
    assert cli("models") == (1, "", f"{MODELS}: {sentence}")
    assert cli("infra", "--yes") == (1, "", sentence)


def test_where_aws_is_not_reached_the_sentence_says_what_to_check(cli, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert cli("models") == (
        1,
        "",
        f'{MODELS}: AWS cannot be reached (Could not connect to the endpoint URL: "http://127.0.0.1:9/"): check the '
        "network, a proxy, and aws.region.\n",
    )


@pytest.mark.parametrize(
    ("words", "action", "what"),
    [
        ("models", "sagemaker:ListModelPackages", f"{MODELS}: "),
        ("approve", "sagemaker:ListModelPackages", f"{MODELS}: "),
        (f"reject {VERSION}", "sagemaker:DescribeModelPackage", f"Could not find {VERSION}: "),
        ("endpoints", "sagemaker:ListEndpoints", "Could not list endpoints: "),
        ("invoke image.png", "sagemaker:InvokeEndpoint", "Could not invoke endpoint 'image-classification': "),
        ("status", "sagemaker:DescribePipeline", "Could not list executions of pipeline 'image-classification': "),
        (f"status {EXECUTION}", "sagemaker:DescribePipelineExecution", f"Could not find execution {EXECUTION}: "),
        (f"stop {EXECUTION}", "sagemaker:StopPipelineExecution", f"Could not stop execution {EXECUTION}: "),
        (f"retry {EXECUTION}", "sagemaker:RetryPipelineExecution", f"Could not retry execution {EXECUTION}: "),
        ("upsert", "s3:ListBucket", ""),
        ("schedule show", "scheduler:GetSchedule", ""),
        ("cost", "sagemaker:ListPipelineExecutions", ""),
        ("infra", "cloudformation:DescribeStacks", ""),
        ("images push", "cloudformation:DescribeStacks", ""),
        ("teardown --yes", "sagemaker:ListModels", ""),
    ],
)
def test_a_missing_permission_names_the_action_and_the_role(cli, server, words, action, what):
    server.action = action
    server.error = ("AccessDeniedException", f"User: {ROLE} is not authorized to perform: ACTION on resource: r")
    assert cli(*words.split()) == (
        1,
        "",
        f"{what}Role Scientist may not perform {action} on r: allow it in a policy of the role Scientist.\n",
    )


def test_a_pipeline_that_is_executing_already_is_told_with_the_way_out(cli, server):
    server.error = ("ConflictException", "The pipeline execution is already running.")
    assert cli("retry", EXECUTION) == (
        1,
        "",
        f"Could not retry execution {EXECUTION}: The pipeline is executing (The pipeline execution is already "
        "running): wait for its end, or use `run_pipeline.py stop`.\n",
    )


def test_what_is_due_on_aws_is_not_started_from_here(cli):
    assert cli("schedule", "run") == (
        2,
        "",
        "schedule run is for this machine; on AWS EventBridge Scheduler starts what is due.\n",
    )


class Watched:
    """A target of which `watch` needs the name only."""

    name = "local"


@pytest.mark.parametrize("throttled", [3, control.WATCH_ATTEMPTS])
def test_watching_outlives_a_few_requests_that_are_not_answered(monkeypatch, throttled):
    answers: list[Exception | dict[str, str]] = [PassingError("throttled")] * throttled
    answers.append({"PipelineExecutionStatus": "Succeeded"})

    def describe(target: object, arn: str) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(control, "describe", describe)
    monkeypatch.setattr(control, "steps", lambda target, arn: [])
    if throttled < control.WATCH_ATTEMPTS:
        assert control.watch(Watched(), "arn", lambda steps: None) == "Succeeded"
    else:
        with pytest.raises(PassingError):
            control.watch(Watched(), "arn", lambda steps: None)
    assert len(answers) == (throttled == control.WATCH_ATTEMPTS)


def test_watching_slows_down_while_nothing_happens_and_not_on_aws(monkeypatch):
    """Looking at steps 20 times a second took a tenth of the processors from a training of minutes."""
    clock, looks = 0.0, [0.0]

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        looks.append(clock)

    def describe(target: object, arn: str) -> dict[str, str]:
        return {"PipelineExecutionStatus": "Executing" if clock < 62 else "Succeeded"}

    monkeypatch.setattr(control, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock))
    monkeypatch.setattr(control, "describe", describe)
    monkeypatch.setattr(control, "steps", lambda target, arn: ["Prepare"] if clock < 60 else ["Prepare", "Train"])

    assert control.watch(Watched(), "arn", lambda steps: None) == "Succeeded"

    waits = [later - earlier for earlier, later in pairwise(looks)]
    assert waits[0] == pytest.approx(0.05)
    assert max(waits) == pytest.approx(0.5)
    assert len([look for look in looks if 30 <= look < 60]) == pytest.approx(60, abs=2)
    assert len([look for look in looks if 60.5 <= look < 62]) == pytest.approx(30, abs=2)  # there was news
    assert control.pause(SimpleNamespace(name="aws"), 3600.0) == 5.0
