"""What the deploy handler does with the pipeline step's call and with events of the registry."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import deploy
from classifier.deployment.services import DeployError
from pipeline.bundle import deploy_bundle

ENDPOINT = "digits-endpoint"
STEPS = Path(deploy.__file__).parent


def test_approved_version_creates_model_configuration_and_endpoint(account: Any) -> None:
    arn = account.register()

    outcome = account.step(arn)

    assert outcome == {
        "endpoint_name": ENDPOINT,
        "endpoint_status": "Creating",
        "model_package_arn": arn,
        "message": "Endpoint digits-endpoint is being created with digits version 1.",
    }
    assert account.changes == ["CreateModelPackage", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert account.variant()["InstanceType"] == "ml.m5.large"
    assert account.variant()["InitialInstanceCount"] == 1
    model = account.sagemaker.describe_model(ModelName=account.variant()["ModelName"])
    assert model["ExecutionRoleArn"] == "arn:aws:iam::123456789012:role/hosting"
    assert account.served_version() == 1


def test_outputs_are_flat_strings(account: Any) -> None:
    assert {type(value) for value in account.step(account.register()).values()} == {str}


def test_waiting_version_is_not_deployed(account: Any) -> None:
    arn = account.register("PendingManualApproval")
    account.forget()

    assert account.step(arn) == {
        "endpoint_name": ENDPOINT,
        "endpoint_status": "WaitingForApproval",
        "model_package_arn": arn,
        "message": (
            "digits version 1 waits for approval: nothing is deployed until `run_pipeline.py approve` approves it."
        ),
    }
    assert account.changes == []


def test_rejected_version_is_not_deployed_by_the_step(account: Any) -> None:
    account.step(account.register())
    rejected = account.register("Rejected")
    account.forget()

    outcome = account.step(rejected)

    assert outcome["endpoint_status"] == "WaitingForApproval"
    assert outcome["message"] == (
        "digits version 2 is rejected: nothing is deployed until `run_pipeline.py approve` approves it."
    )
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_approval_event_deploys_with_values_from_the_environment(account: Any) -> None:
    arn = account.register("PendingManualApproval")
    assert account.state_change(arn)["endpoint_status"] == "WaitingForApproval"

    account.judge(arn, "Approved")

    assert account.state_change(arn)["endpoint_status"] == "Creating"
    assert account.served_version() == 1


def test_new_version_updates_the_endpoint(account: Any) -> None:
    account.step(account.register())
    newer = account.register()
    account.forget()

    outcome = account.step(newer)

    assert outcome["endpoint_status"] == "Updating"
    assert outcome["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert account.changes == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]
    assert account.served_version() == 2


def test_repeating_a_deployment_changes_nothing(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.forget()

    outcome = account.step(arn)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["message"] == "Endpoint digits-endpoint already serves digits version 1."
    assert account.changes == []


def test_another_instance_type_is_a_new_configuration_with_the_same_model(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.forget()

    assert account.step(arn, instance_type="ml.c5.large")["endpoint_status"] == "Updating"
    assert account.changes == ["CreateEndpointConfig", "UpdateEndpoint"]


def test_version_number_used_again_with_other_content_is_a_new_model(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    package = account.backend.model_packages[arn]
    package.inference_specification["Containers"][0]["ModelDataUrl"] = "s3://b/another.tar.gz"
    account.forget()

    assert account.step(arn)["endpoint_status"] == "Updating"
    assert account.changes == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]


@pytest.mark.usefixtures("environment")
def test_late_event_of_an_older_version_changes_nothing(account: Any) -> None:
    older, newer = account.register(), account.register()
    account.state_change(newer)
    account.forget()

    outcome = account.state_change(older)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["model_package_arn"] == newer
    assert outcome["message"] == (
        "digits version 1 is older than the approved version 2. "
        "Endpoint digits-endpoint already serves digits version 2."
    )
    assert account.changes == []


def test_step_deploys_a_newer_version_approved_meanwhile(account: Any) -> None:
    older, newer = account.register(), account.register()

    outcome = account.step(older)

    assert outcome["model_package_arn"] == newer
    assert outcome["message"] == (
        "digits version 1 is older than the approved version 2. "
        "Endpoint digits-endpoint is being created with digits version 2."
    )


def test_newer_version_that_waits_does_not_hold_back_an_approved_one(account: Any) -> None:
    approved = account.register()
    account.register("PendingManualApproval")

    assert account.step(approved)["model_package_arn"] == approved
    assert account.served_version() == 1


@pytest.mark.usefixtures("environment")
def test_list_that_lags_does_not_bring_back_an_older_version(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.register()
    newer = account.register()
    listed = type(account.backend).list_model_packages

    def lag(*arguments: Any, **query: Any) -> Any:
        page, token = listed(*arguments, **query)
        return [package for package in page if package.arn != newer], token

    monkeypatch.setattr(type(account.backend), "list_model_packages", lag)

    account.state_change(newer)

    assert account.served_version() == 2


@pytest.mark.usefixtures("environment")
def test_rejecting_the_version_in_service_brings_back_the_newest_still_approved(account: Any) -> None:
    for _ in range(3):
        newest = account.register()
        account.state_change(newest)
    account.judge(newest, "Rejected")

    outcome = account.state_change(newest)

    assert outcome["endpoint_status"] == "Updating"
    assert outcome["model_package_arn"].endswith("/2")
    assert outcome["message"] == (
        "digits version 3 is rejected. Endpoint digits-endpoint is being updated to digits version 2."
    )
    assert account.served_version() == 2


@pytest.mark.usefixtures("environment")
def test_rejecting_a_version_that_waited_changes_nothing(account: Any) -> None:
    account.state_change(account.register())
    waiting = account.register("PendingManualApproval")
    account.judge(waiting, "Rejected")
    account.forget()

    outcome = account.state_change(waiting)

    assert outcome["message"] == (
        "digits version 2 is rejected. Endpoint digits-endpoint already serves digits version 1."
    )
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_rejecting_the_only_version_leaves_the_endpoint_in_service(account: Any) -> None:
    arn = account.register()
    account.state_change(arn)
    account.judge(arn, "Rejected")
    account.forget()

    outcome = account.state_change(arn)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["message"] == (
        "digits version 1 is rejected. No other version is approved, so endpoint digits-endpoint keeps what it serves."
    )
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_rejection_creates_no_endpoint(account: Any) -> None:
    account.register()
    rejected = account.register("Rejected")
    account.forget()

    outcome = account.state_change(rejected)

    assert outcome["endpoint_status"] == "NotDeployed"
    assert outcome["message"] == (
        "digits version 2 is rejected. Endpoint digits-endpoint does not exist, so nothing changes."
    )
    assert account.changes == []


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("order", [(0, 1, 2, 1), (2, 1, 0, 0), (1, 2, 2, 0), (2, 0, 1, 2)])
def test_any_order_of_events_ends_with_the_newest_approved_version(account: Any, order: tuple[int, ...]) -> None:
    arns = [account.register(), account.register(), account.register()]
    account.judge(arns[2], "Rejected")

    for number in order:
        account.state_change(arns[number])

    assert account.served_version() == 2


@pytest.mark.parametrize("status", ["Pending", "InProgress"])
def test_unfinished_model_package_waits(account: Any, status: str) -> None:
    arn = account.register()
    account.backend.model_packages[arn].model_package_status = status
    account.forget()

    outcome = account.step(arn)

    assert outcome["endpoint_status"] == f"ModelPackage{status}"
    assert outcome["message"] == (
        f"digits version 1 is still being created ({status}): it is deployed once it is Completed."
    )
    assert account.changes == []


def test_failed_model_package_is_an_error(account: Any) -> None:
    arn = account.register()
    account.backend.model_packages[arn].model_package_status = "Failed"

    with pytest.raises(DeployError) as error:
        account.step(arn)
    assert str(error.value) == (
        "digits version 1 has status Failed and cannot be deployed: "
        "register the model again, or approve another version."
    )


@pytest.mark.usefixtures("environment")
def test_unfinished_version_does_not_take_over_after_a_rejection(account: Any) -> None:
    first, second, third = account.register(), account.register(), account.register()
    account.state_change(third)
    account.backend.model_packages[second].model_package_status = "InProgress"
    account.judge(third, "Rejected")

    assert account.state_change(third)["model_package_arn"] == first


REFUSALS = [
    (
        "AccessDeniedException",
        "User: x is not authorized to perform: sagemaker:CreateModel.",
        "AWS refused CreateModel: User: x is not authorized to perform: sagemaker:CreateModel; "
        "allow the function's role this action.",
    ),
    (
        "ResourceLimitExceeded",
        "The account-level service limit is 0\n  instances.",
        "AWS refused CreateModel: The account-level service limit is 0 instances; "
        "ask for a higher quota or choose another deploy.instance_type.",
    ),
    (
        "ValidationException",
        "Could not access model data at s3://b/model.tar.gz.",
        "AWS refused CreateModel: Could not access model data at s3://b/model.tar.gz; correct what it names.",
    ),
]


@pytest.mark.parametrize(("code", "message", "sentence"), REFUSALS)
def test_refusal_is_one_sentence(account: Any, code: str, message: str, sentence: str) -> None:
    with account.refusing("CreateModel", message, code), pytest.raises(DeployError) as error:
        account.step(account.register())
    assert str(error.value) == sentence


def test_throttling_is_raised_as_it_is_so_that_the_caller_tries_again(account: Any) -> None:
    throttled = account.refusing("CreateModel", "Rate exceeded", "ThrottlingException")
    with throttled, pytest.raises(ClientError, match="Rate exceeded"):
        account.step(account.register())


def test_unknown_version_is_one_sentence(account: Any) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/9"

    with pytest.raises(DeployError) as error:
        account.step(arn)
    assert str(error.value) == (
        f"AWS refused DescribeModelPackage: Model package {arn} not found; correct what it names."
    )


def test_value_that_botocore_refuses_is_one_sentence(account: Any) -> None:
    with pytest.raises(DeployError) as error:
        account.step(account.register(), execution_role_arn="short")
    assert str(error.value) == (
        "A value is not acceptable to AWS: Invalid length for parameter "
        "ExecutionRoleArn, value: 5, valid min length: 20; correct it."
    )


@pytest.mark.usefixtures("environment")
def test_event_of_another_kind_is_refused(account: Any) -> None:
    with pytest.raises(DeployError) as error:
        deploy.handler({"detail-type": "SageMaker Training Job State Change", "detail": {}}, None)
    assert str(error.value) == (
        "The event is a 'SageMaker Training Job State Change', but only 'SageMaker Model Package State Change' "
        "and 'SageMaker Endpoint State Change' are understood."
    )


def test_handler_prints_what_it_did(account: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = account.step(account.register())

    assert capsys.readouterr().out == outcome["message"] + "\n"


def test_the_bundle_needs_boto3_and_the_standard_library_only() -> None:
    bundle = deploy_bundle()
    modules: set[str] = set()
    for content in bundle.files.values():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")

    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"boto3", "botocore", "classifier"}


def test_nothing_waits() -> None:
    sources = [content.decode() for content in deploy_bundle().files.values()]

    assert not [word for word in ("sleep", "get_waiter", "import time") for source in sources if word in source]


def test_event_wins_over_the_environment(account: Any, set_environment: Callable[..., None]) -> None:
    set_environment(endpoint_name="another", instance_type="ml.c5.xlarge")

    assert account.step(account.register())["endpoint_name"] == ENDPOINT
    assert account.variant()["InstanceType"] == "ml.m5.large"
