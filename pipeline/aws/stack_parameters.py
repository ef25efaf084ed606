"""pipeline.yaml as the name, the tags and the parameters of the stack."""

import json
import re

from pipeline.config.config import Config

SERVING_NAME_LENGTH = 35  # of a model package group's name, as classifier/deployment/rollout.py shortens it
STACK_TAG = "pipeline-stack"
ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)([:@].*)?"
)


def stack_name(config: Config) -> str:
    """Return the stack's name; aws.project holds an environment's suffix by then."""
    return config.aws.project


def tags(config: Config) -> dict[str, str]:
    """Return what everything that is made is tagged with."""
    return {STACK_TAG: stack_name(config), **config.aws.tags}


def serving_prefix(config: Config) -> str:
    """Return how the names of models and endpoint configurations begin."""
    return f"{config.registry.model_package_group[:SERVING_NAME_LENGTH].rstrip('-')}-"


def stack_parameters(config: Config, *, code_key: str, schedule: str, schedule_state: str) -> dict[str, str]:
    """Return a value for every parameter of stack.yaml."""
    aws, deploy = config.aws, config.deploy
    names = {
        "PipelineName": config.pipeline.name,
        "ModelPackageGroup": config.registry.model_package_group,
        "ServingNamePrefix": serving_prefix(config),
        "EndpointName": deploy.endpoint_name,
    }
    arn = f"arn:{partition_of(aws.region)}"
    named = [uri for uri in (config.data.source, config.model.weights) if uri.startswith("s3://")]
    paths = sorted({uri.removeprefix("s3://").rstrip("/") for uri in named})
    network = ["network-interface/*"] if aws.vpc.subnet_ids else []
    network += [f"subnet/{subnet}" for subnet in aws.vpc.subnet_ids]
    network += [f"security-group/{group}" for group in aws.vpc.security_group_ids]
    values: dict[str, object] = {
        **names,
        **{f"{name}InArn": value.lower() for name, value in names.items()},
        "DeployFunctionName": aws.deploy_function,
        "DeployCodeKey": code_key,
        "ExistingBucketName": aws.bucket or "",
        "OwnTrainingRepositoryArn": repository_arn(aws.training_image),
        "OwnInferenceRepositoryArn": repository_arn(aws.inference_image),
        "ReadableObjectArns": [f"{arn}:s3:::{path if '/' in path else path + '/'}*" for path in paths],
        "ReadableBucketArns": [f"{arn}:s3:::{bucket}" for bucket in sorted({path.split("/")[0] for path in paths})],
        "SubnetIds": aws.vpc.subnet_ids,
        "SecurityGroupIds": aws.vpc.security_group_ids,
        "VpcArns": [f"{arn}:ec2:{aws.region}:*:{name}" for name in network],  # a shared subnet is of another account
        "KmsKeyArn": aws.kms_key_arn or "",
        "NetworkIsolation": aws.network_isolation,
        "PermissionsBoundaryArn": aws.permissions_boundary_arn or "",
        "ResourceTags": json.dumps(tags(config), sort_keys=True),
        "LogRetentionDays": aws.log_retention_days,
        "ArtifactRetentionDays": aws.artifact_retention_days,
        "AlarmEmail": aws.alarm_email or "",
        "RetrainSchedule": schedule,
        "RetrainState": schedule_state,
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
    return {name: parameter_value(value) for name, value in values.items()}


def parameter_value(value: object) -> str:
    """Write a value as CloudFormation reads it: true or false, lists with commas."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


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
