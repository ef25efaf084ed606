"""An AWS account in moto for steps/deploy.py; what moto lacks (UpdateEndpoint, statuses, faults) is bridged here."""

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws
from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.core.responses import ActionResult
from moto.s3.models import s3_backends
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import FakeEndpoint, sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse

import deploy
from pipeline.compile.placement import local_placement
from pipeline.config.config import Config
from pipeline.service.local_target import deploy_environment

SETTINGS = deploy_environment(Config(), local_placement()) | {
    "ENDPOINT_NAME": "digits-endpoint",
    "EXECUTION_ROLE_ARN": "arn:aws:iam::123456789012:role/hosting",
    "MODELS_URI": "s3://artifacts/digits/models",
    "CHAMPION_URI": "s3://artifacts/digits/champion",
    "AUTOSCALING_MIN": "1",
}
APPROVALS = {"A": "Approved", "P": "PendingManualApproval", "R": "Rejected"}
READING = ("Describe", "List", "Head", "Get")
MOMENTS = map(datetime.fromtimestamp, itertools.count(1_800_000_000))  # of changes of an endpoint


def update_endpoint(self: SageMakerResponse) -> ActionResult:
    """UpdateEndpoint, done at once."""
    backend, name = self.sagemaker_backend, self._get_param("EndpointConfigName")
    endpoint, config = backend.endpoints[self._get_param("EndpointName")], backend.describe_endpoint_config(name)
    if endpoint.endpoint_status != "InService":
        raise ValidationError(message=f"Cannot update endpoint in status {endpoint.endpoint_status}.")
    endpoint.previous_config_name = endpoint.endpoint_config_name  # type: ignore[attr-defined]
    endpoint.endpoint_config_name = name
    endpoint.production_variants = FakeEndpoint._process_production_variants(endpoint, config["ProductionVariants"])
    endpoint.failure_reason, endpoint.last_modified_time = None, next(MOMENTS)
    return ActionResult({"EndpointArn": endpoint.arn})


