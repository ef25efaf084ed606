"""The endpoint's process: `python serve.py [serve]`.

It follows SageMaker's contract for inference containers (AWS guide, "your-algorithms-inference-code"): port 8080, a
ping within 2 s, and after SIGTERM 30 s to finish what is being answered. This process speaks HTTP:

    connection.py  uvicorn, and its limits -> app.py    Starlette: /ping, /invocations, /metrics, ...
    pool.py        one queue               -> worker.py a process for each core: images, network, answers
"""

import asyncio
import os
import resource
import signal
import socket
import sys
from functools import partial
from typing import Any, NoReturn

from classifier.job.failures import StepError, run, say
from classifier.model.description import read_description
from classifier.serving.pool import Pool
from classifier.serving.settings import Settings, read_settings

DRAIN_SECONDS = 25
KEEP_ALIVE_SECONDS = 75
BACKLOG = 1024
OPEN_FILES = 2048
ENDINGS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    for ending in ENDINGS:
        signal.signal(ending, end)
    settings = read_settings(os.environ)
    classes: list[str] = read_description(settings.model_dir)["classes"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < OPEN_FILES:  # -1 is infinity
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if hard < 0 else min(OPEN_FILES, hard), hard))
    sys.exit(asyncio.run(serve(settings, classes, listen(settings))))


def end(signal_number: int, frame: object) -> NoReturn:
    """Exit 0 on SIGTERM and SIGINT before there is anything to drain."""
    sys.exit(0)


def listen(settings: Settings) -> socket.socket:
    """The server's socket."""
    # The protocol is named since asyncio sets TCP_NODELAY on such sockets only; without it an answer takes 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        raise StepError(
            f"The endpoint cannot listen on {settings.host}:{settings.port} ({error}). "
            f"Set SAGEMAKER_BIND_TO_PORT to a free port."
        ) from None
    return listener


async def serve(settings: Settings, classes: list[str], listener: socket.socket) -> int:
    """Answer until a signal arrives, the endpoint has been idle for too long, or no worker starts; the exit status."""
    address = f"http://{settings.host}:{listener.getsockname()[1]}/invocations"
    pool = Pool(settings, f"Serving {len(classes)} classes on {address}")
    working = asyncio.create_task(pool.run())
    await asyncio.sleep(0)  # until the first worker has been started: it loads the model meanwhile
    import uvicorn

    from classifier.serving.app import Endpoint
    from classifier.serving.connection import Connection

    endpoint = Endpoint(settings, classes, pool)
    nothing_else: Any = {"ws": "none", "lifespan": "off", "proxy_headers": False, "interface": "asgi3"}
    quiet: Any = {"log_config": None, "log_level": "error", "server_header": False, "date_header": False}
    limits: Any = {"timeout_keep_alive": KEEP_ALIVE_SECONDS, "timeout_graceful_shutdown": DRAIN_SECONDS}
    protocol: Any = partial(Connection, endpoint)
    config = uvicorn.Config(endpoint.app, http=protocol, backlog=BACKLOG, **nothing_else, **quiet, **limits)
    server = uvicorn.Server(config)
    for ending in ENDINGS:
        signal.signal(ending, server.handle_exit)  # which uvicorn leaves in place, and tells once more at its end
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not serving.done():
        await asyncio.wait([serving], timeout=min(0.1, settings.idle_seconds / 4))
        endpoint.is_draining = server.should_exit
        if working.done():
            server.should_exit = True
        elif endpoint.idle_seconds >= settings.idle_seconds and not server.should_exit:
            say(f"No invocation for {settings.idle_seconds:g} s: the endpoint ends")
            server.should_exit = True
    await serving
    await pool.close()
    return working.result() if working.done() else 0


if __name__ == "__main__":
    sys.exit(run(main))
