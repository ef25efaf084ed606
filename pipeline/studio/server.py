"""The server: one address for the API and the page, one process for a home, which keeps its port and its token.

`studio.json` in the home holds both, readable by its user alone, so that a link works again after a restart.
"""

import json
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.local.engine.runner_process import sign, taken_lock
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sandbox.namespaces import TOKEN_FILE
from pipeline.local.store.state import DiskFull, State, is_full
from pipeline.service.local_target import LocalTarget
from pipeline.studio.api import Api, is_api
from pipeline.studio.attendant import attending
from pipeline.studio.security import TOKEN, Guard
from pipeline.studio.site import Call, Studio, render

HOST, FIRST_PORT, PORTS = "127.0.0.1", 8800, 100
PAGES = (  # modules of `pages`
    "files", "executions", "execution", "start", "compare", "models", "endpoints", "data", "schedules", "experiments",
)  # fmt: skip


def serve(
    call: Call, target: LocalTarget, *, port: int | None, tell: Callable[[str, str], None], say: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C; `tell` hears the API's address and the page's link, `say` what happens meanwhile.

    A ServiceError if a server of this home runs already, a UsageError if the port cannot be had.
    """
    with ExitStack() as held:
        try:
            sign(held.enter_context(taken_lock(target.home / "locks" / "studio")), os.getpid())
        except BlockingIOError as problem:
            known = recorded(target.home)
            there = link(*known) if known else "its link is on the terminal that started it"
            raise ServiceError(f"A server of this home is running: {there}") from problem
        known = recorded(target.home)
        listener = held.enter_context(listening(port, known[0] if known else None))
        used, token = int(listener.getsockname()[1]), known[1] if known else secrets.token_urlsafe(24)
        record(target.home, used, token)
        studio = Studio(call, target)
        held.enter_context(attending(studio, say=say))
        app = application(studio, token, used)
        tell(f"http://{HOST}:{used}", link(used, token))
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
        uvicorn.Server(settings).run(sockets=[listener])


def application(studio: Studio, token: str, port: int) -> Guard:
    """Return the ASGI application of a home."""
    page = Starlette(
        routes=[
            Route("/", lambda request: RedirectResponse("/executions")),
            Mount("/static", StaticFiles(directory=Path(__file__).with_name("static"))),
            *(route for name in PAGES for route in import_module(f"pipeline.studio.pages.{name}").ROUTES),
        ],
        exception_handlers={HTTPException: refused, PipelineError: refused, OSError: full, Exception: broken},
    )
    page.state.studio = studio
    studio.target.state.client = "studio"  # by which the pages' records are made; those of the API are its clients'
    return Guard(Api(LocalApi(State(studio.target.home))), page, is_api=is_api, token=token, port=port)


def refused(request: Request, problem: Exception) -> Response:
    """Return the page for what is not there, or what a service or pipeline.yaml refuses."""
    status = problem.status_code if isinstance(problem, HTTPException) else 400
    sentence = problem.detail if isinstance(problem, HTTPException) else str(problem)
    return render(request, "problem.html", status=status, sentence=sentence)


def full(request: Request, problem: Exception) -> Response:
    """Return the page for what a full disk prevents."""
    if not is_full(problem):
        raise problem
    home = request.app.state.studio.target.home
    return render(request, "problem.html", status=507, sentence=str(DiskFull(home)))


def broken(request: Request, problem: Exception) -> Response:
    """Return the page for a fault of ours, which the terminal shows whole."""
    logging.getLogger("uvicorn.error").error("%s %s", request.method, request.url.path, exc_info=problem)
    return render(request, "problem.html", status=500, sentence=f"The page has failed: {type(problem).__name__}.")


def listening(port: int | None, last: int | None) -> socket.socket:
    """Return a socket that listens on a port: the one asked for, else the last one, else the first that is free."""
    candidates = [port] if port else [*([last] if last else []), *range(FIRST_PORT, FIRST_PORT + PORTS)]
    reason = ""
    for candidate in candidates:
        try:
            listener = socket.create_server((HOST, candidate), backlog=256)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else answers wait 40 ms: asyncio leaves it
            return listener
        except (OSError, OverflowError) as problem:  # the latter of a number that no port has, which it says
            reason = os.strerror(problem.errno) if isinstance(problem, OSError) and problem.errno else str(problem)
    tried = str(port) if port else f"{FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise UsageError(f"--port: {tried} cannot be had ({reason}); choose another.")


def link(port: int, token: str) -> str:
    """Return the page's address with the token."""
    return f"http://{HOST}:{port}/?{TOKEN}={token}"


def recorded(home: Path) -> tuple[int, str] | None:
    """Return port and token of the home's last server, if they are known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((home / TOKEN_FILE).read_text())
        return int(known["port"]), str(known[TOKEN])
    return None


def record(home: Path, port: int, token: str) -> None:
    """Keep port and token, for this user's eyes."""
    with open(os.open(home / TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:  # noqa: PTH123
        os.fchmod(stream.fileno(), 0o600)
        json.dump({"port": port, TOKEN: token}, stream)
