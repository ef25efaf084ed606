"""The endpoint's process: `python serve.py [serve]`.

It follows SageMaker's contract for inference containers (AWS guide, "your-algorithms-inference-code"): port 8080, a
ping within 2 s, and after SIGTERM 30 s to finish. This process speaks HTTP (app.py) and hands requests to a worker
process for each core (pool.py, worker.py).
"""

import asyncio
import os
import signal
import socket
import sys
from functools import partial
from typing import Any

from classifier.job.failures import StepError, run
from classifier.model.runtimes import read_description
from classifier.serving.pool import Pool, Settings


def main() -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them, and when it has drained, raises them again
        signal.signal(ending, lambda *_: sys.exit(0))
    settings = Settings(os.environ)
    description = read_description(settings.model_dir)
    try:
        listener = socket.create_server((settings.host, settings.port))
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        remedy = "Set SAGEMAKER_BIND_TO_PORT to a free port."
        raise StepError(f"The endpoint cannot listen on {address} ({error}). {remedy}") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited; without it an answer takes 40 ms more
    sys.exit(asyncio.run(serve(settings, description, listener)))


async def serve(settings: Settings, description: dict[str, Any], listener: socket.socket) -> int:
    """Answer until a signal arrives, the endpoint has been idle for too long, or no worker starts; the exit status."""
    pool = Pool(
        settings, f"Serving {len(description['classes'])} classes on http://{settings.host}:{settings.port}/invocations"
    )
    working = asyncio.create_task(pool.run())
    await asyncio.sleep(0)  # until the first worker has been started: it loads the model during these imports
    import uvicorn

    from classifier.serving.app import Connection, Endpoint

    endpoint = Endpoint(settings, description, pool)
    protocol: Any = partial(Connection, endpoint)
    nothing_else: Any = {"ws": "none", "lifespan": "off", "interface": "asgi3", "proxy_headers": False}
    quiet: Any = {"log_config": None, "log_level": "error", "server_header": False, "date_header": False}
    limits: Any = {"timeout_keep_alive": 75, "timeout_graceful_shutdown": 25, "limit_concurrency": 1000}
    server = uvicorn.Server(uvicorn.Config(endpoint.app, http=protocol, **nothing_else, **quiet, **limits))
    serving, idling = asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(endpoint.idle())
    await asyncio.wait([serving, working, idling], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    return working.result() if working.done() else 0


if __name__ == "__main__":
    sys.exit(run(main))
