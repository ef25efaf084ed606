"""Where and how a version is served: the deploy function's settings, from its event and its environment variables."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from classifier.deployment.services import DeployError

RANGES: dict[str, tuple[float, float | None]] = {  # lowest and highest value, both allowed
    "initial_instance_count": (1, None),
    "canary_fraction": (0, 1),
    "canary_wait_seconds": (0, 3600),
    "autoscaling_min": (1, None),
    "autoscaling_max": (0, None),
    "autoscaling_target": (1, None),
    "data_capture_percent": (0, 100),
    "serverless_memory_mb": (0, 6144),
    "serverless_max_concurrency": (1, 200),
    "keep_versions": (1, None),
}


@dataclass(frozen=True)
class Hosting:
    """Each field is an environment variable of the same name in capitals; a value in the event wins.

    Lists are separated by commas, `tags` is a JSON object, flags are true or false.
    """

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
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.data_capture_percent and not self.data_capture_uri:
            raise DeployError("data_capture_percent needs DATA_CAPTURE_URI, but it is not set: set it to an S3 prefix.")
        if bool(self.subnet_ids) != bool(self.security_group_ids):
            raise DeployError("A VPC needs SUBNET_IDS and SECURITY_GROUP_IDS, but only one is set: set both or none.")
        if self.is_autoscaled and self.autoscaling_min > self.autoscaling_max:
            low, high = self.autoscaling_min, self.autoscaling_max
            raise DeployError(f"autoscaling_min must be at most autoscaling_max ({high}), but got {low}.")
        if self.is_serverless and (self.data_capture_percent or self.subnet_ids or self.network_isolation):
            raise DeployError(
                "A serverless endpoint has no data capture, VPC or network isolation: "
                "set serverless_memory_mb to 0 or switch those off."
            )

    @property
    def is_serverless(self) -> bool:
        """Whether SageMaker provides the capacity."""
        return self.serverless_memory_mb > 0

    @property
    def is_autoscaled(self) -> bool:
        """Whether Application Auto Scaling sets the number of instances."""
        return self.autoscaling_max > 1 and not self.is_serverless


def read_hosting(event: Mapping[str, Any]) -> Hosting:
    """The settings: the event's value, else the environment's, else the default.

    Raises:
        DeployError: a value is missing or not acceptable.
    """
    given = {each.name: _value(each, event) for each in fields(Hosting)}
    return Hosting(**{name: value for name, value in given.items() if value is not None})


def text(event: Mapping[str, Any], name: str) -> str | None:
    """A value as text, from the event or the environment; None if neither has it."""
    value = event.get(name)
    if value in (None, ""):
        value = os.environ.get(name.upper(), "")
    return None if value == "" else str(value)


def required_text(event: Mapping[str, Any], name: str) -> str:
    """A value as text.

    Raises:
        DeployError: neither the event nor the environment has it.
    """
    value = text(event, name)
    if value is None:
        raise DeployError(
            f"The event has no '{name}' and the environment variable {name.upper()} is not set: give one of them."
        )
    return value


def _value(setting: Field[Any], event: Mapping[str, Any]) -> Any:
    has_default = setting.default is not MISSING or setting.default_factory is not MISSING
    found = text(event, setting.name) if has_default else required_text(event, setting.name)
    if found is None:
        return None
    parse, what = PARSERS[setting.type]
    try:
        value = parse(found)
        low, high = RANGES.get(setting.name, (None, None))
        is_accepted = (low is None or value >= low) and (high is None or value <= high)
    except ValueError:
        is_accepted = False
    if not is_accepted:
        raise DeployError(f"{setting.name} must be {what}{_range(setting.name)}, but got '{found}'.")
    return value


def _range(name: str) -> str:
    low, high = RANGES.get(name, (None, None))
    if low is None:
        return ""
    return f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise ValueError(value)
    return value.lower() == "true"


def _tags(value: str) -> dict[str, str]:
    content = json.loads(value)
    if not isinstance(content, dict):
        raise ValueError(value)
    return {str(key): str(each) for key, each in content.items()}


PARSERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (_flag, "true or false"),
    tuple[str, ...]: (_names, "names separated by commas"),
    dict[str, str]: (_tags, "a JSON object"),
}
