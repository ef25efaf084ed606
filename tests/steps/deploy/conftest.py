"""An AWS account in moto for steps/deploy.py; what moto lacks (UpdateEndpoint, statuses, faults) is bridged here."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws
from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.core.responses import ActionResult
from moto.s3.models import s3_backends
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import FakeEndpoint, SageMakerModelBackend, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse

import deploy
from classifier.deployment.services import client

GROUP = "digits"
ENDPOINT = "digits-endpoint"
ROLE = "arn:aws:iam::123456789012:role/hosting"
SETTINGS = {
    "endpoint_name": ENDPOINT,
    "execution_role_arn": ROLE,
    "instance_type": "ml.m5.large",
    "initial_instance_count": 1,
}
READS = ("Describe", "List", "Head", "Get")
BUCKET = "artifacts"
CHAMPION = f"s3://{BUCKET}/digits/champion"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/serve:1"


def update_endpoint(self: SageMakerResponse) -> ActionResult:
    """UpdateEndpoint, done at once."""
    backend = self.sagemaker_backend
    endpoint = backend.endpoints[self._get_param("EndpointName")]
    if endpoint.endpoint_status != "InService":
        raise ValidationError(message=f"Cannot update endpoint in status {endpoint.endpoint_status}.")
    name = self._get_param("EndpointConfigName")
    config = backend.describe_endpoint_config(name)
    endpoint.endpoint_config_name = name
    endpoint.production_variants = FakeEndpoint._process_production_variants(endpoint, config["ProductionVariants"])
    endpoint.failure_reason = None
    return ActionResult({"EndpointArn": endpoint.arn})


class Account:
    """What the tests do in the account, and what the handler called."""

    def __init__(self) -> None:
        self.sagemaker = client("sagemaker")
        self.autoscaling = client("application-autoscaling")
        self.s3 = client("s3")
        self.s3.create_bucket(Bucket=BUCKET)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.create_group(GROUP)

    @property
    def backend(self) -> SageMakerModelBackend:
        """moto's own state."""
        return sagemaker_backends["123456789012"]["us-east-1"]

    @property
    def storage(self) -> Any:
        """moto's own state of S3."""
        return s3_backends["123456789012"]["aws"]

    @property
    def bucket(self) -> Any:
        """The bucket of artifacts."""
        return self.storage.buckets[BUCKET]

    @property
    def endpoint(self) -> Any:
        """moto's endpoint."""
        return self.backend.endpoints[ENDPOINT]

    @property
    def changes(self) -> list[str]:
        """The names of the changing operations called since the last `forget`, in order."""
        return [name for name, _ in self.requests if not name.startswith(READS)]

    def request(self, operation: str) -> dict[str, Any]:
        """The last request of an operation."""
        return next(request for name, request in reversed(self.requests) if name == operation)

    def forget(self) -> None:
        """Forget the calls so far."""
        self.requests.clear()

    def create_group(self, name: str) -> None:
        self.sagemaker.create_model_package_group(ModelPackageGroupName=name)

    def register(
        self, approval: str = "Approved", group: str = GROUP, url: str = f"s3://{BUCKET}/digits/jobs/model.tar.gz"
    ) -> str:
        """A new version in the group; its ARN."""
        response = self.sagemaker.create_model_package(
            ModelPackageGroupName=group,
            ModelApprovalStatus=approval,
            InferenceSpecification={
                "Containers": [{"Image": IMAGE, "ModelDataUrl": url}],
                "SupportedContentTypes": ["image/png"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )
        return str(response["ModelPackageArn"])

    def register_model(self, approval: str = "Approved") -> str:
        """A new version with an archive of its own, whose content is the version's number."""
        number = len(self.backend.model_packages) + 1
        key = f"digits/jobs/{number}/model.tar.gz"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=str(number).encode())
        return self.register(approval, url=f"s3://{BUCKET}/{key}")

    def champion(self) -> dict[str, Any]:
        """What is kept for comparison: the version that champion.json names, and the archive's content."""
        stored = self.objects("digits/champion/")
        description = json.loads(stored.get("digits/champion/champion.json", b"{}"))
        arn, model = description.get("model_package_arn"), stored.get("digits/champion/model.tar.gz")
        return {"version": arn and int(arn.rpartition("/")[2]), "model": model and int(model)}

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Key -> content; of moto's own state, which is quicker than asking."""
        return {name: bytes(key.value) for name, key in self.bucket.keys.items() if name.startswith(prefix)}

    def judge(self, arn: str, approval: str) -> None:
        self.sagemaker.update_model_package(
            ModelPackageArn=arn, ModelApprovalStatus=approval, ApprovalDescription="", CustomerMetadataProperties={}
        )

    def step(self, arn: str, **changed: Any) -> dict[str, str]:
        """The pipeline's Lambda step."""
        return deploy.handler({"model_package_arn": arn, **SETTINGS, **changed}, None)

    def state_change(self, arn: str) -> dict[str, str]:
        """EventBridge's event after an approval or a rejection."""
        detail = {"ModelPackageGroupName": GROUP, "ModelPackageArn": arn, "ModelApprovalStatus": "ignored"}
        return deploy.handler(event_of("SageMaker Model Package State Change", detail), None)

    def endpoint_change(self, name: str = ENDPOINT) -> dict[str, str]:
        """EventBridge's event after the endpoint's status changed."""
        detail = {"EndpointName": name, "EndpointStatus": "ignored"}
        return deploy.handler(event_of("SageMaker Endpoint State Change", detail), None)

    def served_version(self) -> int:
        """The model package version behind the endpoint, found through the API."""
        model = self.sagemaker.describe_model(ModelName=self.variant()["ModelName"])
        return int(model["Containers"][0]["ModelPackageName"].rsplit("/", 1)[1])

    def config(self) -> dict[str, Any]:
        """DescribeEndpointConfig of what the endpoint serves."""
        name = self.sagemaker.describe_endpoint(EndpointName=ENDPOINT)["EndpointConfigName"]
        description: dict[str, Any] = self.sagemaker.describe_endpoint_config(EndpointConfigName=name)
        return description

    def variant(self) -> dict[str, Any]:
        """Its only variant."""
        (variant,) = self.config()["ProductionVariants"]
        return dict(variant)

    def configs(self) -> list[str]:
        """The names of all endpoint configurations, oldest first."""
        return list(self.backend.endpoint_configs)

    def models(self) -> list[str]:
        """The names of all models, oldest first."""
        return list(self.backend._models)

    def targets(self) -> list[dict[str, Any]]:
        """The scalable targets."""
        found = self.autoscaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        return [{key: target[key] for key in ("ResourceId", "MinCapacity", "MaxCapacity")} for target in found]

    def policies(self) -> list[tuple[str, float]]:
        """Names and target values of the scaling policies."""
        found = self.autoscaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
        key = "TargetTrackingScalingPolicyConfiguration"
        return [(policy["PolicyName"], policy[key]["TargetValue"]) for policy in found]

    def state(self) -> dict[str, Any]:
        """Everything that the handler makes, without times."""
        configs = self.backend.endpoint_configs.values()
        return {
            "endpoints": {n: (e.endpoint_config_name, e.endpoint_status) for n, e in self.backend.endpoints.items()},
            "configs": {each.endpoint_config_name: each.production_variants for each in configs},
            "models": {name: model.containers for name, model in self.backend._models.items()},
            "targets": self.targets(),
            "policies": self.policies(),
            "champion": self.champion(),
        }

    def saved(self) -> dict[str, Any]:
        """A copy of what the handler reads and changes, for `restore`; quicker than making it again."""
        stores = {name: copy.deepcopy(getattr(backend, name)) for backend, name in self._stores()}
        return {**stores, "champion": self.objects("digits/champion/")}

    def restore(self, saved: dict[str, Any]) -> None:
        for key in self.objects("digits/champion/").keys() - saved["champion"].keys():
            self.bucket.keys.pop(key)
        for key, content in saved["champion"].items():
            self.storage.put_object(BUCKET, key, content)
        for backend, name in self._stores():
            setattr(backend, name, copy.deepcopy(saved[name]))

    def _stores(self) -> list[tuple[Any, str]]:
        names = ("endpoints", "endpoint_configs", "_models", "model_packages")
        scaling = applicationautoscaling_backends["123456789012"]["us-east-1"]
        return [(self.backend, name) for name in names] + [(scaling, name) for name in ("targets", "policies")]

    @contextmanager
    def refusing(self, operation: str, message: str, code: str = "ValidationException") -> Iterator[None]:
        """An operation that is refused, with HTTP status 400."""
        with self.hooked("before-call", lambda model, **_: refusal(code, message) if model.name == operation else None):
            yield

    @contextmanager
    def failing(self, number: int, fault: str, *, is_lasting: bool = False) -> Iterator[None]:
        """The call of this number (from 0), or each from there on, suffers a fault."""
        event, answer = FAULTS[fault]
        count = -1

        def hook(**_: Any) -> Any:
            nonlocal count
            count += 1
            return answer() if count == number or (is_lasting and count > number) else None

        with self.hooked(event, hook):
            yield

    @contextmanager
    def hooked(self, event: str, hook: Callable[..., Any]) -> Iterator[None]:
        """botocore's events of all clients."""
        clients = (self.sagemaker, self.autoscaling, self.s3)
        for each in clients:
            each.meta.events.register(event, hook)
        try:
            yield
        finally:
            for each in clients:
                each.meta.events.unregister(event, hook)


def event_of(detail_type: str, detail: dict[str, Any]) -> dict[str, Any]:
    """An event as EventBridge delivers it."""
    return {"source": "aws.sagemaker", "detail-type": detail_type, "detail": detail}


def refusal(code: str, message: str, status: int = 400) -> tuple[Any, dict[str, Any]]:
    """What botocore takes for an error response."""
    error = {"Code": code, "Message": message}
    return SimpleNamespace(status_code=status), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}


