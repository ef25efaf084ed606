"""What the deploy handler does with the pipeline step's call, and with events of the registry and of the endpoint."""

import ast
import json
import re
import sys
from typing import Any

import pytest

import deploy
from classifier.deployment.services import DeployError
from pipeline.compile.bundle import deploy_bundle
from tests.steps.deploy.conftest import FOLDER

HERE = "Endpoint digits-endpoint"
AGAIN = "`run_pipeline.py approve 2` tries it again, `run_pipeline.py reject 2` gives it up."
FLOWS = [  # what happens (see Account.play); the last answer's status and message; the version in service; the champion
    ("~1A s1", "Creating", f"{HERE} is being created with digits version 1.", 1, 1),
    ("1P 1A", "Creating", f"{HERE} is being created with digits version 1.", 1, 1),
    ("1A 2A", "Updating", f"{HERE} is being updated to digits version 2.", 2, 2),
    ("1A 1", "InService", f"{HERE} already serves digits version 1.", 1, 1),
    ("~1P s1", "WaitingForApproval", "digits version 1 waits for approval: nothing is deployed until", None, None),
    ("~1A ~2P s1", "Creating", f"{HERE} is being created with digits version 1.", 1, 1),
    ("1A 2A 1", "InService", f"digits version 1 is older than the approved version 2. {HERE} already serves", 2, 2),
    ("~1A ~2A s1", "Creating", f"digits version 1 is older than the approved version 2. {HERE} is being", 2, 2),
    # a rejection
    ("1A 2A 3A 3R", "Updating", f"digits version 3 is rejected. {HERE} is being updated to digits version 2.", 2, 2),
    ("1A 2P 2R", "InService", f"digits version 2 is rejected. {HERE} already serves digits version 1.", 1, 1),
    ("1A ~2R s2", "InService", f"digits version 2 is rejected. {HERE} already serves digits version 1.", 1, 1),
    ("1A 1R", "InService", "digits version 1 is rejected. No other version is approved, so endpoint", 1, None),
    ("1A 1R e", "InService", f"{HERE} already serves digits version 1.", 1, None),
    ("~1A 2R", "NotDeployed", f"digits version 2 is rejected. {HERE} does not exist, so nothing changes.", None, 1),
    ("1A 2A =RollingBack 2R", "RollingBack", f"digits version 2 is rejected. {HERE} is RollingBack, so", 2, 1),
    ("1A 2A x 2R", "NotDeployed", f"digits version 2 is rejected. {HERE} does not exist, so nothing changes.", None, 1),
    # whatever the order of the events
    ("~1A ~2A ~3R 1 2 3 2", "InService", f"{HERE} already serves digits version 2.", 2, 2),
    ("~1A ~2A ~3R 3 2 1 1", "InService", "digits version 1 is older", 2, 2),
    ("~1A ~2A ~3R 2 3 3 1", "InService", "digits version 1 is older", 2, 2),
    ("~1A ~2A ~3R 3 1 2 3", "InService", "digits version 3 is rejected.", 2, 2),
    # what had to wait for the endpoint
    ("1A =Updating 2A", "Updating", f"{HERE} is Updating, so digits version 2 is not deployed: once it is", 1, 1),
    ("1A =Updating 2A e", "Updating", f"{HERE} is Updating, so nothing changes.", 1, 1),
    ("1A =Updating 2A =InService e", "Updating", f"{HERE} is being updated to digits version 2.", 2, 2),
    ("1A 2A =Updating 2R =InService e", "Updating", f"{HERE} is being updated to digits version 1.", 1, 1),
    ("1A =Deleting e", "Deleting", f"{HERE} is Deleting, so nothing changes.", 1, 1),
    ("1A =Failed ~2A e", "Failed", f"{HERE} is Failed (no reason given), so nothing changes.", 1, 1),
    ("~1A e", "NotDeployed", f"{HERE} does not exist, so nothing changes.", None, None),
    # an update that was rolled back is tried again by a person only
    ("1A 2A < e e", "InService", f"{HERE} serves digits version 1 after the update to digits version 2 failed", 1, 1),
    ("1A 2A <? e", "InService", f"version 2 failed (no reason given): {AGAIN}", 1, 1),
    ("1A 2A < 2", "Updating", f"{HERE} is being updated to digits version 2.", 2, 2),
    ("1A 2A < 2R", "InService", f"digits version 2 is rejected. {HERE} already serves digits version 1.", 1, 1),
    ("1A 2A < ~3A e", "Updating", f"{HERE} is being updated to digits version 3.", 3, 3),
    ("1A 2A < e 2R 2A", "Updating", f"{HERE} is being updated to digits version 2.", 2, 2),
    ("1A 2A 2R 2A x 2R 2A", "Creating", f"{HERE} is being created with digits version 2.", 2, 2),
    # a failed endpoint can only be made anew
    ("1A =Failed 1", "Creating", f"{HERE} is being created with digits version 1.", 1, 1),
    ("1A =Failed 2A", "Creating", f"{HERE} is being created with digits version 2.", 2, 2),
]


