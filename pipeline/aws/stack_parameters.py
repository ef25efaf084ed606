"""pipeline.yaml as the names, the tags and the parameters of the two stacks."""

import functools
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path

from pipeline.config.config import Config

SERVING_NAME_LENGTH = 35  # of a model package group's name, as steps/deploy.py shortens it
STACK_TAG = "pipeline-stack"
VERSION_TAG = "deploy:version"  # of a model: the ARN of its version, as steps/deploy.py writes it
BASE, APP = (Path(__file__).with_name(name) for name in ("base.yaml", "app.yaml"))
PARAMETER = re.compile(r"^  (\w+): \{Type: \w+(?:.*Description: ([a-z]+(?:\.[a-z0-9_]+)+))?", re.MULTILINE)
ECR_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[^:@]+)([:@].*)?"
)


def app_stack_name(config: Config) -> str:
    """Return the name of the stack of app.yaml."""
    return f"{config.aws.project}-app"


def tags(config: Config) -> dict[str, str]:
    """Return what everything that is made is tagged with."""
    return {STACK_TAG: config.aws.project, **config.aws.tags}


def serving_prefix(config: Config) -> str:
    """Return how the names of models and endpoint configurations begin."""
    return f"{config.registry.model_package_group[:SERVING_NAME_LENGTH].rstrip('-')}-"


def settings_of(template: Path) -> dict[str, str]:
    """Return the setting of pipeline.yaml behind each parameter of a template, as it says; empty for the others."""
    return dict(PARAMETER.findall(template.read_text()))


def stack_parameters(config: Config, template: Path) -> dict[str, str]:
    """Return a value for each parameter of a template that pipeline.yaml decides."""
    return {
        name: parameter_value(COMPUTED.get(name, operator.attrgetter(setting))(config))
        for name, setting in settings_of(template).items()
        if setting
    }


def parameter_value(value: object) -> str:
    """Write a value as CloudFormation reads it: true or false, lists with commas, nothing for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else "" if value is None else str(value)


def readable_arns(config: Config, *, buckets: bool) -> list[str]:
    """Return the prefixes outside the stack's bucket that pipeline.yaml names, or their buckets, as ARNs."""
    named = (uri for uri in (config.data.source, config.model.weights) if uri.startswith("s3://"))
    paths = {uri.removeprefix("s3://").rstrip("/") for uri in named}
    names = {path.partition("/")[0] if buckets else f"{path if '/' in path else path + '/'}*" for path in paths}
    return [f"arn:{partition_of(config.aws.region)}:s3:::{name}" for name in sorted(names)]


def vpc_arns(config: Config) -> list[str]:
    """Return network interfaces, subnets and groups; a shared subnet is of another account."""
    vpc, region = config.aws.vpc, config.aws.region
    names = [f"subnet/{subnet}" for subnet in vpc.subnet_ids]
    names += [f"security-group/{group}" for group in vpc.security_group_ids]
    arn = f"arn:{partition_of(region)}:ec2:{region}:*"
    return [f"{arn}:{name}" for name in (["network-interface/*", *names] if names else [])]


def marker_place(config: Config) -> tuple[str, str]:
    """Return the bucket, empty for the pipeline's, and a pattern of the keys of objects that start the pipeline."""
    source = config.data.source
    bucket, _, prefix = source.removeprefix("s3://").partition("/") if source.startswith("s3://") else ("", "", "")
    folder = prefix.rstrip("/") if bucket else f"{config.pipeline.name}/data"
    return bucket, f"{folder}/*_READY".removeprefix("/")


COMPUTED: dict[str, Callable[[Config], object]] = {  # parameters that are not just the setting's value
    "PipelineNameInArn": lambda config: config.pipeline.name.lower(),
    "ModelPackageGroupInArn": lambda config: config.registry.model_package_group.lower(),
    "ServingNamePrefix": serving_prefix,
    "ServingNamePrefixInArn": lambda config: serving_prefix(config).lower(),
    "EndpointNameInArn": lambda config: config.deploy.endpoint_name.lower(),
    "OwnTrainingRepositoryArn": lambda config: repository_arn(config.aws.training_image),
    "OwnInferenceRepositoryArn": lambda config: repository_arn(config.aws.inference_image),
    "ReadableObjectArns": functools.partial(readable_arns, buckets=False),
    "ReadableBucketArns": functools.partial(readable_arns, buckets=True),
    "VpcArns": vpc_arns,
    "ResourceTags": lambda config: json.dumps(tags(config), sort_keys=True),
    "MaxLatencyMicroseconds": lambda config: config.deploy.max_latency_ms * 1000,
    "MarkerBucket": lambda config: marker_place(config)[0],
    "MarkerKeys": lambda config: marker_place(config)[1],
}


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