def time_out() -> None:
    """No answer came."""
    raise ReadTimeoutError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com/")


FAULTS: dict[str, tuple[str, Callable[[], Any]]] = {  # botocore's event, and what happens then
    "refused": ("before-call", lambda: refusal("ValidationException", "Not now.")),
    "throttled": ("before-call", lambda: refusal("ThrottlingException", "Rate exceeded")),
    "broken": ("before-call", lambda: refusal("InternalFailure", "Try later.", 500)),
    "timed out": ("before-call", time_out),
    "answer lost": ("after-call", time_out),
}


@contextmanager
def empty_account() -> Iterator[Account]:
    """A new account whose calls are recorded."""
    with mock_aws():
        account = Account()

        def record(model: Any, params: dict[str, Any], **_: Any) -> None:
            body = params["body"] if model.service_model.service_name != "s3" else b""
            account.requests.append((model.name, json.loads(body or "{}")))

        with account.hooked("before-call", record):
            yield account


@pytest.fixture(scope="package", autouse=True)
def clients() -> Iterator[None]:
    """The handler's clients are made once, with credentials that mean nothing."""
    values = {
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "REGION": "us-east-1",
        "DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setattr(SageMakerResponse, "update_endpoint", update_endpoint, raising=False)
        client.cache_clear()
        yield
        client.cache_clear()


@pytest.fixture
def account() -> Iterator[Account]:
    """An empty account."""
    with empty_account() as made:
        yield made


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the function's environment variables, by the names of the settings."""

    def set_all(**settings: object) -> None:
        for name, value in {**SETTINGS, **settings}.items():
            monkeypatch.setenv(name.upper(), str(value))

    return set_all


@pytest.fixture
def environment(set_environment: Callable[..., None]) -> None:
    """The function's environment with nothing but what it needs."""
    set_environment()
