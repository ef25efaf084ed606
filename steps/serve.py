"""The endpoint's process: `python serve.py [serve]`.

It follows SageMaker's contract for inference containers (AWS guide, "your-algorithms-inference-code"): port 8080, a
ping within 2 s, and after SIGTERM 30 s to finish what is being answered. This process speaks HTTP and nothing else:

    connection.py  HTTP/1.1, its limits      -> exchange.py  a request and its answer
    endpoint.py    /ping, /invocations, ...  -> dispatcher.py  queue, one worker.py process for each core
    worker.py      images.py, runtimes.py    -> answers.py  the body that goes back
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from classifier.job.failures import StepError, run, say
from classifier.job.processors import core_count
from classifier.job.programs import module_environment
from classifier.model.description import read_description
from classifier.model.runtime_choice import (
    Measurement,
    candidates,
    fallbacks,
    first_runtime,
    measured_in_training,
    trial_command,
)
from classifier.model.runtimes import AUTO
from classifier.serving.connection import GRACE_SECONDS, Connection
from classifier.serving.dispatcher import Dispatcher
from classifier.serving.endpoint import MAX_CONNECTIONS, MEGABYTE, Endpoint
from classifier.serving.server_settings import ServerSettings
from classifier.serving.worker_settings import WorkerSettings

DRAIN_SECONDS = 25.0
CLOCK_SECONDS = 0.5
BACKLOG = 1024
MAX_THREADS = 16  # of one request: more help no network of this size


def main() -> None:
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, end)
    settings = ServerSettings.from_environment(os.environ)
    classes: list[str] = read_description(settings.model_dir)["classes"]
    allow_connections()
    listener = listen(settings)
    address = f"http://{settings.host}:{listener.getsockname()[1]}/invocations"
    announcement = f"Serving {len(classes)} classes on {address}"
    sys.exit(asyncio.run(serve(settings, classes, listener, announcement)))


def end(signal_number: int, frame: FrameType | None) -> NoReturn:
    """Exit 0 on SIGTERM and SIGINT before there is anything to drain."""
    sys.exit(0)


def allow_connections() -> None:
    """Raise the soft limit on open files, which may be lower than the number of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def listen(settings: ServerSettings) -> socket.socket:
    """The server's socket."""
    # The protocol is named since asyncio sets TCP_NODELAY on such sockets only; without it an answer takes 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise StepError(
            f"The endpoint cannot listen on {settings.host}:{settings.port} ({error}). "
            f"Set SAGEMAKER_BIND_TO_PORT to a free port."
        ) from None
    listener.setblocking(False)
    return listener


async def serve(settings: ServerSettings, classes: list[str], listener: socket.socket, announcement: str) -> int:
    """Answer until a signal arrives or the endpoint has been idle for too long; the exit status."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, stop.set)
    worker = WorkerSettings(
        model_dir=str(settings.model_dir),
        runtime="",  # the dispatcher's to set
        threads=min(core_count(), MAX_THREADS),
        max_image_megapixels=settings.max_image_megapixels,
        lock=-1,
    )
    dispatcher = Dispatcher(worker, settings.workers)
    endpoint = Endpoint(
        dispatcher,
        classes,
        max_body_bytes=int(settings.max_request_megabytes * MEGABYTE),
        max_waiting=settings.queued_requests,
    )
    server = await loop.create_server(partial(Connection, endpoint), sock=listener, backlog=BACKLOG)
    clock = asyncio.create_task(keep_time(endpoint, dispatcher, settings.idle_seconds, stop))
    working = asyncio.create_task(work(settings, dispatcher, announcement))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
    status = working.result() if working.done() else 0
    if stop.is_set():
        await drain(endpoint, server, listener)
    for task in (clock, working, stopping):
        task.cancel()
    server.close()
    await dispatcher.close()
    return status


async def work(settings: ServerSettings, dispatcher: Dispatcher, announcement: str) -> int:
    """Start the workers and look after the runtime; returns only the exit status of workers that could not start."""
    first, measurement = settings.runtime, None
    if first == AUTO:
        first, measurement = first_runtime(settings.model_dir), measured_in_training(settings.model_dir)
        first = measurement.fastest(first) if measurement else first
    status = await dispatcher.start(first)
    if status and settings.runtime == AUTO:
        for other in fallbacks(first):
            say(f"The runtime {first} did not start: trying {other}")
            if not (status := await dispatcher.start(other)):
                break
    if status:
        return status
    say(f"{announcement} with {dispatcher.workers} worker(s), runtime {dispatcher.runtime}")
    if settings.runtime == AUTO:
        await improve(settings.model_dir, dispatcher, measurement)
    await asyncio.Event().wait()
    return 0


async def improve(model_dir: Path, dispatcher: Dispatcher, measurement: Measurement | None) -> None:
    """Change to the fastest runtime that agrees with the trained network, if it is another.

    Args:
        measurement: Training's; where there is none, one is made.
    """
    first = dispatcher.runtime
    names = candidates(first)
    if len(names) == 1:
        return say(f"Runtime {first}: nothing else is usable here")
    where = "in training, on such a processor"
    if measurement is None:
        where, measurement = "at the start", await trial(model_dir, names)
    if measurement is None:
        return say(f"Runtime {first} is kept: the measurement of others failed, see above")
    best = measurement.fastest(first)
    say(f"Runtime {best} is the one to use; measured {where}: {measurement.told()}")
    if best != first and not await dispatcher.switch(best):
        say(f"Runtime {first} is kept: {best} did not start, see above")
    return None


async def trial(model_dir: Path, names: list[str]) -> Measurement | None:
    """Measure in a process of low priority; None if that fails."""
    command, environment = trial_command(model_dir, names), module_environment()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return Measurement(**json.loads(output)) if process.returncode == 0 else None


async def keep_time(endpoint: Endpoint, dispatcher: Dispatcher, idle_seconds: float, stop: asyncio.Event) -> None:
    """Look at the clock for slow clients, stuck workers and an idle endpoint."""
    while True:
        await asyncio.sleep(min(CLOCK_SECONDS, idle_seconds / 4) if idle_seconds else CLOCK_SECONDS)
        now = time.monotonic()
        for connection in list(endpoint.connections):
            connection.check_deadline(now)
        dispatcher.end_stuck()
        if idle_seconds and endpoint.idle_seconds >= idle_seconds and not stop.is_set():
            say(f"No invocation for {idle_seconds:g} s: the endpoint ends")
            stop.set()


async def drain(endpoint: Endpoint, server: asyncio.Server, listener: socket.socket) -> None:
    """Answer every request on a connection that was made; then no more."""
    endpoint.drain()
    loop, began = asyncio.get_running_loop(), time.monotonic()
    with contextlib.suppress(BlockingIOError):
        while True:  # connections that the system has accepted, but asyncio has not yet
            client, _ = listener.accept()
            client.setblocking(False)
            await loop.connect_accepted_socket(partial(Connection, endpoint), client)
    server.close()
    while endpoint.connections and time.monotonic() < began + DRAIN_SECONDS:
        await asyncio.sleep(0.02)
        if time.monotonic() > began + GRACE_SECONDS:
            for connection in list(endpoint.connections):
                connection.close_if_idle(time.monotonic())


if __name__ == "__main__":
    sys.exit(run(main))
