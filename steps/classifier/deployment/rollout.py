"""The requests that serve one version: plain data, made before anything is called.

Names tell where a resource belongs: `<group>-<version>-<endpoint>-<content>` is a model, the same and another
`-<content>` its configuration. The last are six hexadecimal digits of a hash, of the endpoint's name and of the request
without its tags. So the same request finds what an earlier call made, and a changed one never overwrites.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from classifier.deployment.hosting import Hosting
from classifier.deployment.services import ModelVersion

VARIANT = "AllTraffic"  # always the same, so that autoscaling survives an update
ATTEMPTED_TAG = "deploy:attempted"  # of the endpoint: the version that it was last asked to serve
GROUP_LENGTH = 35  # of the 63 characters of a name; the rest is for six digits of version and three hashes
LARGEST_CANARY_PERCENT = 50  # the service's limit
PROVISIONING_SECONDS = 3600  # for starting the new instances, beside the waits
LOCAL_STORAGE = re.compile(r"ml\.([a-z]+\d+[a-z]*d|g[5-9]|p[5-9]|trn|dl)")  # encrypted by hardware; refuse a KMS key


@dataclass(frozen=True)
class Plan:
    """CreateModel, CreateEndpointConfig and CreateEndpoint for one version."""

    hosting: Hosting
    version: ModelVersion
    config_name: str
    model: dict[str, Any]
    endpoint_config: dict[str, Any]
    endpoint: dict[str, Any]


def make_plan(hosting: Hosting, version: ModelVersion) -> Plan:
    """The requests for a version."""
    vpc = {"Subnets": hosting.subnet_ids, "SecurityGroupIds": hosting.security_group_ids}
    model = _given(
        ExecutionRoleArn=hosting.execution_role_arn,
        Containers=[{"ModelPackageName": version.arn}],
        VpcConfig=vpc if any(vpc.values()) else None,
        EnableNetworkIsolation=hosting.network_isolation,
    )
    group = version.group[:GROUP_LENGTH].rstrip("-")
    model_name = f"{group}-{version.version}-{digest(hosting.endpoint_name)}-{digest([model, version.content])}"
    config = _endpoint_config(hosting, model_name)
    config_name = f"{model_name}-{digest(config)}"
    tags = [*hosting.tags, {"Key": ATTEMPTED_TAG, "Value": version.arn}]
    return Plan(
        hosting,
        version,
        config_name,
        model=_given(ModelName=model_name, Tags=hosting.tags, **model),
        endpoint_config=_given(EndpointConfigName=config_name, Tags=hosting.tags, **config),
        endpoint={"EndpointName": hosting.endpoint_name, "EndpointConfigName": config_name, "Tags": tags},
    )


def update_request(plan: Plan, endpoint: dict[str, Any]) -> dict[str, Any]:
    """UpdateEndpoint from what DescribeEndpoint says to the plan: blue/green, undone by alarms, if any.

    Such guardrails are for instances: to or from serverless, the update is plain. An autoscaled endpoint keeps the
    number of instances that it has now; it would fall back to the configuration's.
    """
    hosting, wait = plan.hosting, plan.hosting.canary_wait_seconds
    request: dict[str, Any] = {"EndpointName": hosting.endpoint_name, "EndpointConfigName": plan.config_name}
    if hosting.is_serverless or is_serverless(endpoint):
        return request
    count = hosting.initial_instance_count
    if hosting.is_autoscaled:
        count = endpoint["ProductionVariants"][0].get("DesiredInstanceCount", count)
        request["RetainAllVariantProperties"] = True
        request["ExcludeRetainedVariantProperties"] = [{"VariantPropertyType": "DataCaptureConfig"}]
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": wait}
    percent = min(round(100 * hosting.canary_fraction), LARGEST_CANARY_PERCENT)
    if count > 1 and percent:  # a canary needs instances to divide
        routing |= {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": percent}}
    policy = {
        "TrafficRoutingConfiguration": routing,
        "TerminationWaitInSeconds": wait if hosting.rollback_alarms else 0,  # the old fleet costs as much as the new
        "MaximumExecutionTimeoutInSeconds": 2 * wait + PROVISIONING_SECONDS,
    }
    request["DeploymentConfig"] = {"BlueGreenUpdatePolicy": policy}
    if alarms := [{"AlarmName": name} for name in hosting.rollback_alarms]:
        request["DeploymentConfig"]["AutoRollbackConfiguration"] = {"Alarms": alarms}
    return request


def is_serverless(endpoint: dict[str, Any]) -> bool:
    """Whether the endpoint in service is a serverless one."""
    return any("CurrentServerlessConfig" in variant for variant in endpoint.get("ProductionVariants", []))


def digest(content: Any) -> str:
    """Six hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:6]


def _endpoint_config(hosting: Hosting, model_name: str) -> dict[str, Any]:
    """CreateEndpointConfig without its name and tags."""
    memory, concurrency = hosting.serverless_memory_mb, hosting.serverless_max_concurrency
    capacity: dict[str, Any] = {"ServerlessConfig": {"MemorySizeInMB": memory, "MaxConcurrency": concurrency}}
    if not hosting.is_serverless:
        instance_type, count = hosting.instance_type, hosting.initial_instance_count
        capacity = {"InstanceType": instance_type, "InitialInstanceCount": count, "InitialVariantWeight": 1.0}
    capture = _given(
        EnableCapture=True,
        InitialSamplingPercentage=hosting.data_capture_percent,
        DestinationS3Uri=hosting.data_capture_uri,
        CaptureOptions=[{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        CaptureContentTypeHeader={"JsonContentTypes": ["application/json"]},
        KmsKeyId=hosting.kms_key_arn,
    )
    takes_key = not hosting.is_serverless and not LOCAL_STORAGE.match(hosting.instance_type)
    return _given(
        ProductionVariants=[{"VariantName": VARIANT, "ModelName": model_name, **capacity}],
        DataCaptureConfig=capture if hosting.data_capture_percent else None,
        KmsKeyId=hosting.kms_key_arn if takes_key else None,  # of the instances' volumes
    )


def _given(**members: Any) -> dict[str, Any]:
    """A request's members but those that are off or empty."""
    return {name: value for name, value in members.items() if value}
