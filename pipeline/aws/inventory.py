"""Everything that the product made in an account, and what of it is billed by the hour.

An account may be shared, so names and contents decide what is the product's: a model was made from a version of its
model package group, an endpoint configuration or endpoint serves such a model, or pipeline.yaml names the endpoint. The
stack is told by its tag and knows its resources; a bucket that outlived its stack is found by its tag.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from pipeline.aws import schedule
from pipeline.aws.cost import HOURS_PER_MONTH
from pipeline.aws.requests import describe, list_all
from pipeline.aws.stack import Client, describe_stack, is_own
from pipeline.aws.stack_parameters import STACK_TAG, VERSION_TAG, app_stack_name, serving_prefix
from pipeline.config.config import Config

GB = 1e9
RUNNING = ("Executing", "Stopping")


class Item(NamedTuple):
    """One thing that was made; the note of an endpoint says what it takes, its instance-hours a month."""

    kind: str
    name: str
    note: str = ""
    identifier: str = ""  # an ARN or a URI, where requests do not take the name


def find(client: Client, config: Config) -> list[Item]:
    """List what the product made, the dearest kind first; nothing is changed."""
    sagemaker = client("sagemaker")
    models = own_models(sagemaker, config)
    endpoints = list(find_endpoints(sagemaker, config, models))
    stacks = own_stacks(client("cloudformation"), config)
    retraining = schedule.find(client, config)
    return [
        *endpoints,
        *find_endpoint_configs(sagemaker, config, models),
        *(Item("model", name) for name in models),
        *find_pipeline(sagemaker, config.pipeline.name),
        *find_model_group(sagemaker, config.registry.model_package_group),
        *([Item("schedule", retraining.name, note=str(retraining))] if retraining else []),
        *find_stacks(client("ecr"), stacks),
        *find_log_groups(client("logs"), config, [item.name for item in endpoints]),
        *find_data(client, config, [resource for resources in stacks.values() for resource in resources]),
    ]


def own_models(sagemaker: Any, config: Config) -> list[str]:
    """Return the models that were made from a version of the group."""
    prefix, group = serving_prefix(config), f":model-package/{config.registry.model_package_group}/".lower()
    names = [item["ModelName"] for item in list_all(sagemaker, "list_models", NameContains=prefix)]
    return [name for name in names if name.startswith(prefix) and group in version_of(sagemaker, name).lower()]


def version_of(sagemaker: Any, model_name: str) -> str:
    """Return the ARN of the version that a model was made of: of its tag, or of an earlier release's model package."""
    model = sagemaker.describe_model(ModelName=model_name)
    tags = {tag["Key"]: tag["Value"] for tag in list_all(sagemaker, "list_tags", ResourceArn=model["ModelArn"])}
    container = (model.get("Containers") or [model.get("PrimaryContainer") or {}])[0]
    return str(tags.get(VERSION_TAG) or container.get("ModelPackageName", ""))


def variants_of(sagemaker: Any, endpoint_config: str) -> list[dict[str, Any]]:
    """Return the variants of an endpoint configuration; none if it was removed under its endpoint."""
    answer = describe(sagemaker.describe_endpoint_config, EndpointConfigName=endpoint_config)
    return answer["ProductionVariants"] if answer else []


def find_endpoints(sagemaker: Any, config: Config, models: Collection[str]) -> Iterator[Item]:
    """The endpoint of pipeline.yaml, and those that serve the models and whose names begin with its name."""
    own = config.deploy.endpoint_name
    for name in (item["EndpointName"] for item in list_all(sagemaker, "list_endpoints", NameContains=own)):
        if name != own and not name.startswith(f"{own}-"):
            continue
        endpoint = sagemaker.describe_endpoint(EndpointName=name)
        variants = variants_of(sagemaker, endpoint["EndpointConfigName"])
        if name != own and not any(variant.get("ModelName") in models for variant in variants):
            continue
        instance_type = next((variant["InstanceType"] for variant in variants if "InstanceType" in variant), None)
        count = sum(variant.get("CurrentInstanceCount", 0) for variant in endpoint.get("ProductionVariants", []))
        used = f"{count} x {instance_type}, {count * HOURS_PER_MONTH} instance-hours a month"
        note = f"{endpoint['EndpointStatus']}, {used if instance_type else 'no instances'}"
        yield Item("endpoint", name, note)


def find_endpoint_configs(sagemaker: Any, config: Config, models: Collection[str]) -> Iterator[Item]:
    prefix = serving_prefix(config)
    for item in list_all(sagemaker, "list_endpoint_configs", NameContains=prefix):
        name = item["EndpointConfigName"]
        if name.startswith(prefix) and any(found.get("ModelName") in models for found in variants_of(sagemaker, name)):
            yield Item("endpoint configuration", name)


