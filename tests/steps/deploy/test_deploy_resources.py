"""Models and endpoint configurations: reused, undone when a later call fails, removed when no longer used."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.responses import SageMakerResponse

from classifier.deployment.services import DeployError


def test_refused_creation_leaves_nothing(account: Any) -> None:
    arn = account.register()

    with account.refusing("CreateEndpoint", "No capacity."), pytest.raises(DeployError):
        account.step(arn)

    assert (account.models(), account.configs()) == ([], [])
    assert account.step(arn)["endpoint_status"] == "Creating"


def test_refused_configuration_takes_its_model_along(account: Any) -> None:
    with account.refusing("CreateEndpointConfig", "No."), pytest.raises(DeployError):
        account.step(account.register())

    assert (account.models(), account.configs()) == ([], [])


def test_refused_update_leaves_what_was_there(account: Any) -> None:
    account.step(account.register())
    before = account.state()

    with account.refusing("UpdateEndpoint", "No capacity."), pytest.raises(DeployError):
        account.step(account.register())

    assert account.state() == before


def test_what_was_there_before_the_refused_call_stays(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    models = account.models()

    with account.refusing("UpdateEndpoint", "No capacity."), pytest.raises(DeployError):
        account.step(arn, instance_type="ml.c5.large")

    assert account.models() == models
    assert len(account.configs()) == 1


def test_refusal_is_reported_when_cleaning_up_fails_too(account: Any, capsys: pytest.CaptureFixture[str]) -> None:
    denied = account.refusing("DeleteEndpointConfig", "Not authorized.", "AccessDeniedException")
    with account.refusing("CreateEndpoint", "No capacity."), denied, pytest.raises(DeployError) as error:
        account.step(account.register())

    assert str(error.value) == "AWS refused CreateEndpoint: No capacity; correct what it names."
    assert "What this call made was not removed: An error occurred (AccessDeniedException)" in capsys.readouterr().out


def test_update_whose_answer_was_lost_is_a_success(account: Any) -> None:
    account.step(account.register())
    newer = account.register()
    account.forget()
    account.step(newer)
    number = [name for name, _ in account.requests].index("UpdateEndpoint")
    newest = account.register()

    with account.failing(number, "answer lost"):
        outcome = account.step(newest)

    assert outcome["endpoint_status"] == "Updating"
    assert account.served_version() == 3


def test_request_that_may_yet_take_effect_keeps_what_it_names(account: Any) -> None:
    arn = account.register()

    def time_out(model: Any, **_: Any) -> None:
        if model.name == "CreateEndpoint":
            raise ReadTimeoutError(endpoint_url="x")

    with account.hooked("before-call", time_out), pytest.raises(ReadTimeoutError):
        account.step(arn)

    assert (len(account.models()), len(account.configs())) == (1, 1)


def test_configuration_that_a_concurrent_call_put_into_service_is_not_undone(account: Any) -> None:
    account.step(account.register())
    newer = account.register()

    def be_quicker(model: Any, params: Any, **_: Any) -> None:
        if model.name == "UpdateEndpoint" and account.endpoint.endpoint_status == "InService":
            account.endpoint.endpoint_status = "Updating"
            account.endpoint.pending_deployment_summary = {"EndpointConfigName": account.configs()[-1]}

    with account.hooked("before-call", be_quicker):
        outcome = account.step(newer)

    assert outcome["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert (len(account.models()), len(account.configs())) == (2, 2)


def test_model_created_by_a_concurrent_call_is_reused(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SageMakerResponse.create_model

    def lose_the_race(self: SageMakerResponse) -> ActionResult:
        create(self)
        raise ValidationError(message='Cannot create already existing model "arn".')

    monkeypatch.setattr(SageMakerResponse, "create_model", lose_the_race)

    assert account.step(account.register())["endpoint_status"] == "Creating"
    assert account.served_version() == 1


def test_model_created_by_a_concurrent_call_is_not_undone(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SageMakerResponse.create_model

    def lose_the_race(self: SageMakerResponse) -> ActionResult:
        create(self)
        raise ValidationError(message='Cannot create already existing model "arn".')

    monkeypatch.setattr(SageMakerResponse, "create_model", lose_the_race)

    with account.refusing("CreateEndpoint", "No capacity."), pytest.raises(DeployError):
        account.step(account.register())

    assert (len(account.models()), account.configs()) == (1, [])


def versions(names: list[str]) -> list[str]:
    return [name.split("-")[1] for name in names]


def test_last_few_unused_versions_are_kept(account: Any) -> None:
    for _ in range(7):
        account.step(account.register(), keep_versions=2)

    assert versions(account.configs()) == ["4", "5", "6", "7"]  # 6 is in use until the update to 7 is done
    account.step(account.register("Approved"), keep_versions=1)
    assert versions(account.configs()) == versions(account.models()) == ["6", "7", "8"]


def test_unused_configurations_go_once_the_endpoint_is_in_service(
    account: Any, set_environment: Callable[..., None]
) -> None:
    set_environment(keep_versions=1)
    for _ in range(4):
        account.state_change(account.register())
    assert versions(account.configs()) == ["2", "3", "4"]

    account.endpoint_change()

    assert versions(account.configs()) == versions(account.models()) == ["3", "4"]


def test_version_in_service_is_kept_however_old(account: Any, set_environment: Callable[..., None]) -> None:
    set_environment(keep_versions=1)
    arns = [account.register() for _ in range(4)]
    for number, arn in enumerate(arns):
        for other in arns[number + 1 :]:
            account.judge(other, "PendingManualApproval")
        account.judge(arn, "Approved")
        account.state_change(arn)
    for arn in arns[:0:-1]:
        account.judge(arn, "Rejected")

    account.state_change(arns[1])
    account.endpoint_change()

    assert account.served_version() == 1
    assert versions(account.configs()) == versions(account.models()) == ["4", "1"]


def test_update_under_way_protects_both_configurations(account: Any) -> None:
    arns = [account.register() for _ in range(1)]
    account.step(arns[0])
    old = account.endpoint.endpoint_config_name
    account.step(account.register())
    account.endpoint.pending_deployment_summary = {"EndpointConfigName": account.endpoint.endpoint_config_name}
    account.endpoint.endpoint_config_name = old

    account.step(arns[0], keep_versions=1)

    assert versions(account.configs()) == ["1", "2"]


def test_resources_of_others_are_left_alone(account: Any) -> None:
    role = "arn:aws:iam::123456789012:role/hosting"
    for name in ("digits", "digits-1-abcdef-012345", "other-1-abcdef-012345"):
        account.sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
        variant = {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        account.sagemaker.create_endpoint_config(EndpointConfigName=f"{name}-6789ab", ProductionVariants=[variant])
    account.step(account.register(), endpoint_name="staging")
    for _ in range(4):
        account.step(account.register(), keep_versions=1)

    kept = ["digits", "digits-1-abcdef-012345", "other-1-abcdef-012345"]
    assert account.models()[:3] == kept
    assert account.configs()[:3] == [f"{name}-6789ab" for name in kept]
    staging = account.sagemaker.describe_endpoint(EndpointName="staging")["EndpointConfigName"]
    assert staging in account.configs()
    assert staging.rsplit("-", 1)[0] in account.models()


def test_removal_that_fails_does_not_fail_the_deployment(account: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        account.step(account.register(), keep_versions=1)
    with account.refusing("DeleteEndpointConfig", "Rate exceeded", "ThrottlingException"):
        outcome = account.step(account.register(), keep_versions=1)

    assert outcome["endpoint_status"] == "Updating"
    assert "Unused models and endpoint configurations were not removed: " in capsys.readouterr().out
    account.step(account.register(), keep_versions=1)
    assert versions(account.configs()) == versions(account.models()) == ["3", "4", "5"]


def test_throttled_call_is_cleaned_up_and_raised(account: Any) -> None:
    throttled = account.refusing("CreateEndpoint", "Rate exceeded", "ThrottlingException")
    with throttled, pytest.raises(ClientError, match="Rate exceeded"):
        account.step(account.register())

    assert (account.models(), account.configs()) == ([], [])
