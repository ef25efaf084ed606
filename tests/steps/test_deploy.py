"""steps/deploy.py against moto; what moto lacks (UpdateEndpoint, statuses, faults) is bridged here."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse

import deploy

GROUP = "digits"
ENDPOINT = "digits-endpoint"
ROLE = "arn:aws:iam::123456789012:role/hosting"
STEP_EVENT = {
    "endpoint_name": ENDPOINT,
    "execution_role_arn": ROLE,
    "instance_type": "ml.m5.large",
    "initial_instance_count": 1,
}
CHANGES = {"CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint", "DeleteEndpoint"}


def _update_endpoint(self: SageMakerResponse) -> ActionResult:
    endpoint = self.sagemaker_backend.endpoints[self._get_param("EndpointName")]
    endpoint.endpoint_config_name = self._get_param("EndpointConfigName")
    return ActionResult({"EndpointArn": endpoint.arn})


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty account; yields moto's SageMaker backend."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(SageMakerResponse, "update_endpoint", _update_endpoint, raising=False)
    deploy.sagemaker.cache_clear()
    with mock_aws():
        deploy.sagemaker().create_model_package_group(ModelPackageGroupName=GROUP)
        yield sagemaker_backends["123456789012"]["us-east-1"]
    deploy.sagemaker.cache_clear()


@pytest.fixture
def calls(aws: Any) -> list[str]:
    """The names of the changing operations called, in order."""
    made: list[str] = []

    def record(model: Any, **_: Any) -> None:
        if model.name in CHANGES:
            made.append(model.name)

    deploy.sagemaker().meta.events.register("before-call.sagemaker", record)
    return made


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in STEP_EVENT.items():
        monkeypatch.setenv(key.upper(), str(value))


def register(approval: str = "Approved", group: str = GROUP) -> str:
    """A new version in the group; returns its ARN."""
    container = {"Image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/serve:1", "ModelDataUrl": "s3://b/model.tar.gz"}
    response = deploy.sagemaker().create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus=approval,
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )
    return str(response["ModelPackageArn"])


def judge(arn: str, approval: str) -> None:
    deploy.sagemaker().update_model_package(
        ModelPackageArn=arn, ModelApprovalStatus=approval, ApprovalDescription="", CustomerMetadataProperties={}
    )


def step(arn: str, **changed: Any) -> dict[str, str]:
    return deploy.handler({"model_package_arn": arn, **STEP_EVENT, **changed}, None)


def state_change(arn: str) -> dict[str, str]:
    event = {
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Model Package State Change",
        "detail": {"ModelPackageGroupName": GROUP, "ModelPackageArn": arn, "ModelApprovalStatus": "ignored"},
    }
    return deploy.handler(event, None)


def served_version() -> int:
    """The model package version behind the endpoint, found through the API."""
    client = deploy.sagemaker()
    config = client.describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
    variants = client.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"]
    containers = client.describe_model(ModelName=variants[0]["ModelName"])["Containers"]
    return int(containers[0]["ModelPackageName"].rsplit("/", 1)[1])


def test_approved_version_creates_model_configuration_and_endpoint(calls: list[str]) -> None:
    arn = register()

    outcome = step(arn)

    assert outcome == {
        "endpoint_name": ENDPOINT,
        "endpoint_status": "Creating",
        "model_package_arn": arn,
        "message": "Endpoint digits-endpoint is being created with digits version 1.",
    }
    assert calls == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    config_name = deploy.sagemaker().describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
    config = deploy.sagemaker().describe_endpoint_config(EndpointConfigName=config_name)
    (variant,) = config["ProductionVariants"]
    assert variant["InstanceType"] == "ml.m5.large"
    assert variant["InitialInstanceCount"] == 1
    model = deploy.sagemaker().describe_model(ModelName=variant["ModelName"])
    assert model["ExecutionRoleArn"] == ROLE
    assert served_version() == 1
    assert config_name.startswith("digits-1-")


def test_waiting_version_is_not_deployed(calls: list[str]) -> None:
    arn = register("PendingManualApproval")

    assert step(arn) == {
        "endpoint_name": ENDPOINT,
        "endpoint_status": "WaitingForApproval",
        "model_package_arn": arn,
        "message": (
            "digits version 1 waits for approval: nothing is deployed until `run_pipeline.py approve` approves it."
        ),
    }
    assert calls == []


def test_rejected_version_is_not_deployed_by_the_step(calls: list[str]) -> None:
    step(register())
    calls.clear()

    outcome = step(register("Rejected"))

    assert outcome["endpoint_status"] == "WaitingForApproval"
    assert outcome["message"] == (
        "digits version 2 is rejected: nothing is deployed until `run_pipeline.py approve` approves it."
    )
    assert calls == []


@pytest.mark.usefixtures("environment")
def test_approval_event_deploys_with_values_from_the_environment() -> None:
    arn = register("PendingManualApproval")
    assert state_change(arn)["endpoint_status"] == "WaitingForApproval"

    judge(arn, "Approved")

    assert state_change(arn)["endpoint_status"] == "Creating"
    assert served_version() == 1


def test_new_version_updates_the_endpoint(calls: list[str]) -> None:
    step(register())
    calls.clear()

    outcome = step(register())

    assert outcome["endpoint_status"] == "Updating"
    assert outcome["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert calls == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]
    assert served_version() == 2


def test_repeating_a_deployment_changes_nothing(calls: list[str]) -> None:
    arn = register()
    step(arn)
    calls.clear()

    outcome = step(arn)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["message"] == "Endpoint digits-endpoint already serves digits version 1."
    assert calls == []


def test_another_instance_type_is_a_new_configuration_with_the_same_model(calls: list[str]) -> None:
    arn = register()
    step(arn)
    calls.clear()

    assert step(arn, instance_type="ml.c5.large")["endpoint_status"] == "Updating"
    assert calls == ["CreateEndpointConfig", "UpdateEndpoint"]


def test_what_an_interrupted_call_left_is_reused(calls: list[str], aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = register()
    with monkeypatch.context() as patch, pytest.raises(deploy.DeployError):
        patch.setattr(SageMakerResponse, "create_endpoint", _refuse("No capacity."))
        step(arn)
    calls.clear()

    step(arn)

    assert calls == ["CreateEndpoint"]


def test_model_created_by_a_concurrent_call_is_reused(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SageMakerResponse.create_model

    def lose_the_race(self: SageMakerResponse) -> ActionResult:
        create(self)
        raise ValidationError(message='Cannot create already existing model "arn".')

    monkeypatch.setattr(SageMakerResponse, "create_model", lose_the_race)

    assert step(register())["endpoint_status"] == "Creating"
    assert served_version() == 1


@pytest.mark.usefixtures("environment")
def test_late_event_of_an_older_version_changes_nothing(calls: list[str]) -> None:
    older, newer = register(), register()
    state_change(newer)
    calls.clear()

    outcome = state_change(older)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["model_package_arn"] == newer
    assert outcome["message"] == (
        "digits version 1 is older than the approved version 2. "
        "Endpoint digits-endpoint already serves digits version 2."
    )
    assert calls == []


def test_step_deploys_a_newer_version_approved_meanwhile() -> None:
    older, newer = register(), register()

    outcome = step(older)

    assert outcome["model_package_arn"] == newer
    assert outcome["message"] == (
        "digits version 1 is older than the approved version 2. "
        "Endpoint digits-endpoint is being created with digits version 2."
    )


def test_newer_version_that_waits_does_not_hold_back_an_approved_one() -> None:
    approved = register()
    register("PendingManualApproval")

    assert step(approved)["model_package_arn"] == approved
    assert served_version() == 1


@pytest.mark.usefixtures("environment")
def test_rejecting_the_version_in_service_brings_back_the_newest_still_approved() -> None:
    for _ in range(3):
        newest = register()
        state_change(newest)
    judge(newest, "Rejected")

    outcome = state_change(newest)

    assert outcome["endpoint_status"] == "Updating"
    assert outcome["model_package_arn"].endswith("/2")
    assert outcome["message"] == (
        "digits version 3 is rejected. Endpoint digits-endpoint is being updated to digits version 2."
    )
    assert served_version() == 2


@pytest.mark.usefixtures("environment")
def test_rejecting_a_version_that_waited_changes_nothing(calls: list[str]) -> None:
    state_change(register())
    waiting = register("PendingManualApproval")
    judge(waiting, "Rejected")
    calls.clear()

    outcome = state_change(waiting)

    assert outcome["message"] == (
        "digits version 2 is rejected. Endpoint digits-endpoint already serves digits version 1."
    )
    assert calls == []


@pytest.mark.usefixtures("environment")
def test_rejecting_the_only_version_leaves_the_endpoint_in_service(calls: list[str]) -> None:
    arn = register()
    state_change(arn)
    judge(arn, "Rejected")
    calls.clear()

    outcome = state_change(arn)

    assert outcome["endpoint_status"] == "InService"
    assert outcome["message"] == (
        "digits version 1 is rejected. No other version is approved, so endpoint digits-endpoint keeps what it serves."
    )
    assert calls == []


@pytest.mark.usefixtures("environment")
def test_rejection_creates_no_endpoint(calls: list[str]) -> None:
    register()
    rejected = register("Rejected")

    outcome = state_change(rejected)

    assert outcome["endpoint_status"] == "NotDeployed"
    assert outcome["message"] == (
        "digits version 2 is rejected. Endpoint digits-endpoint does not exist, so nothing changes."
    )
    assert calls == []


@pytest.mark.parametrize("status", ["Pending", "InProgress"])
def test_unfinished_model_package_waits(aws: Any, calls: list[str], status: str) -> None:
    arn = register()
    aws.model_packages[arn].model_package_status = status

    outcome = step(arn)

    assert outcome["endpoint_status"] == f"ModelPackage{status}"
    assert outcome["message"] == (
        f"digits version 1 is still being created ({status}): it is deployed once it is Completed."
    )
    assert calls == []


def test_failed_model_package_is_an_error(aws: Any) -> None:
    arn = register()
    aws.model_packages[arn].model_package_status = "Failed"

    with pytest.raises(deploy.DeployError) as error:
        step(arn)
    assert str(error.value) == (
        "digits version 1 has status Failed and cannot be deployed: "
        "register the model again, or approve another version."
    )


@pytest.mark.usefixtures("environment")
def test_unfinished_version_does_not_take_over_after_a_rejection(aws: Any) -> None:
    first, second, third = register(), register(), register()
    state_change(third)
    aws.model_packages[second].model_package_status = "InProgress"
    judge(third, "Rejected")

    assert state_change(third)["model_package_arn"] == first


def test_failed_endpoint_is_deleted_and_created_again(aws: Any, calls: list[str]) -> None:
    arn = register()
    step(arn)
    aws.endpoints[ENDPOINT].endpoint_status = "Failed"
    calls.clear()

    outcome = step(arn)

    assert outcome["endpoint_status"] == "Creating"
    assert calls == ["DeleteEndpoint", "CreateEndpoint"]


def test_failed_endpoint_that_is_slow_to_go_is_not_waited_for(
    aws: Any, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = register()
    step(arn)
    aws.endpoints[ENDPOINT].endpoint_status = "Failed"
    aws.endpoints[ENDPOINT].failure_reason = "The container {app} did not answer /ping."
    monkeypatch.setattr(
        type(aws), "delete_endpoint", lambda self, name: setattr(self.endpoints[name], "endpoint_status", "Deleting")
    )
    calls.clear()

    assert step(arn) == {
        "endpoint_name": ENDPOINT,
        "endpoint_status": "Deleting",
        "model_package_arn": arn,
        "message": (
            "Endpoint digits-endpoint had failed (The container {app} did not answer /ping) and is being deleted: "
            "once it is gone, `run_pipeline.py approve` creates it anew with digits version 1."
        ),
    }
    assert calls == ["DeleteEndpoint"]


BUSY = {
    "Creating": "once it is InService, `run_pipeline.py approve` deploys it",
    "Updating": "once it is InService, `run_pipeline.py approve` deploys it",
    "SystemUpdating": "once it is InService, `run_pipeline.py approve` deploys it",
    "RollingBack": "once it is InService, `run_pipeline.py approve` deploys it",
    "OutOfService": "once it is InService, `run_pipeline.py approve` deploys it",
    "Deleting": "once it is gone, `run_pipeline.py approve` creates it anew",
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve`",
}


@pytest.mark.parametrize("status", BUSY)
def test_busy_endpoint_is_left_alone(aws: Any, calls: list[str], status: str) -> None:
    step(register())
    aws.endpoints[ENDPOINT].endpoint_status = status
    calls.clear()

    outcome = step(register())

    assert outcome["endpoint_status"] == status
    assert outcome["message"] == (
        f"Endpoint digits-endpoint is {status}, so digits version 2 is not deployed: {BUSY[status]}."
    )
    assert calls == []


def test_deployment_under_way_is_recognised(aws: Any, calls: list[str]) -> None:
    arn = register()
    step(arn)
    aws.endpoints[ENDPOINT].endpoint_status = "Creating"
    calls.clear()

    assert step(arn)["message"] == "Endpoint digits-endpoint is Creating with digits version 1 already."
    assert calls == []


def test_update_under_way_is_recognised_by_the_configuration_it_goes_to(aws: Any, calls: list[str]) -> None:
    older, newer = register(), register("PendingManualApproval")
    step(older)
    old_config = aws.endpoints[ENDPOINT].endpoint_config_name
    judge(newer, "Approved")
    step(newer)
    endpoint = aws.endpoints[ENDPOINT]  # as SageMaker describes it until the update is done
    endpoint.endpoint_status = "Updating"
    endpoint.pending_deployment_summary = {"EndpointConfigName": endpoint.endpoint_config_name}
    endpoint.endpoint_config_name = old_config
    calls.clear()

    assert step(newer)["message"] == "Endpoint digits-endpoint is Updating with digits version 2 already."
    assert calls == []


def test_endpoint_that_is_being_deleted_is_not_taken_for_deployed(aws: Any) -> None:
    arn = register()
    step(arn)
    aws.endpoints[ENDPOINT].endpoint_status = "Deleting"

    assert step(arn)["message"] == (
        "Endpoint digits-endpoint is Deleting, so digits version 1 is not deployed: "
        "once it is gone, `run_pipeline.py approve` creates it anew."
    )


def test_version_number_used_again_with_other_content_is_a_new_model(aws: Any, calls: list[str]) -> None:
    arn = register()
    step(arn)
    aws.model_packages[arn].inference_specification["Containers"][0]["ModelDataUrl"] = "s3://b/another.tar.gz"
    calls.clear()

    assert step(arn)["endpoint_status"] == "Updating"
    assert calls == ["CreateModel", "CreateEndpointConfig", "UpdateEndpoint"]


def test_long_group_names_are_cut_to_63_characters() -> None:
    group = "g" + "-a" * 31
    deploy.sagemaker().create_model_package_group(ModelPackageGroupName=group)

    step(register(group=group))

    name = deploy.sagemaker().describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
    assert len(name) <= 63
    assert name.startswith("g-a-a")
    assert "--" not in name


def _refuse(message: str, code: str = "ValidationException") -> Callable[[SageMakerResponse], ActionResult]:
    def refuse(self: SageMakerResponse) -> ActionResult:
        error = ValidationError(message=message)
        error.code = code
        raise error

    return refuse


REFUSALS = [
    (
        "AccessDeniedException",
        "User: x is not authorized to perform: sagemaker:CreateModel.",
        "SageMaker refused CreateModel: User: x is not authorized to perform: sagemaker:CreateModel; "
        "allow the function's role this action.",
    ),
    (
        "ResourceLimitExceeded",
        "The account-level service limit is 0\n  instances.",
        "SageMaker refused CreateModel: The account-level service limit is 0 instances; "
        "ask for a higher quota or choose another deploy.instance_type.",
    ),
    (
        "ValidationException",
        "Could not access model data at s3://b/model.tar.gz.",
        "SageMaker refused CreateModel: Could not access model data at s3://b/model.tar.gz; correct what it names.",
    ),
]


@pytest.mark.filterwarnings("ignore:.*does not match an error shape")
@pytest.mark.parametrize(("code", "message", "sentence"), REFUSALS)
def test_refusal_is_one_sentence(monkeypatch: pytest.MonkeyPatch, code: str, message: str, sentence: str) -> None:
    monkeypatch.setattr(SageMakerResponse, "create_model", _refuse(message, code))

    with pytest.raises(deploy.DeployError) as error:
        step(register())
    assert str(error.value) == sentence


@pytest.mark.filterwarnings("ignore:.*does not match an error shape")
def test_fault_of_the_service_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SageMakerResponse, "create_model", _refuse("Try later.", "InternalFailure"))

    with pytest.raises(ClientError, match="Try later"):
        step(register())


def test_unknown_version_is_one_sentence() -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model-package/digits/9"

    with pytest.raises(deploy.DeployError) as error:
        step(arn)
    assert str(error.value) == (
        f"SageMaker refused DescribeModelPackage: Model package {arn} not found; correct what it names."
    )


def test_value_that_botocore_refuses_is_one_sentence() -> None:
    with pytest.raises(deploy.DeployError) as error:
        step(register(), execution_role_arn="short")
    assert str(error.value) == (
        "A value is not acceptable to SageMaker: Invalid length for parameter "
        "ExecutionRoleArn, value: 5, valid min length: 20; correct it."
    )


def test_missing_value_names_the_key_and_the_variable() -> None:
    arn = register()

    with pytest.raises(deploy.DeployError) as error:
        deploy.handler({"model_package_arn": arn, "endpoint_name": ENDPOINT, "initial_instance_count": 1}, None)
    assert str(error.value) == (
        "The event has no 'execution_role_arn' and the environment variable EXECUTION_ROLE_ARN is not set: "
        "give one of them."
    )


@pytest.mark.parametrize("count", [0, "many", 1.5])
def test_instance_count_must_be_a_positive_whole_number(count: object) -> None:
    with pytest.raises(deploy.DeployError) as error:
        step(register(), initial_instance_count=count)
    assert str(error.value) == f"initial_instance_count must be a whole number of at least 1, but got '{count}'."


@pytest.mark.usefixtures("environment")
def test_event_of_another_kind_is_refused() -> None:
    with pytest.raises(deploy.DeployError) as error:
        deploy.handler({"detail-type": "SageMaker Endpoint State Change", "detail": {}}, None)
    assert str(error.value) == (
        "The event is a 'SageMaker Endpoint State Change', "
        "but only a 'SageMaker Model Package State Change' is understood."
    )


def test_client_is_made_once() -> None:
    assert deploy.sagemaker() is deploy.sagemaker()


def test_handler_prints_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = step(register())

    assert capsys.readouterr().out == outcome["message"] + "\n"


def test_imports_are_boto3_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(deploy.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {name.partition(".")[0] for name in modules} - sys.stdlib_module_names == {"boto3", "botocore"}
