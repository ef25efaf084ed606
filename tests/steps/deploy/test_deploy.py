"""What the deploy handler does with the pipeline step's call, and with events of the registry and of the endpoint."""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import deploy
from deploy import DeployError
from tests.steps.deploy.conftest import FOLDER, SETTINGS

CASES = json.loads(Path(__file__).with_name("flows.json").read_text())
ARCHIVE = "digits/jobs/1/model.tar.gz"


@pytest.mark.parametrize(("script", "status", "message", "served", "champion"), CASES)
def test_endpoint_and_champion_follow_the_newest_approved_version(
    account: Any, script: str, status: str, message: str, served: int | None, champion: int | None
) -> None:
    answer = account.play(script)
    assert (answer["endpoint_status"], account.served(), account.champion()) == (status, served, champion)
    assert message in answer["message"].replace("Endpoint digits-endpoint", "E").replace("digits version ", "v")
    account.forget()
    for _ in range(3):
        account.play(re.sub("[~APR]", "", script.split()[-1]))
    assert set(account.changes) <= {"DeleteObject"}, "the same event again changes nothing"


def test_the_step_names_the_version_and_the_endpoint_and_the_environment_all_else(account: Any, capsys: Any) -> None:
    arn = account.register()
    account.forget()
    answer = deploy.handler({"model_package_arn": arn, "endpoint_name": "staging", "instance_type": "ml.p5.big"}, None)
    message = "Endpoint staging is being created with digits version 1."
    assert answer == {
        "endpoint_name": "staging", "endpoint_status": "Creating", "model_package_arn": arn, "message": message,
    }  # fmt: skip
    assert capsys.readouterr().out == f"{message}\n"
    assert account.changes[:4] == ["CopyObject", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert account.request("CreateEndpointConfig")["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    model, copy = account.request("CreateModel"), "s3://artifacts/digits/models/digits-1-6b86b273/model.tar.gz"
    assert model["PrimaryContainer"] == {"Image": "image", "ModelDataUrl": copy, "Environment": {"A": "1"}}
    assert model["Tags"] == [{"Key": "deploy:version", "Value": arn}]
    description = json.loads(account.objects()[f"{FOLDER}champion.json"])
    assert description.pop("etag") == '"c4ca4238a0b923820dcc509a6f75849b"'  # of "1"
    assert description == {"model_package_arn": arn, "model_data_url": f"s3://artifacts/{ARCHIVE}"}


# archives


def put(account: Any, key: str, content: bytes) -> None:
    account.s3.put_object(Bucket="artifacts", Key=key, Body=content, ChecksumAlgorithm="SHA256")


def test_an_archive_that_was_changed_after_the_evaluation_is_not_served_and_nothing_changes(account: Any) -> None:
    account.play("1A e ~2A")
    before = account.state()
    put(account, "digits/jobs/2/model.tar.gz", b"planted")
    for call in ("2", "s2"):
        with pytest.raises(DeployError, match=r"digits version 2 is not served: s3://artifacts/digits/jobs/2/model.tar."
                           r"gz was changed after it was evaluated.*`run_pipeline.py reject 2`"):  # fmt: skip
            account.play(call)
    assert "was changed after it was evaluated" in account.play("e")["message"]
    assert account.state() == before
    put(account, "digits/jobs/2/model.tar.gz", b"2")
    account.play("2")
    assert (account.served(), account.champion()) == (2, 2)


def test_a_copy_that_was_changed_is_refused_and_made_anew_by_the_next_call(account: Any) -> None:
    account.play("~1A")
    put(account, "digits/models/digits-1-6b86b273/model.tar.gz", b"planted")
    with pytest.raises(DeployError, match="was changed after it was evaluated"):
        account.play("1")
    assert (account.served(), account.play("1")["endpoint_status"], account.served()) == (None, "Creating", 1)


def test_an_older_version_comes_back_though_its_training_s_files_are_gone(account: Any) -> None:
    account.play("1A 2A")
    account.s3.delete_object(Bucket="artifacts", Key=ARCHIVE)
    account.play("2R")
    assert (account.served(), account.champion()) == (1, 1)


def test_a_version_without_checksum_is_served_and_said_to_be_vouched_for_by_nobody(account: Any) -> None:
    answer = account.step(account.register(archive_sha256=None))
    assert answer["message"].endswith("Nothing vouches for its archive, registered without archive_sha256.")
    assert (account.served(), account.champion()) == (1, 1)


@pytest.mark.parametrize("url", ["https://elsewhere/model.tar.gz", ""])
def test_a_version_without_an_archive_on_s3_is_refused(account: Any, url: str) -> None:
    arn = account.register()
    [container] = account.backend.model_packages[arn].inference_specification["Containers"]
    container["ModelDataUrl"] = url
    with pytest.raises(DeployError, match="digits version 1 cannot be served: it needs one container, with a ModelDat"):
        account.step(arn)


def test_a_version_of_another_account_is_looked_for_in_that_account_s_group(account: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("EXECUTION_ROLE_ARN", "arn:aws:iam::210987654321:role/hosting")
    arn = account.register()
    groups = []

    def answer(self: Any, model_package_group_name: str, **query: Any) -> tuple[list[Any], None]:
        groups.append(model_package_group_name)
        return [], None

    monkeypatch.setattr(type(account.backend), "list_model_packages", answer)
    account.step(arn)
    assert groups == ["arn:aws:sagemaker:us-east-1:123456789012:model-package-group/digits"]
    assert account.request("CreateModel")["Tags"] == [{"Key": "deploy:version", "Value": arn}]


# which version


HATS, DIGITS = "2: cap / hat", f"10: {' / '.join('abcdefghij' * 3)}"


def test_a_model_of_other_classes_replaces_none_unless_that_is_permitted(account: Any) -> None:
    def register(classes: str, **metadata: str) -> str:
        return str(account.register(classes=classes, classes_sha256=classes, **metadata))

    account.step(register(HATS))
    other = register(DIGITS)
    for call in (account.step, lambda arn: account.event("Model Package", ModelPackageArn=arn)):
        with pytest.raises(DeployError, match=r"digits version 2 knows other classes \(10: a / .* \.\.\.\) than digits "
                           r"version 1 \(2: cap / hat\).*`run_pipeline.py approve 2 --replace-classes`"):  # fmt: skip
            call(other)
    assert account.served() == account.champion() == 1
    left = account.event("Endpoint", EndpointName="digits-endpoint")
    assert left["endpoint_status"] == "InService" and "knows other classes" in left["message"]
    account.step(register(HATS))
    account.step(account.register())  # nobody knows which
    account.step(register(DIGITS))
    account.step(register(HATS, replace_classes="true"))
    assert account.served() == account.champion() == 6


def test_version_number_used_again_with_other_content_is_a_new_model(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.backend.model_packages[arn].inference_specification["Containers"][0]["Image"] = "another"
    assert account.step(arn)["endpoint_status"] == "Updating"
    assert account.models() == ["1", "1"]


def test_list_that_lags_does_not_bring_back_an_older_version(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.play("~1A ~2A")
    older = account.backend.model_packages[account.arns[0]]
    monkeypatch.setattr(type(account.backend), "list_model_packages", lambda *_, **query: ([older], None))
    account.play("2")
    assert account.served() == 2


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Failed"])
def test_unfinished_model_package_is_refused_and_takes_over_from_none(account: Any, status: str) -> None:
    account.play("1A ~2A")
    account.backend.model_packages[account.arns[1]].model_package_status = status
    with pytest.raises(DeployError, match=f"digits version 2 has status {status} and cannot be deployed: `run_pipelin"):
        account.play("2")
    account.play("3A 3R")
    assert account.served() == 1


# what is wrong


UNKNOWN = "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/9"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model_package_arn": UNKNOWN}, f"AWS refused DescribeModelPackage: Model package {UNKNOWN} not found; correct"),
    ({"model_package_arn": ""}, "AWS refused a request: Parameter validation failed: Invalid length for parameter"),
    ({}, "The event has no 'model_package_arn', which says what it is about."),
    ({"detail-type": "Another"}, "The event is a 'Another', but only SageMaker Model Package State Change, SageMaker"),
    ({"INSTANCE_TYPE": None}, "In the function's environment INSTANCE_TYPE is 'missing': `run_pipeline.py infra` sets"),
    ({"INITIAL_INSTANCE_COUNT": "many"}, "In the function's environment INITIAL_INSTANCE_COUNT is 'many': `run_pipel"),
    ({"CANARY_FRACTION": "half"}, "In the function's environment CANARY_FRACTION is 'half'"),
    ({"NETWORK_ISOLATION": "yes"}, "In the function's environment NETWORK_ISOLATION is 'yes'"),
    ({"TAGS": "a=b"}, "In the function's environment TAGS is 'a=b'"),
    ({"TAGS": '["a"]'}, "In the function's environment TAGS is '[\"a\"]'"),
]


@pytest.mark.parametrize(("event", "sentence"), MISTAKES)
def test_mistake_is_one_sentence(account: Any, monkeypatch: Any, event: dict[str, Any], sentence: str) -> None:
    for name in event.keys() & SETTINGS.keys():
        monkeypatch.setenv(name, event[name]) if event[name] else monkeypatch.delenv(name)
        event = {"model_package_arn": UNKNOWN}
    with pytest.raises(DeployError) as error:
        deploy.handler(event, None)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(("code", "message", "sentence"), [
    ("AccessDeniedException", "User: x is not authorized.", "AWS refused CreateModel: User: x is not authorized; "),
    ("ResourceLimitExceeded", "The limit is 0\n  instances.", "AWS refused CreateModel: The limit is 0 instances; ask"),
    ("ValidationException", "No access to s3://b/m.", "AWS refused CreateModel: No access to s3://b/m; correct what"),
    ("ThrottlingException", "Rate exceeded", "AWS refused CreateModel: Rate exceeded; correct what it names, or try it again later."),
])  # fmt: skip
def test_refusal_is_one_sentence_and_the_next_call_deploys(
    account: Any, code: str, message: str, sentence: str
) -> None:
    arn = account.register()
    with account.refusing("CreateModel", message, code), pytest.raises(DeployError) as error:
        account.step(arn)
    assert str(error.value).startswith(sentence)
    assert account.step(arn)["endpoint_status"] == "Creating"


# the champion


def test_no_champion_is_kept_without_a_place_for_it(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAMPION_URI", "")
    account.play("1A 1R")
    assert (account.served(), account.champion()) == (1, None)


@pytest.mark.parametrize(("name", "content"), [("model.tar.gz", b"1"), ("champion.json", b"[")])
def test_champion_that_another_call_put_there_is_noticed_and_replaced(account: Any, name: str, content: bytes) -> None:
    account.play("1A 2A")
    account.s3.put_object(Bucket="artifacts", Key=f"{FOLDER}{name}", Body=content)
    account.play("e")
    assert account.champion() == 2


def test_a_baseline_that_a_version_lacks_is_left_out_and_that_of_another_goes(account: Any) -> None:
    account.play("1A ~2A")
    account.s3.delete_object(Bucket="artifacts", Key="digits/jobs/2/baseline.json")
    account.play("2")
    assert account.objects().keys() == {f"{FOLDER}{name}" for name in ("champion.json", "model.tar.gz")}


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_champion_that_cannot_be_changed_is_said_with_what_was_done_and_mended_later(
    account: Any, operation: str
) -> None:
    account.play("1A ~2A")
    with account.refusing(operation, "No", "AccessDenied"), pytest.raises(DeployError) as error:
        account.play("2")
    place = SETTINGS["CHAMPION_URI"]
    assert str(error.value) == (
        f"Endpoint digits-endpoint is being updated to digits version 2. But {place}, which the next training is "
        f"compared with, is old: AWS refused {operation}: No; allow the function's role this action."
    )
    account.play("e")
    assert (account.served(), account.champion()) == (2, 2)


def test_the_code_needs_boto3_and_the_standard_library_only_and_never_waits() -> None:
    source = Path(deploy.__file__).read_text()
    nodes = list(ast.walk(ast.parse(source)))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"boto3", "botocore"}
    assert not [word for word in ("sleep", "get_waiter", "import time") if word in source]
