"""The `deploy` section of pipeline.yaml: the endpoint, how it is updated, and how it grows."""

from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.config.formats import INSTANCE_COUNT, INSTANCE_TYPE, aws_name
from pipeline.config.setting import Rule, boolean, choice, integer, null_or, number, refuse, setting, whole_number
from pipeline.config.yaml_lines import Value

RUNTIMES = (
    "auto",
    "onnxruntime",
    "openvino",
    "torchscript",
    "bf16",
    "cuda",
)  # as classifier/model/runtimes.py names them
SERVERLESS_MEMORY_MB = (1024, 2048, 3072, 4096, 5120, 6144)
SERVERLESS_REQUEST_MEGABYTES = 4  # serverless endpoints take 4 MB, others 6


def serverless_memory(value: Value) -> int:
    """0, which is off, or a size that CreateEndpointConfig takes."""
    found = integer(value)
    if found and found not in SERVERLESS_MEMORY_MB:
        refuse(value, f"must be 0 (off) or one of {', '.join(map(str, SERVERLESS_MEMORY_MB))}, but got {found}.")
    return found


def fewer_than_min(max_instances: int, min_instances: int) -> str | None:
    """RegisterScalableTarget refuses it."""
    if max_instances >= min_instances:
        return None
    return f"must be at least min_instances ({min_instances}), but got {max_instances}."


def not_with_serverless(fault: str) -> Rule:
    """A rule that a setting keeps at 0 while the endpoint is serverless."""
    return Rule(
        (fault, "serverless.memory_mb"),
        lambda found, memory_mb: (
            f"must be 0 for a serverless endpoint, which has no such thing, but got {found}; "
            "or set deploy.serverless.memory_mb to 0."
            if memory_mb and found
            else None
        ),
    )


def scaled_and_serverless(max_instances: int, memory_mb: int) -> str | None:
    """A serverless endpoint has no instances to scale."""
    if not memory_mb or max_instances == 1:
        return None
    return (
        f"must be 1 (off) for a serverless endpoint, which scales by itself, but got {max_instances}; "
        "or set deploy.serverless.memory_mb to 0."
    )


def too_large_for_serverless(max_request_megabytes: int, memory_mb: int) -> str | None:
    """A serverless endpoint takes smaller requests."""
    if not memory_mb or max_request_megabytes <= SERVERLESS_REQUEST_MEGABYTES:
        return None
    return (
        f"must be at most {SERVERLESS_REQUEST_MEGABYTES} for a serverless endpoint, but got {max_request_megabytes}; "
        "or set deploy.serverless.memory_mb to 0."
    )


@dataclass(frozen=True)
class AutoscalingConfig:
    """Instances follow the traffic; off while max_instances is 1."""

    rules: ClassVar = (Rule(("max_instances", "min_instances"), fewer_than_min),)
    min_instances: int = setting(1, INSTANCE_COUNT)
    max_instances: int = setting(1, INSTANCE_COUNT)
    target_invocations_per_minute: int = setting(600, whole_number(at_least=1))

    @property
    def enabled(self) -> bool:
        """Whether there is anything to scale."""
        return self.max_instances > 1


@dataclass(frozen=True)
class ServerlessConfig:
    """An endpoint without instances; off while memory_mb is 0."""

    memory_mb: int = setting(0, serverless_memory)
    max_concurrency: int = setting(5, whole_number(at_least=1, at_most=200))

    @property
    def enabled(self) -> bool:
        """Whether the endpoint is serverless."""
        return self.memory_mb > 0


@dataclass(frozen=True)
class DeployConfig:
    """DeployEndpoint and the endpoint."""

    rules: ClassVar = (
        not_with_serverless("data_capture_percent"),
        Rule(("autoscaling.max_instances", "serverless.memory_mb"), scaled_and_serverless),
        Rule(("max_request_megabytes", "serverless.memory_mb"), too_large_for_serverless),
    )
    endpoint_name: str = setting("image-classification", aws_name(63))
    instance_type: str = setting("ml.m5.large", INSTANCE_TYPE)
    instance_count: int = setting(1, INSTANCE_COUNT)
    runtime: str = setting("auto", choice(*RUNTIMES))
    min_precision: float | None = setting(None, null_or(number(at_least=0.5, at_most=0.999)))
    max_request_megabytes: int = setting(6, whole_number(at_least=1, at_most=6))  # InvokeEndpoint takes 6 MiB
    local_idle_minutes: int = setting(15, whole_number(at_least=1))
    canary_fraction: float = setting(0.3, number(above=0, at_most=0.5))  # CanarySize is at most half the capacity
    canary_wait_seconds: int = setting(300, whole_number(at_least=0, at_most=3600))  # WaitIntervalInSeconds
    rollback: bool = setting(True, boolean)
    max_latency_ms: int = setting(1000, whole_number(at_least=1))
    max_5xx_per_minute: int = setting(5, whole_number(at_least=0))
    autoscaling: AutoscalingConfig = field(default_factory=AutoscalingConfig)
    data_capture_percent: int = setting(0, whole_number(at_least=0, at_most=100))
    serverless: ServerlessConfig = field(default_factory=ServerlessConfig)
    keep_versions: int = setting(3, whole_number(at_least=1))
