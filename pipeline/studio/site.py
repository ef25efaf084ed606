"""What all pages share: the home that they are about, templates, and fragments that a page asks for again and again."""

import datetime
import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

import anyio.from_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pipeline.config.config import Config
from pipeline.errors import PipelineError
from pipeline.service.comparison import shorten_number
from pipeline.service.local_target import LocalTarget

KEPT_FRAGMENTS = 200
LONGEST_SHARE = 0.04  # of a core, for making a fragment anew
TABS = ("executions", "experiments", "models", "endpoints", "data", "schedules")


class Call(Protocol):
    """What the pages need of the command line's call."""

    config_file: Path
    env: str | None

    def command(self, *words: str) -> str:
        """Return a command line as it can be typed."""


class Studio:
    """The home that the server is about, and what it remembers between requests."""

    def __init__(self, call: Call, target: LocalTarget) -> None:
        self.call = call
        self.target = target
        self.fragments: OrderedDict[Hashable, tuple[Hashable, bytes, float]] = OrderedDict()
        self.lock, self.making = threading.Lock(), [threading.Lock() for _ in range(16)]
        self.read: tuple[float, Config] | None = None

    @property
    def config(self) -> Config:
        """pipeline.yaml as it is now, read again when it has changed."""
        from pipeline.config.config import load

        file = self.call.config_file
        changed = file.stat().st_mtime if file.exists() else 0.0
        if self.read is None or self.read[0] != changed:
            self.read = changed, load(self.call.config_file, self.call.env)
        return self.read[1]

    @property
    def version(self) -> tuple[int, int]:
        """What is another one after each change of the home's records, by this process or others."""
        state = self.target.state
        return int(state.rows("PRAGMA data_version")[0][0]), state.connection.total_changes


def studio(request: Request) -> Studio:
    """Return what the server is about."""
    return cast(Studio, request.app.state.studio)


def arn_of(request: Request, name: str) -> str:
    """Return the ARN of the execution `pipeline/id`."""
    pipeline, _, execution = name.partition("/")
    return f"{studio(request).target.placement.pipeline_arn(pipeline)}/execution/{execution}"


@cache
def environment() -> Environment:
    """The templates, which escape whatever they are given."""
    made = Environment(
        loader=PackageLoader("pipeline.studio"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"time": time_text, "seconds": seconds_text, "percent": percent_text, "path": path_text}
    made.filters |= {"number": lambda value: shorten_number(str(value))}  # to 4 digits; a title has the whole
    made.filters |= {"pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str)}
    made.globals |= {"tabs": TABS, "epoch": epoch, "css_class": css_class}
    return made


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page made from a template."""
    return HTMLResponse(text_of(request, template, context), status)


def text_of(request: Request, template: str, context: Mapping[str, Any]) -> str:
    """Return a template's text."""
    tab = request.url.path.split("/")[1]
    made = environment().get_template(template).render(request=request, tab=tab, said=request.query_params, **context)
    return made.encode(errors="replace").decode()  # JSON may hold halves of characters, which are no text


def live(
    request: Request, template: str, make_context: Callable[[], Mapping[str, Any]], *, also: Hashable = ()
) -> Response:
    """Return a fragment of a page, or 304 to a browser that shows it; made anew when the home or `also` has changed.

    Of many that ask at once one has it made, and not sooner than after LONGEST_SHARE of the processor's time.
    """
    here, place = studio(request), str(request.url)
    with here.making[hash(place) % len(here.making)]:
        known, version = here.fragments.get(place), (here.version, also)
        if known is None or (known[0] != version and time.monotonic() > known[2]):
            began = time.thread_time()
            text = text_of(request, template, make_context()).encode()
            again = time.monotonic() + (time.thread_time() - began) / LONGEST_SHARE
            known = version, text, again
            with here.lock:
                here.fragments[place] = known
                here.fragments.move_to_end(place)
                while len(here.fragments) > KEPT_FRAGMENTS:
                    here.fragments.popitem(last=False)
    etag = f'"{hashlib.sha256(known[1]).hexdigest()[:32]}"'
    is_shown = request.headers.get("if-none-match") == etag
    return HTMLResponse(None if is_shown else known[1], 304 if is_shown else 200, {"etag": etag})


def form_of(request: Request) -> FormData:
    """Return the fields of a form; to be called by a page, which runs in a thread."""

    async def read() -> FormData:
        return await request.form()

    return anyio.from_thread.run(read)


def go_to(path: str, **said: str) -> Response:
    """Send the browser to a page, which shows what is `said` (done=, problem=)."""
    query = "&".join(f"{name}={quote(text[:1000])}" for name, text in said.items())
    return RedirectResponse(f"{path}{'&' if '?' in path else '?'}{query}" if query else path, 303)


def attempt(path: str, done: str, action: Callable[[], object]) -> Response:
    """Do what a form asks for and send the browser to a page that says so, or that says why it is refused."""
    try:
        action()
    except PipelineError as problem:
        return go_to(path, problem=str(problem))
    return go_to(path, done=done)


def missing(what: str) -> HTTPException:
    """The answer about what is not there."""
    return HTTPException(404, f"There is no {what}.")


def epoch(moment: datetime.datetime | float | str) -> float:
    """Return a time in seconds since 1970."""
    if isinstance(moment, str):
        moment = datetime.datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime.datetime) else float(moment)


def time_text(moment: datetime.datetime | float | str | None) -> str:
    """Return a time as it is here, to the second."""
    if moment is None:
        return ""
    return datetime.datetime.fromtimestamp(epoch(moment)).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_text(seconds: float | None) -> str:
    """Return a duration: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def percent_text(share: float | str | None, digits: int = 1) -> str:
    """Return a share of 1 in percent."""
    return "" if share is None else f"{100 * float(share):.{digits}f} %"


def path_text(text: object) -> str:
    """Return a name as one part of an address."""
    return quote(str(text), safe="")


def css_class(status: object) -> str:
    """Return the look of a status: good, bad, busy or idle."""
    return STATUS_CLASSES.get(str(status), "idle")


STATUS_CLASSES = {
    **dict.fromkeys(("Succeeded", "Completed", "Approved", "InService", "NoIssuesFound", "ENABLED"), "good"),
    **dict.fromkeys(("Failed", "Rejected", "IssuesFound", "Error"), "bad"),
    **dict.fromkeys(("Executing", "InProgress", "Stopping", "Creating", "Updating", "PendingManualApproval"), "busy"),
}
