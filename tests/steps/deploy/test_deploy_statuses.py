"""What becomes of a plan in each status of the endpoint, and of what had to wait once the endpoint is InService."""

from collections.abc import Callable
from typing import Any

import pytest

from classifier.deployment.services import DeployError

IN_SERVICE = "once it is InService, its state change event or `run_pipeline.py approve` deploys it"
BUSY = {
    "Creating": IN_SERVICE,
    "Updating": IN_SERVICE,
    "SystemUpdating": IN_SERVICE,
    "RollingBack": IN_SERVICE,
    "OutOfService": IN_SERVICE,
    "Deleting": "once it is gone, `run_pipeline.py approve` creates it anew",
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve`",
}


def delete_slowly(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeleteEndpoint leaves the endpoint Deleting, as on AWS."""
    monkeypatch.setattr(
        type(account.backend),
        "delete_endpoint",
        lambda self, name: setattr(self.endpoints[name], "endpoint_status", "Deleting"),
    )


@pytest.mark.parametrize("status", BUSY)
def test_busy_endpoint_is_left_alone(account: Any, status: str) -> None:
    account.step(account.register())
    newer = account.register()
    account.endpoint.endpoint_status = status
    account.forget()

    outcome = account.step(newer)

    assert outcome["endpoint_status"] == status
    assert outcome["message"] == (
        f"Endpoint digits-endpoint is {status}, so digits version 2 is not deployed: {BUSY[status]}."
    )
    assert account.changes == []


def test_every_status_of_the_api_is_treated(account: Any) -> None:
    shape = account.sagemaker.meta.service_model.shape_for("EndpointStatus")

    assert set(shape.enum) == {"InService", "Failed", *BUSY}


def test_failed_endpoint_is_deleted_and_created_again(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.endpoint.endpoint_status = "Failed"
    account.forget()

    outcome = account.step(arn)

    assert outcome["endpoint_status"] == "Creating"
    assert account.changes == ["DeleteEndpoint", "CreateEndpoint"]


def test_failed_endpoint_that_is_slow_to_go_is_not_waited_for(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = account.register()
    account.step(arn)
    account.endpoint.endpoint_status = "Failed"
    account.endpoint.failure_reason = "The container {app} did not answer /ping."
    delete_slowly(account, monkeypatch)
    account.forget()

    assert account.step(arn) == {
        "endpoint_name": "digits-endpoint",
        "endpoint_status": "Deleting",
        "model_package_arn": arn,
        "message": (
            "Endpoint digits-endpoint had failed (The container {app} did not answer /ping) and is being deleted: "
            "once it is gone, `run_pipeline.py approve` creates it anew with digits version 1."
        ),
    }
    assert account.changes == ["DeleteEndpoint"]


@pytest.mark.usefixtures("environment")
def test_event_that_finds_the_endpoint_deleting_fails_so_that_lambda_tries_again(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = account.register()
    account.state_change(arn)
    account.endpoint.endpoint_status = "Failed"
    with monkeypatch.context() as patch:
        delete_slowly(account, patch)
        with pytest.raises(DeployError, match="is being deleted: once it is gone"):
            account.state_change(arn)
    with pytest.raises(DeployError, match="is Deleting, so digits version 1 is not deployed"):
        account.state_change(arn)
    account.sagemaker.delete_endpoint(EndpointName="digits-endpoint")

    assert account.state_change(arn)["endpoint_status"] == "Creating"


def test_deployment_under_way_is_recognised(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.endpoint.endpoint_status = "Creating"
    account.forget()

    assert account.step(arn)["message"] == "Endpoint digits-endpoint is Creating with digits version 1 already."
    assert account.changes == []


def test_update_under_way_is_recognised_by_the_configuration_it_goes_to(account: Any) -> None:
    account.step(account.register())
    old_config = account.endpoint.endpoint_config_name
    newer = account.register()
    account.step(newer)
    endpoint = account.endpoint  # as SageMaker describes it until the update is done
    endpoint.endpoint_status = "Updating"
    endpoint.pending_deployment_summary = {"EndpointConfigName": endpoint.endpoint_config_name}
    endpoint.endpoint_config_name = old_config
    account.forget()

    assert account.step(newer)["message"] == "Endpoint digits-endpoint is Updating with digits version 2 already."
    assert account.changes == []


def test_endpoint_that_is_being_deleted_is_not_taken_for_deployed(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.endpoint.endpoint_status = "Deleting"

    assert account.step(arn)["message"] == (
        "Endpoint digits-endpoint is Deleting, so digits version 1 is not deployed: "
        "once it is gone, `run_pipeline.py approve` creates it anew."
    )


def test_instances_cannot_become_serverless(account: Any) -> None:
    arn = account.register()
    account.step(arn)
    account.forget()

    with pytest.raises(DeployError) as error:
        account.step(arn, serverless_memory_mb=2048)
    assert str(error.value) == (
        "Endpoint digits-endpoint has instances, and SageMaker cannot turn it into a serverless one: "
        "delete it and use `run_pipeline.py approve`, or set deploy.serverless.memory_mb to 0."
    )
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_version_approved_during_an_update_is_deployed_once_the_endpoint_is_in_service(account: Any) -> None:
    account.state_change(account.register())
    account.endpoint.endpoint_status = "Updating"
    newer = account.register()
    account.state_change(newer)
    account.endpoint_change()
    assert account.served_version() == 1
    account.endpoint.endpoint_status = "InService"

    outcome = account.endpoint_change()

    assert outcome["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert outcome["model_package_arn"] == newer
    assert account.served_version() == 2


@pytest.mark.usefixtures("environment")
def test_version_rejected_during_its_update_is_replaced_once_the_endpoint_is_in_service(account: Any) -> None:
    account.state_change(account.register())
    newer = account.register()
    account.state_change(newer)
    account.endpoint.endpoint_status = "Updating"
    account.judge(newer, "Rejected")
    account.state_change(newer)
    account.endpoint.endpoint_status = "InService"

    account.endpoint_change()

    assert account.served_version() == 1


@pytest.mark.usefixtures("environment")
def test_version_that_was_rolled_back_is_tried_again_by_a_person_only(account: Any) -> None:
    first = account.register()
    account.state_change(first)
    old_config = account.endpoint.endpoint_config_name
    second = account.register()
    account.state_change(second)
    account.endpoint.endpoint_config_name = old_config
    account.endpoint.failure_reason = "One or more alarms triggered during rollout."
    account.forget()

    outcome = account.endpoint_change()

    assert outcome["endpoint_status"] == "InService"
    assert outcome["model_package_arn"] == first
    assert outcome["message"] == (
        "Endpoint digits-endpoint serves digits version 1 after the update to digits version 2 failed "
        "(One or more alarms triggered during rollout): "
        "`run_pipeline.py approve` tries it again, `run_pipeline.py reject` gives it up."
    )
    assert account.changes == []
    account.state_change(second)
    assert account.served_version() == 2


@pytest.mark.usefixtures("environment")
def test_version_approved_after_a_rollback_is_deployed_by_the_endpoints_event(account: Any) -> None:
    account.state_change(account.register())
    account.endpoint.failure_reason = "One or more alarms triggered during rollout."
    account.register()

    account.endpoint_change()

    assert account.served_version() == 2


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("status", ["Failed", "Updating", "Deleting", "SystemUpdating"])
def test_endpoint_event_in_any_other_status_changes_nothing(account: Any, status: str) -> None:
    account.state_change(account.register())
    account.register()
    account.endpoint.endpoint_status = status
    account.endpoint.failure_reason = "No capacity." if status == "Failed" else None
    account.forget()

    outcome = account.endpoint_change()

    reason = " (No capacity)" if status == "Failed" else ""
    assert outcome == {
        "endpoint_name": "digits-endpoint",
        "endpoint_status": status,
        "model_package_arn": "",
        "message": f"Endpoint digits-endpoint is {status}{reason}, so nothing changes.",
    }
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_endpoint_event_does_not_flap_between_the_settings_of_step_and_environment(account: Any) -> None:
    account.step(account.register(), instance_type="ml.c5.xlarge")
    account.forget()

    assert account.endpoint_change()["message"] == "Endpoint digits-endpoint already serves digits version 1."
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_endpoint_event_of_a_deleted_endpoint_creates_nothing(account: Any) -> None:
    account.register()
    account.forget()

    outcome = account.endpoint_change()

    assert outcome["endpoint_status"] == "NotDeployed"
    assert outcome["message"] == "Endpoint digits-endpoint does not exist, so nothing changes."
    assert account.changes == []


@pytest.mark.usefixtures("environment")
def test_event_of_another_endpoint_is_ignored(account: Any) -> None:
    assert account.endpoint_change("another")["message"] == (
        "Endpoint another is not digits-endpoint, so it is left alone."
    )


@pytest.mark.usefixtures("environment")
def test_event_may_give_the_name_in_lower_case(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_NAME", "Digits-Endpoint")

    assert account.endpoint_change("digits-endpoint")["message"] == (
        "Endpoint Digits-Endpoint does not exist, so nothing changes."
    )


def by_package_deletion(account: Any) -> None:
    arn = account.register()
    account.state_change(arn)
    account.backend.model_packages.pop(arn)


def by_hand(account: Any) -> None:
    sagemaker = account.sagemaker
    role = "arn:aws:iam::123456789012:role/hosting"
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="digits-endpoint", EndpointConfigName="c")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("made", [by_package_deletion, by_hand])
def test_endpoint_without_a_registered_version_is_left_alone_by_its_event(
    account: Any, made: Callable[[Any], None]
) -> None:
    made(account)
    account.forget()

    outcome = account.endpoint_change()

    assert outcome["message"] == "Endpoint digits-endpoint serves no registered version, so it is left alone."
    assert account.changes == []
