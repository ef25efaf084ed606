"""The endpoint's process: `python serve.py [serve]` answers GET /ping and POST /invocations.

It follows SageMaker's contract for inference containers (AWS guide, "your-algorithms-inference-code"): port 8080, a
ping within 2 s, and after SIGTERM 30 s to finish what is being answered. The model is loaded and tried before the first
ping is answered.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from endpoint import Endpoint
from failures import StepError, run, say
from predictor import Predictor
from request_body import MEGABYTE

DRAIN_SECONDS = 25
IDLE_CHECKS = 20  # looks at the clock during one idle time
MEGAPIXEL = 1_000_000


@dataclass(frozen=True)
class Settings:
    """The server's environment variables."""

    model_dir: Path  # SM_MODEL_DIR: model.tar.gz, unpacked
    host: str  # BIND_HOST
    port: int  # SAGEMAKER_BIND_TO_PORT
    max_request_megabytes: float  # MAX_REQUEST_MEGABYTES
    max_image_megapixels: float  # MAX_IMAGE_MEGAPIXELS
    idle_seconds: float  # ENDPOINT_IDLE_SECONDS: end after so long without an invocation; 0 is never
    workers: int  # images answered at the same time

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        def number(name: str, default: float) -> float:
            text = environment.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not 0 <= value < float("inf"):
                raise StepError(f"Environment variable {name} must be a number of at least 0, but got {text}.")
            return value

        return cls(
            model_dir=Path(environment.get("SM_MODEL_DIR") or "/opt/ml/model"),
            host=environment.get("BIND_HOST") or "0.0.0.0",
            port=int(number("SAGEMAKER_BIND_TO_PORT", 8080)),
            max_request_megabytes=number("MAX_REQUEST_MEGABYTES", 6),
            max_image_megapixels=number("MAX_IMAGE_MEGAPIXELS", 100),
            idle_seconds=number("ENDPOINT_IDLE_SECONDS", 0),
            workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        )


def main() -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, end)
    settings = Settings.from_environment(os.environ)
    listener = listen(settings)
    predictor = Predictor(settings.model_dir, threads=1, max_pixels=int(settings.max_image_megapixels * MEGAPIXEL))
    endpoint = Endpoint(
        predictor,
        ThreadPoolExecutor(settings.workers),
        max_request_bytes=int(settings.max_request_megabytes * MEGABYTE),
    )
    say(f"Serving {len(predictor.classes)} classes on http://{settings.host}:{listener.getsockname()[1]}/invocations")
    asyncio.run(serve(endpoint, listener, settings.idle_seconds))


def end(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Exit 0 on SIGTERM and SIGINT: uvicorn drains first while it serves, then raises the signal again."""
    sys.exit(0)


def listen(settings: Settings) -> socket.socket:
    """The server's socket; clients that connect while the model loads wait for it."""
    # The protocol is named since asyncio sets TCP_NODELAY on such sockets only; without it an answer takes 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise StepError(
            f"The endpoint cannot listen on {settings.host}:{settings.port} ({error}). "
            f"Set SAGEMAKER_BIND_TO_PORT to a free port."
        ) from None
    return listener


async def serve(endpoint: Endpoint, listener: socket.socket, idle_seconds: float) -> None:
    """Answer until a signal arrives or the endpoint has been idle for too long."""
    server = uvicorn.Server(
        uvicorn.Config(
            endpoint,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    watch = asyncio.create_task(stop_when_idle(server, endpoint, idle_seconds)) if idle_seconds else None
    await server.serve(sockets=[listener])
    if watch:
        watch.cancel()


async def stop_when_idle(server: uvicorn.Server, endpoint: Endpoint, idle_seconds: float) -> None:
    while endpoint.idle_seconds < idle_seconds:
        await asyncio.sleep(idle_seconds / IDLE_CHECKS)
    say(f"No invocation for {idle_seconds:g} s: the endpoint ends")
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(run(main))