class Account:
    """What the tests do in the account, and what the handler called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        services = ("sagemaker", "application-autoscaling", "s3", "cloudwatch")
        self.patch, self.clients = patch, [*map(deploy.client, services)]
        self.sagemaker, self.autoscaling, self.s3, self.cloudwatch = self.clients
        self.backend = sagemaker_backends["123456789012"]["us-east-1"]
        scaling = applicationautoscaling_backends["123456789012"]["us-east-1"]
        self.backends = (self.backend, scaling, s3_backends["123456789012"]["aws"])
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.arns: list[str] = []
        self.s3.create_bucket(Bucket="artifacts")
        self.sagemaker.create_model_package_group(ModelPackageGroupName="digits")
        self.set(**SETTINGS)

    @property
    def endpoint(self) -> Any:
        return self.backend.endpoints["digits-endpoint"]

    @property
    def changes(self) -> list[str]:
        """The names of the changing operations called since the last `requests.clear`, in order."""
        return [name for name, _ in self.requests if not name.startswith(READING)]

    def set(self, **variables: Any) -> None:
        """Variables of the function's environment."""
        for name, value in variables.items():
            self.patch.setenv(name, str(value))

    def request(self, operation: str) -> dict[str, Any]:
        return next(request for name, request in reversed(self.requests) if name == operation)

    def put(self, key: str, content: str) -> None:
        self.s3.put_object(Bucket="artifacts", Key=f"digits/{key}", Body=content.encode(), ChecksumAlgorithm="SHA256")

    def register(self, approval: str = "Approved", **metadata: str | None) -> str:
        """A new version with an archive of its own, whose content is the version's number; its ARN."""
        number = str(len(self.arns) + 1)
        for name in ("model.tar.gz", "baseline.json"):
            self.put(f"jobs/{number}/{name}", number)
        uri = f"s3://artifacts/digits/jobs/{number}"
        known = {"archive_sha256": hashlib.sha256(number.encode()).hexdigest(), **metadata}
        statistics = {"ContentType": "application/json", "S3Uri": f"{uri}/evaluation.json"}
        container = {"Image": "image", "ModelDataUrl": f"{uri}/model.tar.gz", "Environment": {"A": "1"}}
        answer = self.sagemaker.create_model_package(
            ModelPackageGroupName="digits",
            ModelApprovalStatus=approval,
            CustomerMetadataProperties={name: value for name, value in known.items() if value},
            ModelMetrics={"ModelQuality": {"Statistics": statistics}},
            InferenceSpecification={
                "Containers": [container], "SupportedContentTypes": ["a/b"], "SupportedResponseMIMETypes": ["a/b"],
            },
        )  # fmt: skip
        self.arns.append(answer["ModelPackageArn"])
        return self.arns[-1]

    def play(self, script: str) -> dict[str, str]:
        """Let things happen one after the other; the handler's last answer.

        2A registers version 2 as Approved, or approves it, and delivers the event; P and R are the other states, ~2A
        keeps the event back, 2 is the event alone, s2 the pipeline's step. =Status is the endpoint's from there on, e
        its event, x its end. < rolls its last update back, <? without a reason, <0 with an empty one.
        """
        answer: dict[str, str] = {}
        for word in script.split():
            if parts := re.fullmatch(r"([s~]?)(\d)([APR]?)", word):
                how, number, approval = parts.groups()
                if int(number) > len(self.arns):
                    self.register(APPROVALS[approval])
                arn = self.arns[int(number) - 1]
                if approval:  # moto forgets the other two where they are not given
                    known = self.sagemaker.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"]
                    state = {"ModelApprovalStatus": APPROVALS[approval], "ApprovalDescription": ""}
                    self.sagemaker.update_model_package(ModelPackageArn=arn, **state, CustomerMetadataProperties=known)
                if how != "~":
                    answer = self.step(arn) if how else self.event("Model Package", ModelPackageArn=arn)
            elif word == "e":
                answer = self.event("Endpoint", EndpointName="digits-endpoint")
            elif word == "x":
                self.backend.delete_endpoint("digits-endpoint")
            elif word.startswith("="):
                self.endpoint.endpoint_status = word[1:]
            else:
                self.endpoint.endpoint_config_name = self.endpoint.previous_config_name
                self.endpoint.failure_reason = {"<": "An alarm went off.", "<?": None, "<0": ""}[word]
                self.endpoint.last_modified_time = next(MOMENTS)
        return answer

    def step(self, arn: str, endpoint_name: str = "digits-endpoint") -> dict[str, str]:
        """The pipeline's Lambda step."""
        return deploy.handler({"model_package_arn": arn, "endpoint_name": endpoint_name}, None)

    def event(self, of: str, **detail: str) -> dict[str, str]:
        """An event as EventBridge delivers it."""
        event = {"source": "aws.sagemaker", "detail-type": f"SageMaker {of} State Change", "detail": detail}
        return deploy.handler(event, None)

    def served(self) -> int | None:
        """The number of the version behind the endpoint, found through the API; None without an endpoint."""
        if "digits-endpoint" not in self.backend.endpoints:
            return None
        model = self.sagemaker.describe_model(ModelName=self.endpoint.endpoint_config_name)
        tags = {tag["Key"]: tag["Value"] for tag in self.sagemaker.list_tags(ResourceArn=model["ModelArn"])["Tags"]}
        number = tags["deploy:version"].rpartition("/")[2]
        key = model["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://artifacts/")
        assert self.backends[2].buckets["artifacts"].keys[key].value.decode() == number
        return int(number)

    def versions(self) -> list[str]:
        """The versions that have an endpoint configuration and a model, oldest first."""
        assert list(self.backend.endpoint_configs) == list(self.backend._models)
        return [name.split("-")[1] for name in self.backend.endpoint_configs]

    def champion(self) -> int | None:
        """The version that champion.json names, which is the one beside it."""
        if not (stored := self.objects()):
            return None
        arn = json.loads(stored["champion.json"])["model_package_arn"]
        assert stored["model.tar.gz"] == stored["baseline.json"] == arn.rpartition("/")[2]
        return int(arn.rpartition("/")[2])

    def objects(self) -> dict[str, str]:
        """The champion's objects, of moto's own state, which is quicker than asking."""
        keys, folder = self.backends[2].buckets["artifacts"].keys, "digits/champion/"
        return {name[len(folder) :]: key.value.decode() for name, key in keys.items() if name.startswith(folder)}

    def targets(self) -> list[tuple[int, int]]:
        found = self.autoscaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        return [(target["MinCapacity"], target["MaxCapacity"]) for target in found]

    def state(self) -> dict[str, Any]:
        """Everything that the handler makes, without times."""
        return {
            "endpoints": {n: (e.endpoint_config_name, e.endpoint_status) for n, e in self.backend.endpoints.items()},
            "configs": {name: each.production_variants for name, each in self.backend.endpoint_configs.items()},
            "models": {name: model.primary_container for name, model in self.backend._models.items()},
            "scaling": (self.targets(), len(self.backends[1].policies)),
            "champion": self.objects(),
        }

    def saved(self) -> list[dict[str, Any]]:
        """A copy of what is in the account, for `restore`; quicker than making it again."""
        return [copy.deepcopy(vars(backend)) for backend in self.backends]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        for backend, values in zip(self.backends, saved, strict=True):
            vars(backend).update(copy.deepcopy(values))

    def refusing(self, operation: str, message: str, code: str) -> Any:
        """An operation that is refused, with HTTP status 400."""
        return self.hooked(f"before-call.*.{operation}", lambda **_: refusal(code, message))

    @contextmanager
    def hooked(self, event: str, hook: Any) -> Iterator[None]:
        """botocore's events of all clients."""
        for each in self.clients:
            each.meta.events.register(event, hook)
        try:
            yield
        finally:
            for each in self.clients:
                each.meta.events.unregister(event, hook)


def refusal(code: str, message: str) -> tuple[Any, dict[str, Any]]:
    """What botocore takes for an error response."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return SimpleNamespace(status_code=400), answer


def time_out(**_: Any) -> None:
    raise ReadTimeoutError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com/")


@pytest.fixture(scope="package", autouse=True)
def clients() -> Iterator[None]:
    """The handler's clients are made once, with credentials that mean nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        patch.setattr(SageMakerResponse, "update_endpoint", update_endpoint, raising=False)
        deploy.client.cache_clear()
        yield
        deploy.client.cache_clear()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An empty account whose calls are recorded, and the function's environment."""
    with mock_aws():
        made = Account(monkeypatch)

        def record(model: Any, params: dict[str, Any], **_: Any) -> None:
            is_json = model.service_model.service_name in ("sagemaker", "application-autoscaling")
            made.requests.append((model.name, json.loads(params["body"] or "{}") if is_json else {}))

        with made.hooked("before-call", record):
            yield made
