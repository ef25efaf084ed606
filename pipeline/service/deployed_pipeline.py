"""The pipeline as SageMaker holds it: created, or updated where it differs, the same for both targets."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from pipeline.definition.diff import differences
from pipeline.service import control
from pipeline.service.targets import Target


def upsert(
    target: Target,
    *,
    name: str,
    definition: str,
    description: str,
    parallel_steps: int,
    tell: Callable[[list[str]], None] = lambda lines: None,
) -> str:
    """Create or update the pipeline: created, updated or unchanged; `tell` hears what changes before it does."""
    client = target.client("sagemaker")
    request = {
        "PipelineName": name,
        "PipelineDefinition": definition,
        "PipelineDescription": description,
        "RoleArn": target.placement.role_arn,
        "ParallelismConfiguration": {"MaxParallelExecutionSteps": parallel_steps},
    }
    with control.service_errors(f"create or update pipeline {name!r}"):
        known = control.existing(client, name)
        if known is None and created(client, request, target.tags):
            return "created"
        known = known or client.describe_pipeline(PipelineName=name)
        tags = missing_tags(client, known["PipelineArn"], target.tags)
        changes = [*differences(known, request), *tag_lines(tags)]
        if not changes:
            return "unchanged"
        tell(changes)
        if len(changes) > len(tags):
            client.update_pipeline(**request)
        if tags:
            client.add_tags(ResourceArn=known["PipelineArn"], Tags=tag_list(tags))
        return "updated"


def missing_tags(client: Any, pipeline_arn: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The tags that the pipeline does not have so; what it is tagged with besides is its owner's."""
    if not wanted:
        return {}
    pages = client.get_paginator("list_tags").paginate(ResourceArn=pipeline_arn)
    known = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
    return {key: value for key, value in wanted.items() if known.get(key) != value}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As requests carry them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tag_lines(tags: Mapping[str, str]) -> list[str]:
    """A line for each."""
    return [f"tag {key}: {value}" for key, value in tags.items()]


def created(client: Any, request: dict[str, Any], tags: Mapping[str, str]) -> bool:
    """CreatePipeline; False if somebody else was quicker."""
    tagged = {"Tags": tag_list(tags)} if tags else {}
    try:
        client.create_pipeline(**request, **tagged, ClientRequestToken=secrets.token_hex(16))
    except ClientError:
        if control.existing(client, request["PipelineName"]) is None:
            raise
        return False
    return True
