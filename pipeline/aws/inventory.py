"""Everything that the product made in an account, and what it costs to leave it on.

What belongs to the product is told by its names and its contents, not by tags alone: a model belongs to it if it was
made from a version of its model package group, an endpoint configuration if it serves such a model, an endpoint if
pipeline.yaml names it. The stack knows its own resources. A bucket that outlived its stack is found by its tag.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws import schedule, stack
from pipeline.aws.cost import HOURS_PER_MONTH
from pipeline.aws.lookup import exists, is_missing
from pipeline.aws.serving import Endpoint, own_endpoint_configs, own_endpoints, own_models
from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import STACK_TAG, stack_name
from pipeline.config.config import Config, PricesConfig

GB = 1e9


@dataclass(frozen=True)
class Storage:
    """A bucket, or what lies below a prefix of one that the user brought; objects counts every version."""

    bucket: str
    prefix: str
    objects: int
    size_bytes: int

    def __str__(self) -> str:
        size = f"{self.size_bytes / GB:.2f} GB"
        return f"s3://{self.bucket}/{self.prefix} ({self.objects} object{'' if self.objects == 1 else 's'}, {size})"


@dataclass(frozen=True)
class Inventory:
    """What was found, by kind; names, except where said otherwise."""

    endpoints: tuple[Endpoint, ...]
    endpoint_configs: tuple[str, ...]
    models: tuple[str, ...]
    pipeline: str | None
    executions: tuple[str, ...]  # ARNs
    versions: tuple[str, ...]  # ARNs
    group: str | None
    schedule: schedule.Schedule | None
    stack_resources: tuple[tuple[str, str], ...]  # type and physical id
    image_bytes: int
    log_groups: tuple[str, ...]
    storage: tuple[Storage, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not any(vars(self).values())


@dataclass(frozen=True)
class Item:
    """A line for a person: what it is, and what a month costs; None: the price table does not say."""

    kind: str
    name: str
    per_month: float | None
    note: str = ""


def find(client: Client, config: Config) -> Inventory:
    """Look through the account; nothing is changed."""
    sagemaker = client("sagemaker")
    pipeline, group = config.pipeline.name, config.registry.model_package_group
    models = own_models(sagemaker, config)
    endpoints = tuple(own_endpoints(client, config))
    resources = stack_resources(client, config)
    return Inventory(
        endpoints=endpoints,
        endpoint_configs=own_endpoint_configs(sagemaker, config, models),
        models=models,
        pipeline=pipeline if exists(sagemaker.describe_pipeline, PipelineName=pipeline) else None,
        executions=executions(sagemaker, pipeline),
        versions=versions(sagemaker, group),
        group=group if exists(sagemaker.describe_model_package_group, ModelPackageGroupName=group) else None,
        schedule=schedule.found(client, config),
        stack_resources=resources,
        image_bytes=image_bytes(client("ecr"), resources),
        log_groups=log_groups(client("logs"), config, endpoints),
        storage=storage(client, config, resources),
    )


def executions(sagemaker: Any, pipeline: str) -> tuple[str, ...]:
    """ARNs of the pipeline's executions."""
    try:
        pages = sagemaker.get_paginator("list_pipeline_executions").paginate(PipelineName=pipeline)
        return tuple(item["PipelineExecutionArn"] for page in pages for item in page["PipelineExecutionSummaries"])
    except ClientError as error:
        if is_missing(error):
            return ()
        raise


def versions(sagemaker: Any, group: str) -> tuple[str, ...]:
    """ARNs of the group's versions."""
    try:
        pages = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group)
        return tuple(item["ModelPackageArn"] for page in pages for item in page["ModelPackageSummaryList"])
    except ClientError as error:
        if is_missing(error):
            return ()
        raise


def stack_resources(client: Client, config: Config) -> tuple[tuple[str, str], ...]:
    """Type and physical id of the stack's resources."""
    cloudformation = client("cloudformation")
    if stack.describe(cloudformation, stack_name(config)) is None:
        return ()
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack_name(config))
    found = [item for page in pages for item in page["StackResourceSummaries"]]
    return tuple((item["ResourceType"], item.get("PhysicalResourceId", "")) for item in found)


def image_bytes(ecr: Any, resources: Sequence[tuple[str, str]]) -> int:
    """The size of the images in the stack's repositories."""
    total = 0
    for resource_type, name in resources:
        if resource_type == "AWS::ECR::Repository" and exists(ecr.describe_images, repositoryName=name):
            pages = ecr.get_paginator("describe_images").paginate(repositoryName=name)
            total += sum(image.get("imageSizeInBytes", 0) for page in pages for image in page["imageDetails"])
    return total


