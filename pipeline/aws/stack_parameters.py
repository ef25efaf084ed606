"""pipeline.yaml as the parameters and tags of the stack."""

import json
import re
from collections.abc import Mapping

from pipeline.config.config import Config

SERVING_NAME_LENGTH = 35  # of a group's name: classifier/deployment/rollout.py begins names so
STACK_TAG = "pipeline-stack"
ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)([:@].*)?"
)


def stack_name(config: Config) -> str:
    """The stack's name; an environment's suffix is part of aws.project by then."""
    return config.aws.project


def tags(config: Config) -> dict[str, str]:
    """What everything that is made is tagged with."""
    return {STACK_TAG: stack_name(config), **config.aws.tags}


def stack_parameters(config: Config, *, code_key: str, schedule: str, schedule_state: str) -> dict[str, str]:
    """A value for every parameter of stack.yaml."""
    values = {
        **named(config),
        **placed(config),
        **serving(config),
        "LogRetentionDays": config.aws.log_retention_days,
        "ArtifactRetentionDays": config.aws.artifact_retention_days,
        "AlarmEmail": config.aws.alarm_email or "",
        "DeployCodeKey": code_key,
        "RetrainSchedule": schedule,
        "RetrainState": schedule_state,
        "ResourceTags": json.dumps(tags(config), sort_keys=True),
    }
    return {name: text(value) for name, value in values.items()}


def named(config: Config) -> Mapping[str, object]:
    """The names of what the roles may touch, also as ARNs spell them."""
    prefix = config.registry.model_package_group[:SERVING_NAME_LENGTH].rstrip("-")
    names = {
        "PipelineName": config.pipeline.name,
        "ModelPackageGroup": config.registry.model_package_group,
        "ServingNamePrefix": f"{prefix}-",
        "EndpointName": config.deploy.endpoint_name,
    }
    in_arns = {f"{name}InArn": value.lower() for name, value in names.items()}
    return {**names, **in_arns, "DeployFunctionName": config.aws.deploy_function}


def placed(config: Config) -> Mapping[str, object]:
    """Buckets, images, network and key that exist already."""
    aws = config.aws
    given = [uri for uri in (config.data.source, config.model.weights) if uri.startswith("s3://")]
    partition = partition_of(aws.region)
    paths = sorted({uri.removeprefix("s3://").rstrip("/") for uri in given})
    buckets = sorted({path.partition("/")[0] for path in paths})
    return {
        "ExistingBucketName": aws.bucket or "",
        "OwnTrainingRepositoryArn": repository_arn(aws.training_image),
        "OwnInferenceRepositoryArn": repository_arn(aws.inference_image),
        "ReadableObjectArns": [f"arn:{partition}:s3:::{path if '/' in path else path + '/'}*" for path in paths],
        "ReadableBucketArns": [f"arn:{partition}:s3:::{bucket}" for bucket in buckets],
        "SubnetIds": aws.vpc.subnet_ids,
        "SecurityGroupIds": aws.vpc.security_group_ids,
        "VpcArns": vpc_arns(config, partition),
        "KmsKeyArn": aws.kms_key_arn or "",
        "NetworkIsolation": aws.network_isolation,
        "PermissionsBoundaryArn": aws.permissions_boundary_arn or "",
    }


def serving(config: Config) -> Mapping[str, object]:
    """The deploy function's settings and the alarms' thresholds."""
    deploy = config.deploy
    return {
        "InstanceType": deploy.instance_type,
        "InstanceCount": deploy.instance_count,
        "CanaryFraction": deploy.canary_fraction,
        "CanaryWaitSeconds": deploy.canary_wait_seconds,
        "Rollback": deploy.rollback,
        "MaxLatencyMicroseconds": deploy.max_latency_ms * 1000,
        "Max5xxPerMinute": deploy.max_5xx_per_minute,
        "MinInstances": deploy.autoscaling.min_instances,
        "MaxInstances": deploy.autoscaling.max_instances,
        "TargetInvocationsPerMinute": deploy.autoscaling.target_invocations_per_minute,
        "DataCapturePercent": deploy.data_capture_percent,
        "WatchDrift": deploy.data_capture_percent > 0,
        "RetrainOnDrift": config.drift.retrain,
        "ServerlessMemoryMb": deploy.serverless.memory_mb,
        "ServerlessMaxConcurrency": deploy.serverless.max_concurrency,
        "KeepVersions": deploy.keep_versions,
    }


def vpc_arns(config: Config, partition: str) -> list[str]:
    """What a network interface is made of; the account stays open, as a shared subnet is another's."""
    aws = config.aws
    if not aws.vpc.subnet_ids:
        return []
    below = f"arn:{partition}:ec2:{aws.region}:*"
    return [
        f"{below}:network-interface/*",
        *(f"{below}:subnet/{subnet}" for subnet in aws.vpc.subnet_ids),
        *(f"{below}:security-group/{group}" for group in aws.vpc.security_group_ids),
    ]


def repository_arn(image: str | None) -> str:
    """The ECR repository of an image; empty for none and for an image elsewhere."""
    match = ECR.fullmatch(image or "")
    if match is None:
        return ""
    return f"arn:{partition_of(match['region'])}:ecr:{match['region']}:{match['account']}:repository/{match['name']}"


def partition_of(region: str) -> str:
    """The part of AWS that a region belongs to, as ARNs name it."""
    partitions = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
    return next((name for start, name in partitions.items() if region.startswith(f"{start}-")), "aws")


def text(value: object) -> str:
    """A parameter's value: flags as true and false, lists with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else str(value)
