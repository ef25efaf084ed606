"""The deploy function's settings: where and how a version is served.

pipeline.yaml was checked line by line before they got here, so only their types are looked at: AWS refuses the rest.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from classifier.deployment.services import DeployError


@dataclass(frozen=True)
class Hosting:
    """Each field is an environment variable of the same name in capitals; a value in the event wins."""

    endpoint_name: str
    execution_role_arn: str  # of the model: it reads the archive and the image, writes logs, reads alarms
    instance_type: str
    initial_instance_count: int
    canary_fraction: float = 0.3  # of the new instances take traffic first; more than half is cut to half; 0: none
    canary_wait_seconds: int = 300  # how long the alarms watch before the rest of the traffic, and the old fleet's end
    rollback_alarms: tuple[str, ...] = ()  # names of CloudWatch alarms; any of them undoes an update
    autoscaling_min: int = 1  # instances
    autoscaling_max: int = 0  # instances; 0: autoscaling is left alone, 1: it is switched off
    autoscaling_target: float = 600.0  # invocations per minute and instance
    data_capture_percent: int = 0
    data_capture_uri: str = ""  # s3://bucket/prefix
    serverless_memory_mb: int = 0  # 0: instances
    serverless_max_concurrency: int = 5
    keep_versions: int = 3  # unused endpoint configurations that are kept, with their models
    subnet_ids: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    network_isolation: bool = False
    kms_key_arn: str = ""
    champion_uri: str = ""  # s3://bucket/prefix of the copy that retrains are compared with; none: no copy is kept
    tags: tuple[dict[str, str], ...] = ()  # given as a JSON object, kept as create requests take them

    @property
    def is_serverless(self) -> bool:
        """Whether SageMaker provides the capacity."""
        return self.serverless_memory_mb > 0

    @property
    def is_autoscaled(self) -> bool:
        """Whether Application Auto Scaling sets the number of instances."""
        return self.autoscaling_max > 1 and not self.is_serverless


def read_hosting(event: Mapping[str, Any]) -> Hosting:
    """The event's values, else the environment's, else the defaults; a DeployError if one is missing or no number."""
    values = {}
    for each in fields(Hosting):
        name, variable, given = each.name, each.name.upper(), event.get(each.name)
        text = os.environ.get(variable, "") if given in (None, "") else str(given)
        parse, accepted = PARSERS[each.type]
        if text:
            try:
                values[name] = parse(text)
            except (ValueError, KeyError, AttributeError) as error:
                raise DeployError(f"{name} must be {accepted}, but got '{text}'.") from error
        elif each.default is MISSING:
            raise DeployError(f"The event has no '{name}' and {variable} is not set: give one of them.")
    return Hosting(**values)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _tags(text: str) -> tuple[dict[str, str], ...]:
    return tuple({"Key": key, "Value": str(value)} for key, value in json.loads(text).items())


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (_flag, "true or false"),
    tuple[str, ...]: (_names, "names separated by commas"),
    tuple[dict[str, str], ...]: (_tags, "a JSON object"),
}