def log_groups(logs: Any, config: Config, endpoints: Sequence[Endpoint]) -> tuple[str, ...]:
    """Log groups of the function and the endpoints; those of jobs are shared by the whole account."""
    names = {config.deploy.endpoint_name, *(endpoint.name for endpoint in endpoints)}
    wanted = [
        f"/aws/lambda/{config.aws.deploy_function}",
        *(f"/aws/sagemaker/Endpoints/{name}" for name in sorted(names)),
    ]
    found = []
    for name in wanted:
        groups = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        found += [name for group in groups if group["logGroupName"] == name]
    return tuple(found)


def storage(client: Client, config: Config, resources: Sequence[tuple[str, str]]) -> tuple[Storage, ...]:
    """The stack's bucket and any that outlived an earlier stack; of the user's own bucket, the pipeline's prefix."""
    s3 = client("s3")
    places = {(name, "") for resource_type, name in resources if resource_type == "AWS::S3::Bucket"}
    places |= {(name, "") for name in tagged_buckets(client("resourcegroupstaggingapi"), stack_name(config))}
    if config.aws.bucket:
        places = {place for place in places if place[0] != config.aws.bucket}
        places.add((config.aws.bucket, f"{config.pipeline.name}/"))
    found = [measured(s3, bucket, prefix) for bucket, prefix in sorted(places)]
    return tuple(place for place in found if place and (place.objects or not place.prefix))


def tagged_buckets(tagging: Any, stack: str) -> Iterator[str]:
    """Buckets that a stack of this name made."""
    pages = tagging.get_paginator("get_resources").paginate(
        TagFilters=[{"Key": STACK_TAG, "Values": [stack]}], ResourceTypeFilters=["s3"]
    )
    for page in pages:
        for resource in page["ResourceTagMappingList"]:
            yield resource["ResourceARN"].rpartition(":")[2]


def measured(s3: Any, bucket: str, prefix: str) -> Storage | None:
    """Count what is stored; None if the bucket is gone."""
    objects = size = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            objects += len(page.get("Versions", []))
            size += sum(version["Size"] for version in page.get("Versions", []))
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return Storage(bucket, prefix, objects, size)


def items(found: Inventory, prices: PricesConfig) -> list[Item]:
    """A line for each thing, the dearest kind first."""
    alarms = sum(resource_type == "AWS::CloudWatch::Alarm" for resource_type, _ in found.stack_resources)
    rows = [endpoint_item(endpoint, prices) for endpoint in found.endpoints]
    rows += [Item("endpoint configuration", name, 0.0) for name in found.endpoint_configs]
    rows += [Item("model", name, 0.0) for name in found.models]
    if found.pipeline:
        rows.append(Item("pipeline", found.pipeline, 0.0, counted(len(found.executions), "execution")))
    rows += [Item("model version", arn.rpartition("model-package/")[2], 0.0) for arn in found.versions]
    if found.group:
        rows.append(Item("model package group", found.group, 0.0))
    if found.schedule:
        rows.append(Item("schedule", found.schedule.name, 0.0, str(found.schedule)))
    if found.stack_resources:
        cost = alarms * prices.alarm_month + found.image_bytes / GB * prices.image_gb_month
        note = f"{counted(alarms, 'alarm')}, {found.image_bytes / GB:.2f} GB of images"
        rows.append(Item("stack", counted(len(found.stack_resources), "resource"), cost, note))
    rows += [Item("log group", name, 0.0) for name in found.log_groups]
    rows += [Item("data", str(place), place.size_bytes / GB * prices.storage_gb_month) for place in found.storage]
    return rows


def endpoint_item(endpoint: Endpoint, prices: PricesConfig) -> Item:
    """An endpoint and the price of its instances."""
    if endpoint.instance_type is None:
        return Item("endpoint", endpoint.name, 0.0, f"{endpoint.status}, no instances")
    note = f"{endpoint.status}, {endpoint.instance_count} x {endpoint.instance_type}"
    price = prices.per_hour.get(endpoint.instance_type)
    cost = None if price is None else endpoint.instance_count * price * HOURS_PER_MONTH
    return Item("endpoint", endpoint.name, cost, note)


def counted(count: int, what: str) -> str:
    """A number and its noun."""
    return f"{count} {what}{'' if count == 1 else 's'}"
