"""The requests that serve one version: plain data, made before anything is called.

Names tell where a resource belongs, so that no other record is needed:

    model          <group>-<version>-<endpoint>-<content>
    configuration  <group>-<version>-<endpoint>-<content>-<content>

`<endpoint>` and `<content>` are six hexadecimal digits of a hash, of the endpoint's name and of the request without its
tags. So the same request finds what an earlier call made, a changed one never overwrites, and a configuration's name
starts with its model's.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from classifier.deployment.hosting import Hosting
from classifier.deployment.model_versions import ModelVersion

VARIANT = "AllTraffic"  # always the same, so that autoscaling survives an update
GROUP_LENGTH = 35  # of the 63 characters of a name; the rest is for six digits of version and three hashes
LARGEST_CANARY_PERCENT = 50  # the service's limit
PROVISIONING_SECONDS = 3600  # for starting the new instances, beside the waits
LOCAL_STORAGE = re.compile(r"ml\.([a-z]+\d+[a-z]*d|g[5-9]|p[5-9]|trn|dl)")  # encrypted by hardware; refuse a KMS key


@dataclass(frozen=True)
class Plan:
    """CreateModel and CreateEndpointConfig for one version."""

    version: ModelVersion
    hosting: Hosting
    model: dict[str, Any]
    endpoint_config: dict[str, Any]

    @property
    def model_name(self) -> str:
        """The name of the model."""
        return str(self.model["ModelName"])

    @property
    def config_name(self) -> str:
        """The name of the endpoint configuration."""
        return str(self.endpoint_config["EndpointConfigName"])


def make_plan(hosting: Hosting, version: ModelVersion) -> Plan:
    """The requests for a version."""
    group = version.group[:GROUP_LENGTH].rstrip("-")
    model = _model(hosting, version)
    model_name = f"{group}-{version.version}-{endpoint_mark(hosting)}-{_digest([model, version.content])}"
    endpoint_config = _endpoint_config(hosting, model_name)
    config_name = f"{model_name}-{_digest(endpoint_config)}"
    return Plan(
        version,
        hosting,
        {"ModelName": model_name, **model, **tags(hosting)},
        {"EndpointConfigName": config_name, **endpoint_config, **tags(hosting)},
    )


def endpoint_mark(hosting: Hosting) -> str:
    """The part of a name that belongs to one endpoint."""
    return _digest(hosting.endpoint_name)


def tags(hosting: Hosting) -> dict[str, Any]:
    """Tags as create requests take them."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in hosting.tags.items()]} if hosting.tags else {}


def update_request(plan: Plan, endpoint: dict[str, Any]) -> dict[str, Any]:
    """UpdateEndpoint from what DescribeEndpoint says to the plan.

    Deployment guardrails are for instances: to or from serverless, the update is plain. An autoscaled endpoint keeps
    the number of instances that it has now; it would fall back to the configuration's.
    """
    hosting = plan.hosting
    request: dict[str, Any] = {"EndpointName": hosting.endpoint_name, "EndpointConfigName": plan.config_name}
    if hosting.is_serverless or is_serverless(endpoint):
        return request
    count = hosting.initial_instance_count
    if hosting.is_autoscaled:
        count = _variant(endpoint).get("DesiredInstanceCount", count)
        request |= {
            "RetainAllVariantProperties": True,
            "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
        }
    return {**request, "DeploymentConfig": deployment_config(hosting, count)}


def deployment_config(hosting: Hosting, instance_count: int) -> dict[str, Any]:
    """Blue/green: a canary first where there are instances to divide; alarms, if any, roll it back."""
    wait = hosting.canary_wait_seconds
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wait}
    percent = min(round(100 * hosting.canary_fraction), LARGEST_CANARY_PERCENT)
    if instance_count > 1 and percent:
        routing |= {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": percent}}
    policy = {
        "TrafficRoutingConfiguration": routing,
        "TerminationWaitInSeconds": wait if hosting.rollback_alarms else 0,  # the old fleet costs as much as the new
        "MaximumExecutionTimeoutInSeconds": 2 * wait + PROVISIONING_SECONDS,
    }
    alarms = [{"AlarmName": name} for name in hosting.rollback_alarms]
    rollback = {"AutoRollbackConfiguration": {"Alarms": alarms}} if alarms else {}
    return {"BlueGreenUpdatePolicy": policy, **rollback}


def is_serverless(endpoint: dict[str, Any]) -> bool:
    """Whether the endpoint in service is a serverless one."""
    return "CurrentServerlessConfig" in _variant(endpoint)


def _variant(endpoint: dict[str, Any]) -> dict[str, Any]:
    return next(iter(endpoint.get("ProductionVariants", [])), {})


def _model(hosting: Hosting, version: ModelVersion) -> dict[str, Any]:
    model: dict[str, Any] = {
        "ExecutionRoleArn": hosting.execution_role_arn,
        "Containers": [{"ModelPackageName": version.arn}],
    }
    if hosting.subnet_ids:
        model["VpcConfig"] = {
            "Subnets": list(hosting.subnet_ids),
            "SecurityGroupIds": list(hosting.security_group_ids),
        }
    if hosting.network_isolation:
        model["EnableNetworkIsolation"] = True
    return model


def _endpoint_config(hosting: Hosting, model_name: str) -> dict[str, Any]:
    capacity: dict[str, Any] = {
        "InstanceType": hosting.instance_type,
        "InitialInstanceCount": hosting.initial_instance_count,
        "InitialVariantWeight": 1.0,
    }
    if hosting.is_serverless:
        concurrency = hosting.serverless_max_concurrency
        memory = hosting.serverless_memory_mb
        capacity = {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}}
    config: dict[str, Any] = {"ProductionVariants": [{"VariantName": VARIANT, "ModelName": model_name, **capacity}]}
    if hosting.data_capture_percent:
        config["DataCaptureConfig"] = _data_capture(hosting)
    if hosting.kms_key_arn and not hosting.is_serverless and not LOCAL_STORAGE.match(hosting.instance_type):
        config["KmsKeyId"] = hosting.kms_key_arn  # of the instances' volumes
    return config


def _data_capture(hosting: Hosting) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": hosting.data_capture_percent,
        "DestinationS3Uri": hosting.data_capture_uri,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        **({"KmsKeyId": hosting.kms_key_arn} if hosting.kms_key_arn else {}),
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:6]
