"""pipeline.yaml as the names, the tags and the parameters of the two stacks."""

import functools
import json
import re
from collections.abc import Callable

from pipeline.config.config import Config

SERVING_NAME_LENGTH = 35  # of a model package group's name, as steps/deploy.py shortens it
STACK_TAG = "pipeline-stack"
VERSION_TAG = "deploy:version"  # of a model: the ARN of its version, as steps/deploy.py writes it
MARKER = "_READY"  # the object that says that an upload of data is complete
ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)([:@].*)?"
)
SETTINGS = {  # a parameter of base.yaml or app.yaml -> the setting that it takes
    "Project": "aws.project",
    "PipelineName": "pipeline.name",
    "ModelPackageGroup": "registry.model_package_group",
    "EndpointName": "deploy.endpoint_name",
    "DeployFunctionName": "aws.deploy_function",
    "DeployConcurrency": "aws.deploy_concurrency",
    "ExistingBucketName": "aws.bucket",
    "SubnetIds": "aws.vpc.subnet_ids",
    "SecurityGroupIds": "aws.vpc.security_group_ids",
    "KmsKeyArn": "aws.kms_key_arn",
    "NetworkIsolation": "deploy.network_isolation",
    "PermissionsBoundaryArn": "aws.permissions_boundary_arn",
    "LogRetentionDays": "aws.log_retention_days",
    "ArtifactRetentionDays": "aws.artifact_retention_days",
    "AlarmEmail": "aws.alarm_email",
    "AutoApprove": "aws.auto_approve",
    "StartOnMarker": "aws.start_on_marker",
    "InstanceType": "deploy.instance_type",
    "InstanceCount": "deploy.instance_count",
    "CanaryFraction": "deploy.canary_fraction",
    "CanaryWaitSeconds": "deploy.canary_wait_seconds",
    "Rollback": "deploy.rollback",
    "Max5xxPerMinute": "deploy.max_5xx_per_minute",
    "MinInstances": "deploy.autoscaling.min_instances",
    "MaxInstances": "deploy.autoscaling.max_instances",
    "TargetInvocationsPerMinute": "deploy.autoscaling.target_invocations_per_minute",
    "DataCapturePercent": "deploy.data_capture_percent",
    "RetrainOnDrift": "drift.retrain",
    "DriftSchedule": "drift.schedule",
    "ServerlessMemoryMb": "deploy.serverless.memory_mb",
    "ServerlessMaxConcurrency": "deploy.serverless.max_concurrency",
    "KeepVersions": "deploy.keep_versions",
}


def stack_name(config: Config) -> str:
    """Return the name of the stack of base.yaml; aws.project holds an environment's suffix by then."""
    return config.aws.project


def app_stack_name(config: Config) -> str:
    """Return the name of the stack of app.yaml."""
    return f"{config.aws.project}-app"


def tags(config: Config) -> dict[str, str]:
    """Return what everything that is made is tagged with."""
    return {STACK_TAG: stack_name(config), **config.aws.tags}


def serving_prefix(config: Config) -> str:
    """Return how the names of models and endpoint configurations begin."""
    return f"{config.registry.model_package_group[:SERVING_NAME_LENGTH].rstrip('-')}-"


def readable(config: Config) -> list[str]:
    """Return the prefixes of other buckets that pipeline.yaml names, without s3://."""
    named = [uri for uri in (config.data.source, config.model.weights) if uri.startswith("s3://")]
    return sorted({uri.removeprefix("s3://").rstrip("/") for uri in named})


def readable_objects(config: Config) -> list[str]:
    arn = f"arn:{partition_of(config.aws.region)}:s3:::"
    return [f"{arn}{path if '/' in path else path + '/'}*" for path in readable(config)]


def readable_buckets(config: Config) -> list[str]:
    arn = f"arn:{partition_of(config.aws.region)}:s3:::"
    return [f"{arn}{bucket}" for bucket in sorted({path.partition("/")[0] for path in readable(config)})]


def vpc_arns(config: Config) -> list[str]:
    """Return network interfaces, subnets and groups; a shared subnet is of another account."""
    vpc, region = config.aws.vpc, config.aws.region
    names = [f"subnet/{subnet}" for subnet in vpc.subnet_ids]
    names += [f"security-group/{group}" for group in vpc.security_group_ids]
    arn = f"arn:{partition_of(region)}:ec2:{region}:*"
    return [f"{arn}:{name}" for name in (["network-interface/*", *names] if names else [])]


def marker_place(config: Config) -> tuple[str, str]:
    """Return the bucket and the keys, a pattern, of objects that start the pipeline; no bucket: the stack's."""
    bucket, _, prefix = config.data.source.removeprefix("s3://").partition("/")
    if not config.data.source.startswith("s3://"):
        bucket, prefix = "", f"{config.pipeline.name}/data"
    return bucket, f"{prefix.rstrip('/')}/*{MARKER}".lstrip("/")


COMPUTED: dict[str, tuple[str, Callable[[Config], object]]] = {  # parameter -> the setting behind it, and its value
    "PipelineNameInArn": ("pipeline.name", lambda config: config.pipeline.name.lower()),
    "ModelPackageGroupInArn": (
        "registry.model_package_group", lambda config: config.registry.model_package_group.lower(),
    ),
    "ServingNamePrefix": ("registry.model_package_group", serving_prefix),
    "ServingNamePrefixInArn": ("registry.model_package_group", lambda config: serving_prefix(config).lower()),
    "EndpointNameInArn": ("deploy.endpoint_name", lambda config: config.deploy.endpoint_name.lower()),
    "OwnTrainingRepositoryArn": ("aws.training_image", lambda config: repository_arn(config.aws.training_image)),
    "OwnInferenceRepositoryArn": ("aws.inference_image", lambda config: repository_arn(config.aws.inference_image)),
    "ReadableObjectArns": ("data.source or model.weights", readable_objects),
    "ReadableBucketArns": ("data.source or model.weights", readable_buckets),
    "VpcArns": ("aws.vpc", vpc_arns),
    "ResourceTags": ("aws.tags", lambda config: json.dumps(tags(config), sort_keys=True)),
    "MaxLatencyMicroseconds": ("deploy.max_latency_ms", lambda config: config.deploy.max_latency_ms * 1000),
    "MarkerBucket": ("data.source", lambda config: marker_place(config)[0]),
    "MarkerKeys": ("data.source", lambda config: marker_place(config)[1]),
}  # fmt: skip


def stack_parameters(config: Config) -> dict[str, str]:
    """Return a value for every parameter, of either template, that pipeline.yaml decides."""
    given = {name: functools.reduce(getattr, setting.split("."), config) for name, setting in SETTINGS.items()}
    computed = {name: value(config) for name, (_, value) in COMPUTED.items()}
    return {name: parameter_value(value) for name, value in {**given, **computed}.items()}


def parameter_value(value: object) -> str:
    """Write a value as CloudFormation reads it: true or false, lists with commas, nothing for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else "" if value is None else str(value)


def repository_arn(image: str | None) -> str:
    """Return the ARN of an image's ECR repository; empty for no image and for one elsewhere."""
    match = ECR_IMAGE.fullmatch(image or "")
    if match is None:
        return ""
    return f"arn:{partition_of(match['region'])}:ecr:{match['region']}:{match['account']}:repository/{match['name']}"


def partition_of(region: str) -> str:
    """Return the partition of a region, as ARNs name it."""
    partitions = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
    return next((name for start, name in partitions.items() if region.startswith(f"{start}-")), "aws")
