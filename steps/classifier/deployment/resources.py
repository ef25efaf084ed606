"""Models and endpoint configurations: made for a plan, undone when it is refused, removed when no longer used."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.hosting import Hosting
from classifier.deployment.rollout import Plan, endpoint_mark
from classifier.deployment.services import client, endpoint_named, found, message, was_refused

Resource = tuple[str, str]  # kind and name


@dataclass(frozen=True)
class Kind:
    """How the API names resources of a kind, and how many hashes of content their names end with (see `rollout`)."""

    name_key: str
    list_operation: str
    list_member: str
    hashes: int


KINDS = {
    "model": Kind("ModelName", "list_models", "Models", 1),
    "endpoint_config": Kind("EndpointConfigName", "list_endpoint_configs", "EndpointConfigs", 2),
}


def put_into_service(plan: Plan, request: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Make the plan's resources and send CreateEndpoint or UpdateEndpoint.

    When something fails, the endpoint tells whether the request took effect all the same (its answer was lost, or an
    equal call was quicker). If it did not, what this call made is removed; unless the request may yet take effect.
    """
    made: list[Resource] = []
    is_sent = False
    try:
        _make(plan, made)
        is_sent = True
        request(**arguments)
    except (ClientError, BotoCoreError) as error:
        in_use = _configs_in_use_if_known(plan.hosting)
        if in_use is not None and plan.config_name in in_use:
            return
        if in_use is not None and (was_refused(error) or not is_sent):
            _undo(made, in_use)
        raise


def config_exists(name: str) -> bool:
    """Whether there is an endpoint configuration of that name."""
    return found(client("sagemaker").describe_endpoint_config, EndpointConfigName=name) is not None


def configs_in_use(hosting: Hosting) -> set[str]:
    """The endpoint configurations that the endpoint serves or is going to."""
    endpoint = endpoint_named(hosting.endpoint_name) or {}
    holders = (endpoint, endpoint.get("PendingDeploymentSummary", {}))
    return {holder["EndpointConfigName"] for holder in holders if "EndpointConfigName" in holder}


def remove_unused(hosting: Hosting, also_used: set[str]) -> None:
    """Remove this endpoint's configurations but those in use and the last `keep_versions`; models without any, too.

    A failure is printed only: the deployment is done, and the next one tries again.
    """
    try:
        configs, models = (_own_names(kind, endpoint_mark(hosting)) for kind in ("endpoint_config", "model"))
        in_use = configs_in_use(hosting) | also_used  # asked last, just before something is deleted
        unused = [name for name in configs if name not in in_use]
        gone = unused[hosting.keep_versions :]
        kept = (set(configs) - set(gone)) | in_use
        for name in gone:
            _delete(("endpoint_config", name))
        for name in models:
            if not _has_config(name, kept):
                _delete(("model", name))
    except (ClientError, BotoCoreError) as error:
        print(f"Unused models and endpoint configurations were not removed: {error}", flush=True)


def _make(plan: Plan, made: list[Resource]) -> None:
    """Create what is missing; `made` is told before, as a time-out does not say whether it was made."""
    for kind, request in (("model", plan.model), ("endpoint_config", plan.endpoint_config)):
        name = request[KINDS[kind].name_key]
        if _call("describe", (kind, name)) is not None:
            continue
        made.append((kind, name))
        try:
            getattr(client("sagemaker"), f"create_{kind}")(**request)
        except ClientError as error:
            if "already exist" not in message(error).lower():
                raise
            made.pop()  # a call at the same time was quicker: the same name means the same content


def _undo(made: list[Resource], in_use: set[str]) -> None:
    try:
        for kind, name in reversed(made):
            if kind != "model" or not _has_config(name, in_use):
                _delete((kind, name))
    except (ClientError, BotoCoreError) as error:
        print(f"What this call made was not removed: {error}", flush=True)


def _has_config(model_name: str, configs: set[str]) -> bool:
    return any(config.startswith(f"{model_name}-") for config in configs)


def _configs_in_use_if_known(hosting: Hosting) -> set[str] | None:
    try:
        return configs_in_use(hosting)
    except (ClientError, BotoCoreError):  # the error that led here is the one to report
        return None


def _own_names(kind: str, mark: str) -> list[str]:
    """The names of this endpoint's resources of a kind, newest first."""
    api = KINDS[kind]
    pages = client("sagemaker").get_paginator(api.list_operation)
    found_pages = pages.paginate(NameContains=f"-{mark}-", SortBy="CreationTime", SortOrder="Descending")
    names = [summary[api.name_key] for page in found_pages for summary in page[api.list_member]]
    pattern = re.compile(rf"[A-Za-z0-9-]+-\d+-{mark}(-[0-9a-f]{{6}}){{{api.hashes}}}")
    return [name for name in names if pattern.fullmatch(name)]


def _delete(resource: Resource) -> None:
    _call("delete", resource)


def _call(verb: str, resource: Resource) -> dict[str, Any] | None:
    """Describe or delete; None if there is no such resource."""
    kind, name = resource
    return found(getattr(client("sagemaker"), f"{verb}_{kind}"), **{KINDS[kind].name_key: name})
