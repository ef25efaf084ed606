"""The endpoint's environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from classifier.job.failures import StepError
from classifier.job.system import core_count
from classifier.model.runtimes import AUTO, RUNTIMES

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """What they say; the server and its workers read the same."""

    model_dir: Path  # SM_MODEL_DIR: model.tar.gz, unpacked
    host: str  # BIND_HOST
    port: int  # SAGEMAKER_BIND_TO_PORT
    max_body_bytes: int  # MAX_REQUEST_MEGABYTES: a larger body is answered 413
    max_pixels: int  # MAX_IMAGE_MEGAPIXELS: so is a larger image
    idle_seconds: float  # ENDPOINT_IDLE_SECONDS: end after so long without an invocation; 0 and inf are never
    workers: int  # SAGEMAKER_MODEL_SERVER_WORKERS: processes, one for each core unless told otherwise
    max_queued: int  # MAX_QUEUED_REQUESTS beyond those that are computed: one more is answered 503
    runtime: str  # INFERENCE_RUNTIME: auto or one of runtimes.RUNTIMES


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The variables, or what a SageMaker container has; raises StepError for one that cannot be used."""

    def number(name: str, default: float, most: float = 1e6) -> float:
        text = environment.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise StepError(f"Environment variable {name} must be a number from 0 to {most:g}, but got {text}.")
        return value

    runtime, runtimes = environment.get("INFERENCE_RUNTIME") or AUTO, (AUTO, *RUNTIMES)
    if runtime not in runtimes:
        raise StepError(f"Environment variable INFERENCE_RUNTIME must be {', '.join(runtimes)}, but got {runtime}.")
    return Settings(
        model_dir=Path(environment.get("SM_MODEL_DIR") or "/opt/ml/model"),
        host=environment.get("BIND_HOST") or "0.0.0.0",
        port=int(number("SAGEMAKER_BIND_TO_PORT", 8080, most=65535)),
        max_body_bytes=int(number("MAX_REQUEST_MEGABYTES", 6) * MEGABYTE),
        max_pixels=int(number("MAX_IMAGE_MEGAPIXELS", 100) * 1_000_000),
        idle_seconds=number("ENDPOINT_IDLE_SECONDS", 0, most=float("inf")) or float("inf"),
        workers=max(1, int(number("SAGEMAKER_MODEL_SERVER_WORKERS", core_count()))),
        max_queued=int(number("MAX_QUEUED_REQUESTS", 128)),
        runtime=runtime,
    )