def find_pipeline(sagemaker: Any, name: str) -> Iterator[Item]:
    """The pipeline, and those of its executions that run."""
    if describe(sagemaker.describe_pipeline, PipelineName=name):
        executions = list(list_all(sagemaker, "list_pipeline_executions", PipelineName=name))
        for execution in executions:
            if (status := execution["PipelineExecutionStatus"]) in RUNNING:
                arn = execution["PipelineExecutionArn"]
                yield Item("execution", arn.rpartition("/")[2], note=status, identifier=arn)
        yield Item("pipeline", name, note=counted(len(executions), "execution"))


def find_model_group(sagemaker: Any, group: str) -> Iterator[Item]:
    """The model package group and its versions."""
    for version in list_all(sagemaker, "list_model_packages", ModelPackageGroupName=group):
        arn = version["ModelPackageArn"]
        yield Item("model version", arn.rpartition("model-package/")[2], identifier=arn)
    if describe(sagemaker.describe_model_package_group, ModelPackageGroupName=group):
        yield Item("model package group", group)


def own_stacks(cloudformation: Any, config: Config) -> dict[str, list[tuple[str, str]]]:
    """Return type and physical id of each resource of this project's stacks, the one that needs the other first."""
    found = {}
    for name in (app_stack_name(config), config.aws.project):
        stack = describe_stack(cloudformation, name)
        if stack and is_own(stack, config.aws.project):
            resources = list_all(cloudformation, "list_stack_resources", StackName=stack["StackId"])
            found[name] = [(item["ResourceType"], item.get("PhysicalResourceId", "")) for item in resources]
    return found


def find_stacks(ecr: Any, stacks: dict[str, list[tuple[str, str]]]) -> Iterator[Item]:
    """The stacks with their alarms and the images in their repositories."""
    for name, resources in stacks.items():
        alarms = sum(resource_type == "AWS::CloudWatch::Alarm" for resource_type, _ in resources)
        repositories = [name for resource_type, name in resources if resource_type == "AWS::ECR::Repository"]
        images = [image for name in repositories for image in list_all(ecr, "describe_images", repositoryName=name)]
        size_gb = sum(image.get("imageSizeInBytes", 0) for image in images) / GB
        holds = [counted(len(resources), "resource"), *([counted(alarms, "alarm")] if alarms else [])]
        holds += [f"{size_gb:.2f} GB of images"] if repositories else []
        yield Item("stack", name, note=", ".join(holds))


def find_log_groups(logs: Any, config: Config, endpoints: list[str]) -> Iterator[Item]:
    """Log groups of functions and endpoints; in those of the whole account, the jobs that no execution has."""
    names = [f"/aws/sagemaker/Endpoints/{name}" for name in sorted({config.deploy.endpoint_name, *endpoints})]
    for name in (f"/aws/lambda/{config.aws.deploy_function}", f"/aws/lambda/{config.aws.project}-inputs", *names):
        groups = list_all(logs, "describe_log_groups", logGroupNamePrefix=name)
        yield from (Item("log group", name) for group in groups if group["logGroupName"] == name)
    alone = {"TransformJobs": f"{serving_prefix(config)}transform-", "ProcessingJobs": f"{config.aws.project}-drift-"}
    for group, prefix in ((f"/aws/sagemaker/{kind}", prefix) for kind, prefix in alone.items()):
        if streams := list(list_all(logs, "describe_log_streams", logGroupName=group, logStreamNamePrefix=prefix)):
            yield Item("log streams", f"{group} {prefix}", note=counted(len(streams), "stream"))


def find_data(client: Client, config: Config, resources: list[tuple[str, str]]) -> Iterator[Item]:
    """The stack's bucket and those that outlived an earlier stack; of a bucket of the user, the pipeline's prefix."""
    s3, tag = client("s3"), {"Key": STACK_TAG, "Values": [config.aws.project]}
    tagging = client("resourcegroupstaggingapi")
    tagged = list_all(tagging, "get_resources", TagFilters=[tag], ResourceTypeFilters=["s3"])
    buckets = {name for resource_type, name in resources if resource_type == "AWS::S3::Bucket"}
    buckets |= {resource["ResourceARN"].rpartition(":")[2] for resource in tagged}
    places = dict.fromkeys(sorted(buckets), "")
    if config.aws.bucket:
        places[config.aws.bucket] = f"{config.pipeline.name}/"
    for bucket, prefix in places.items():
        sizes = [item["Size"] for item in list_all(s3, "list_object_versions", Bucket=bucket, Prefix=prefix)]
        size_gb = sum(sizes) / GB
        if sizes or (not prefix and describe(s3.head_bucket, Bucket=bucket)):
            shown = f"s3://{bucket}/{prefix} ({counted(len(sizes), 'object')}, {size_gb:.2f} GB)"
            yield Item("data", shown, identifier=f"{bucket}/{prefix}")


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
