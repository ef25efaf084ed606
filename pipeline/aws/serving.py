"""The endpoints, endpoint configurations and models that the deploy function made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.aws.lookup import answer, listed
from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import SERVING_NAME_LENGTH
from pipeline.config.config import Config


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as described, with what it runs on; scaled: it has a scalable target for each of its variants."""

    name: str
    status: str
    instance_type: str | None
    instance_count: int
    scalable_targets: tuple[str, ...]


def own_models(sagemaker: Any, config: Config) -> tuple[str, ...]:
    """Models made from a version of the group."""
    group = config.registry.model_package_group
    own = f":model-package/{group}/".lower()
    found = []
    for name in listed(sagemaker, "list_models", "Models", "ModelName", serving_prefix(config)):
        model = sagemaker.describe_model(ModelName=name)
        containers = model.get("Containers") or [model.get("PrimaryContainer") or {}]
        if any(own in str(container.get("ModelPackageName", "")).lower() for container in containers):
            found.append(name)
    return tuple(found)


def own_endpoint_configs(sagemaker: Any, config: Config, models: Sequence[str]) -> tuple[str, ...]:
    """Endpoint configurations that serve one of the models."""
    names = listed(sagemaker, "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", serving_prefix(config))
    return tuple(
        name
        for name in names
        if any(
            variant.get("ModelName") in models
            for variant in sagemaker.describe_endpoint_config(EndpointConfigName=name)["ProductionVariants"]
        )
    )


def own_endpoints(client: Client, config: Config) -> Iterator[Endpoint]:
    """The endpoint of pipeline.yaml, and those whose names begin with its name, that serve the group's models."""
    sagemaker, scaling = client("sagemaker"), client("application-autoscaling")
    own = config.deploy.endpoint_name
    for name in listed(sagemaker, "list_endpoints", "Endpoints", "EndpointName", own):
        if name != own and not name.startswith(f"{own}-"):
            continue
        described = sagemaker.describe_endpoint(EndpointName=name)
        variants = config_variants(sagemaker, described["EndpointConfigName"])
        prefix = serving_prefix(config)
        if name != own and not any(str(variant.get("ModelName", "")).startswith(prefix) for variant in variants):
            continue
        counts = [variant.get("CurrentInstanceCount", 0) for variant in described.get("ProductionVariants", [])]
        instance_type = next((variant["InstanceType"] for variant in variants if "InstanceType" in variant), None)
        targets = [f"endpoint/{name}/variant/{variant['VariantName']}" for variant in variants]
        yield Endpoint(name, described["EndpointStatus"], instance_type, sum(counts), scaled(scaling, targets))


def config_variants(sagemaker: Any, name: str) -> list[dict[str, Any]]:
    """The variants of an endpoint configuration; none if it has been removed under its endpoint."""
    found = answer(sagemaker.describe_endpoint_config, EndpointConfigName=name)
    return found["ProductionVariants"] if found else []


def scaled(scaling: Any, resource_ids: list[str]) -> tuple[str, ...]:
    """Which of the resources are scalable targets."""
    if not resource_ids:
        return ()
    pages = scaling.get_paginator("describe_scalable_targets")
    found = pages.paginate(ServiceNamespace="sagemaker", ResourceIds=resource_ids)
    return tuple(target["ResourceId"] for page in found for target in page["ScalableTargets"])


def serving_prefix(config: Config) -> str:
    """How the names of models and endpoint configurations begin."""
    return f"{config.registry.model_package_group[:SERVING_NAME_LENGTH].rstrip('-')}-"