@pytest.mark.parametrize(("script", "status", "message", "served", "champion"), FLOWS)
def test_endpoint_and_champion_follow_the_newest_approved_version(
    account: Any, script: str, status: str, message: str, served: int | None, champion: int | None
) -> None:
    answer = account.play(script)
    assert (answer["endpoint_status"], account.served(), account.champion()) == (status, served, champion)
    assert message in answer["message"]
    account.forget()
    account.play(re.sub("[~APR]", "", script.split()[-1]))
    assert set(account.changes) <= {"DeleteObject"}, "the same event again changes nothing"


def test_first_version_is_served_as_the_step_asks_whatever_the_environment_says(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ENDPOINT_NAME", "INSTANCE_TYPE", "CHAMPION_URI"):
        monkeypatch.setenv(name, "another")
    arn = account.register()
    account.forget()
    answer = account.step(arn, champion_uri=f"s3://artifacts/{FOLDER.rstrip('/')}")
    message = "Endpoint digits-endpoint is being created with digits version 1."
    names = ("endpoint_name", "endpoint_status", "model_package_arn", "message")
    assert answer == dict(zip(names, ("digits-endpoint", "Creating", arn, message), strict=True))
    assert capsys.readouterr().out == f"{message}\n"
    assert account.changes[:3] == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert (account.variant()["InstanceType"], account.variant()["InitialInstanceCount"]) == ("ml.m5.large", 1)
    assert account.request("CreateModel")["ExecutionRoleArn"] == "arn:aws:iam::123456789012:role/hosting"
    description = json.loads(account.objects()[f"{FOLDER}champion.json"])
    assert description.pop("etag") == '"c4ca4238a0b923820dcc509a6f75849b"'  # of "1"
    assert description == {"model_package_arn": arn, "model_data_url": "s3://artifacts/digits/jobs/1/model.tar.gz"}


HATS, DIGITS = "2: cap / hat", f"10: {' / '.join('abcdefghij' * 3)}"


def test_a_model_of_other_classes_replaces_none_unless_that_is_permitted(account: Any) -> None:
    account.step(account.register(classes=HATS))
    other = account.register(classes=DIGITS)
    for call in (account.step, lambda arn: account.event("Model Package", ModelPackageArn=arn)):
        with pytest.raises(DeployError, match=r"digits version 2 knows other classes \(10: a / .* \.\.\.\) than digits "
                           r"version 1 \(2: cap / hat\).*`run_pipeline.py approve 2 --replace-classes`"):  # fmt: skip
            call(other)
    assert account.served() == account.champion() == 1
    left = account.event("Endpoint", EndpointName="digits-endpoint")
    assert left["endpoint_status"] == "InService" and "knows other classes" in left["message"]
    account.step(account.register(classes=HATS))
    account.step(account.register(classes=""))  # nobody knows which
    assert account.served() == 4
    account.step(account.register(classes=DIGITS))
    account.sagemaker.update_model_package(
        ModelPackageArn=account.register(classes=HATS),
        ApprovalDescription="",
        ModelApprovalStatus="Approved",
        CustomerMetadataProperties={"classes_sha256": HATS, "replace_classes": "true"},
    )
    account.event("Model Package", ModelPackageArn=account.arns[-1])
    assert account.served() == account.champion() == 6


def test_another_instance_type_is_a_new_configuration_that_the_endpoint_s_event_keeps(account: Any) -> None:
    account.step(account.register())
    assert account.step(account.arns[0], instance_type="ml.c5.large")["endpoint_status"] == "Updating"
    assert account.models() == ["1"]
    assert account.play("e")["message"] == "Endpoint digits-endpoint already serves digits version 1."
    assert account.variant()["InstanceType"] == "ml.c5.large"


def test_version_number_used_again_with_other_content_is_a_new_model(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    container = account.backend.model_packages[arn].inference_specification["Containers"][0]
    container["ModelDataUrl"] = "s3://artifacts/digits/jobs/another/model.tar.gz"
    assert account.step(arn)["endpoint_status"] == "Updating"
    assert account.models() == ["1", "1"]


def test_list_that_lags_does_not_bring_back_an_older_version(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.play("~1A ~2A")
    older = account.backend.model_packages[account.arns[0]]
    monkeypatch.setattr(type(account.backend), "list_model_packages", lambda *_, **query: ([older], None))
    account.play("2")
    assert account.served() == 2


@pytest.mark.parametrize("status", ["Pending", "InProgress"])
def test_unfinished_model_package_waits_and_takes_over_from_none(account: Any, status: str) -> None:
    account.play("1A ~2A")
    account.backend.model_packages[account.arns[1]].model_package_status = status
    answer = account.play("2")
    assert answer["endpoint_status"] == f"ModelPackage{status}"
    assert f"digits version 2 is still being created ({status}): it is deployed once it is" in answer["message"]
    account.play("3A 3R")
    assert account.served() == 1
    account.backend.model_packages[account.arns[1]].model_package_status = "Failed"
    with pytest.raises(DeployError, match="digits version 2 has status Failed and cannot be deployed: register the"):
        account.play("2")


REFUSALS = [
    ("AccessDeniedException", "User: x is not authorized.", "AWS refused CreateModel: User: x is not authorized; "),
    ("ResourceLimitExceeded", "The limit is 0\n  instances.", "AWS refused CreateModel: The limit is 0 instances; ask"),
    ("ValidationException", "No access to s3://b/m.", "AWS refused CreateModel: No access to s3://b/m; correct what"),
    ("ThrottlingException", "Rate exceeded", "AWS refused CreateModel: Rate exceeded; try it again later."),
]


@pytest.mark.parametrize(("code", "message", "sentence"), REFUSALS)
def test_refusal_is_one_sentence_and_the_next_call_deploys(
    account: Any, code: str, message: str, sentence: str
) -> None:
    arn = account.register()
    with account.refusing("CreateModel", message, code), pytest.raises(DeployError) as error:
        account.step(arn)
    assert str(error.value).startswith(sentence)
    assert account.step(arn)["endpoint_status"] == "Creating"


UNKNOWN = "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/9"
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model_package_arn": UNKNOWN}, f"AWS refused DescribeModelPackage: Model package {UNKNOWN} not found; correct"),
    ({"model_package_arn": ""}, "The request to AWS failed: Parameter validation failed: Invalid length for parameter"),
    ({}, "The event has no 'model_package_arn': give the ARN of the version to deploy."),
    ({"instance_type": "", "model_package_arn": UNKNOWN}, "The event has no 'instance_type' and INSTANCE_TYPE is not"),
    ({"initial_instance_count": "many"}, "initial_instance_count must be a whole number, but got 'many'."),
    ({"canary_fraction": "half"}, "canary_fraction must be a number, but got 'half'."),
    ({"network_isolation": "yes"}, "network_isolation must be true or false, but got 'yes'."),
    ({"tags": "a=b"}, "tags must be a JSON object, but got 'a=b'."),
    ({"tags": '["a"]'}, "tags must be a JSON object, but got '[\"a\"]'."),
    ({"detail-type": "Another"}, "The event is a 'Another', but only 'SageMaker Model Package State Change' and"),
]


@pytest.mark.parametrize(("event", "sentence"), MISTAKES)
def test_mistake_in_an_event_is_one_sentence(
    account: Any, monkeypatch: pytest.MonkeyPatch, event: dict[str, Any], sentence: str
) -> None:
    if "instance_type" in event:
        monkeypatch.delenv("INSTANCE_TYPE")
    with pytest.raises(DeployError) as error:
        deploy.handler(event, None)
    assert str(error.value).startswith(sentence)


def test_no_champion_is_kept_without_a_place_for_it(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAMPION_URI")
    account.play("1A 1R")
    assert (account.served(), account.champion()) == (1, None)


@pytest.mark.parametrize(("name", "content"), [("model.tar.gz", b"1"), ("champion.json", b"[")])
def test_champion_that_another_call_put_there_is_noticed_and_replaced(account: Any, name: str, content: bytes) -> None:
    account.play("1A 2A")
    account.s3.put_object(Bucket="artifacts", Key=f"{FOLDER}{name}", Body=content)
    account.play("e")
    assert account.champion() == 2


SENTENCE = (
    "Endpoint digits-endpoint is being created with digits version 1. "
    f"s3://artifacts/{FOLDER}, which the next training is compared with, is not up to date: "
    "digits version 1 was not kept (AWS refused CopyObject: No; allow the function's role this action). "
    "The next event of the registry or the endpoint tries again."
)


def test_model_that_is_not_kept_is_deployed_and_said_and_kept_later(account: Any) -> None:
    account.play("~1A")
    with account.refusing("CopyObject", "No", "AccessDenied"):
        assert account.play("s1")["message"] == SENTENCE
        account.play("x")
        with pytest.raises(DeployError) as error:  # so that Lambda tries again, and an alarm goes off
            account.play("1")
    assert (str(error.value), account.served()) == (SENTENCE, 1)
    account.play("e")
    assert account.champion() == 1


def test_version_without_an_archive_on_s3_is_deployed_and_said_not_to_be_kept(account: Any) -> None:
    answer = account.step(account.register(url="https://elsewhere/model.tar.gz"))
    assert "digits version 1 was not kept (digits version 1 has no model archive on S3)" in answer["message"]
    assert account.served() == 1


def test_champion_s_removal_that_fails_is_tried_again(account: Any) -> None:
    account.play("1A ~1R")
    denied = account.refusing("DeleteObject", "No", "AccessDenied")
    with denied, pytest.raises(DeployError, match=r"what is there was not removed \(AWS refused DeleteObject: No;"):
        account.play("1")
    account.play("1")
    assert account.champion() is None


def test_the_bundle_needs_boto3_and_the_standard_library_only_and_never_waits() -> None:
    sources = [content.decode() for content in deploy_bundle().files.values()]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"boto3", "botocore", "classifier"}
    assert not [word for word in ("sleep", "get_waiter", "import time") for source in sources if word in source]
