"""The endpoint's environment variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from classifier.job.failures import StepError
from classifier.job.processors import core_count
from classifier.model.runtimes import AUTO, RUNTIMES


@dataclass(frozen=True)
class ServerSettings:
    """What they say; each field names its own."""

    model_dir: Path  # SM_MODEL_DIR: model.tar.gz, unpacked
    host: str  # BIND_HOST
    port: int  # SAGEMAKER_BIND_TO_PORT
    max_request_megabytes: float  # MAX_REQUEST_MEGABYTES
    max_image_megapixels: float  # MAX_IMAGE_MEGAPIXELS
    idle_seconds: float  # ENDPOINT_IDLE_SECONDS: end after so long without an invocation; 0 is never
    workers: int  # SAGEMAKER_MODEL_SERVER_WORKERS: one for each core unless told otherwise
    queued_requests: int  # MAX_QUEUED_REQUESTS: one more is answered 503
    runtime: str  # INFERENCE_RUNTIME: auto or one of runtimes.RUNTIMES

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ServerSettings":
        def number(name: str, default: float) -> float:
            text = environment.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not 0 <= value < float("inf"):
                raise StepError(f"Environment variable {name} must be a number of at least 0, but got {text}.")
            return value

        runtime = environment.get("INFERENCE_RUNTIME") or AUTO
        if runtime not in (AUTO, *RUNTIMES):
            raise StepError(
                f"Environment variable INFERENCE_RUNTIME must be {AUTO}, {', '.join(RUNTIMES)}, but got {runtime}."
            )
        return cls(
            model_dir=Path(environment.get("SM_MODEL_DIR") or "/opt/ml/model"),
            host=environment.get("BIND_HOST") or "0.0.0.0",
            port=int(number("SAGEMAKER_BIND_TO_PORT", 8080)),
            max_request_megabytes=number("MAX_REQUEST_MEGABYTES", 6),
            max_image_megapixels=number("MAX_IMAGE_MEGAPIXELS", 100),
            idle_seconds=number("ENDPOINT_IDLE_SECONDS", 0),
            workers=max(1, int(number("SAGEMAKER_MODEL_SERVER_WORKERS", core_count()))),
            queued_requests=int(number("MAX_QUEUED_REQUESTS", 128)),
            runtime=runtime,
        )
