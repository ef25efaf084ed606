"""Endpoints: what they serve, how busy and how quick they are, drift, and what they say of images dropped here."""

import base64
import json
import shlex
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.errors import PipelineError
from pipeline.service import images
from pipeline.service import models as registry
from pipeline.service.predictor import ACCEPT, CONTENT_TYPE, ImagePredictor
from pipeline.service.prepared import small_jpeg
from pipeline.service.targets import ask
from pipeline.studio import commands
from pipeline.studio.pages.models import endpoints_of, evaluation_of
from pipeline.studio.site import attempt, form_of, go_to, live, missing, path_text, render, studio

MOST_IMAGES, MOST_COUNTED = 20, 10_000  # at once; captured requests
LOOK_SECONDS = 2  # between two looks at an endpoint, for all who have its page open
PERCENTILES = (0.5, 0.9, 0.99)


def show_endpoints(request: Request) -> Response:
    here = studio(request)
    return render(request, "endpoints.html", endpoints=endpoints_of(here.target), command=here.call.command)


def show_endpoint(request: Request, answers: Sequence[dict[str, Any]] = ()) -> Response:
    """Return an endpoint's page, with its answers to images."""
    target, name, status = studio(request).target, request.path_params["name"], status_of(request)
    package = registry.model_package(target, status["version"]) if status["version"] else {}
    example = f"{evaluation_of(package)}/example.png"
    image = str(target.storage.path(example).resolve() if package and target.holds(example) else "photo.jpg")
    headers = ["-H", f"Content-Type: {CONTENT_TYPE}", "-H", f"Accept: {ACCEPT}"]
    curl = shlex.join(["curl", *headers, "--data-binary", f"@{image}", f"{status['view']['url']}/invocations"])
    return render(
        request, "endpoint.html", name=name, curl=curl, answers=answers, top=images.TOP, most=MOST_COUNTED,
        most_images=MOST_IMAGES, captured=captured(request, status["found"]), **status,
    )  # fmt: skip


def show_status(request: Request) -> Response:
    """Return what is live of an endpoint's page."""
    moment = int(time.monotonic() / LOOK_SECONDS), commands.running()
    return live(request, "endpoint_status.html", lambda: status_of(request), also=moment)


def status_of(request: Request) -> dict[str, Any]:
    """Return status, traffic and drift as they are now; 404 if there is no such endpoint."""
    target, name = studio(request).target, request.path_params["name"]
    if (found := registry.endpoint(target, name)) is None:
        raise missing(f"endpoint {name!r}")
    view, version = target.endpoint_view(name, found["EndpointStatus"]), registry.served_version(target, name)
    address = f"{view['url']}/metrics" if view["status"] in ("InService", "Updating") else ""
    folder, model, report = target.home / "reports" / f"drift-{name}", ["--model", version] if version else [], None
    command = studio(request).call.command("drift", "--endpoint", name, *model, "--out", str(folder))
    with suppress(OSError, ValueError):
        report = json.loads((folder / "drift.json").read_text())
    return {
        "found": found, "view": view, "version": version, "report": report, "command": command,
        "traffic": traffic(address) if address else None,
        "is_checking": commands.is_running(command), "problem": commands.failure(command),
    }  # fmt: skip


def traffic(address: str) -> dict[str, Any] | None:
    """Return what a server of this project counts since it started; None of another server, or of one that is busy."""
    counts: dict[str, dict[str, int]] = {"requests": {}, "predictions": {}}
    buckets = list[tuple[float, float]]()
    with suppress(OSError, ValueError, KeyError):
        with urllib.request.urlopen(address, timeout=2) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        for sample in (sample for family in families for sample in family.samples):
            kind = sample.name.removeprefix("classifier_").removesuffix("_total")
            if kind in counts and sample.value:
                counts[kind][next(iter(sample.labels.values()))] = int(sample.value)
            elif kind == "seconds_bucket" and sample.labels["stage"] == "total":
                buckets.append((float(sample.labels["le"]), sample.value))
        if any(family.name.startswith("classifier_") for family in families):
            return {**counts, "seconds": {share: quantile(buckets, share) for share in PERCENTILES}}
    return None


def quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Return about which value so many are below, as PromQL's histogram_quantile; buckets count those up to a limit."""
    total, low, before = buckets[-1][1] if buckets else 0, 0.0, 0.0
    for limit, count in buckets if total else ():
        if count >= share * total:
            return low if limit == float("inf") else low + (limit - low) * (share * total - before) / (count - before)
        low, before = limit, count
    return None


def captured(request: Request, found: dict[str, Any]) -> int | None:
    """Return how many requests are kept, at most one more than are counted; None where the endpoint keeps none."""
    target, settings, config = studio(request).target, dict[str, Any](), found["EndpointConfigName"]
    with suppress(PipelineError):
        asked = ask(target, "describe it", "describe_endpoint_config", EndpointConfigName=config)
        settings = asked.get("DataCaptureConfig") or {}
    if not settings.get("EnableCapture"):
        return None
    folder = target.storage.path(settings["DestinationS3Uri"]) / found["EndpointName"]
    return sum(1 for _ in islice(folder.rglob("*.jsonl"), MOST_COUNTED + 1))


def classify(request: Request) -> Response:
    """Ask the endpoint about the images of a form, or about one again that is to be explained, by fifty requests."""
    form, name = form_of(request), request.path_params["name"]
    files = [file for file in form.getlist("images") if isinstance(file, UploadFile) and file.filename]
    place, predictor = f"/endpoints/{path_text(name)}", ImagePredictor(name, studio(request).target)
    again = str(form.get("picture", "")).rpartition(",")[2]
    try:
        given = [(str(form.get("name")), base64.b64decode(again))] if again else []
        given += [(str(file.filename), file.file.read()) for file in files]
        if not 0 < len(given) <= MOST_IMAGES:
            return go_to(place, problem=f"Choose from 1 to {MOST_IMAGES} images at once; there were {len(given)}.")
        found = predictor.ask_each([content for _, content in given])
        answers = [{"name": file, "picture": shown(content), "answer": answer}
                   for (file, content), answer in zip(given, found, strict=True)]  # fmt: skip
        if again and isinstance(answers[0]["answer"], dict):
            answers[0]["heat"] = explained(predictor, given[0][1], answers[0]["answer"])
    except (PipelineError, ValueError) as problem:
        return go_to(place, problem=str(problem))
    return show_endpoint(request, answers)


def shown(content: bytes) -> str:
    """Return an image as a data URI, no larger than is shown and explained; empty if it is none."""
    with suppress(ValueError):
        return f"data:image/jpeg;base64,{base64.b64encode(small_jpeg(content, 2 * images.SIDE_PX)).decode()}"
    return ""


def explained(predictor: ImagePredictor, content: bytes, answer: dict[str, Any]) -> str:
    """Return as a data URI what an answer depends on in an image."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        image.write_bytes(content)
        return shown(images.explain(predictor, image, answer, Path(folder)).read_bytes())


def act(request: Request) -> Response:
    """Wake, check or delete an endpoint."""
    target, name, status = studio(request).target, request.path_params["name"], status_of(request)
    place, action, delete = f"/endpoints/{path_text(name)}", request.path_params["action"], {"EndpointName": name}
    if action == "wake":
        return attempt(place, f"Endpoint {name} is awake.", lambda: target.wake(name))
    if action == "delete":
        deleted = f"Endpoint {name} is deleted."
        return attempt("/endpoints", deleted, lambda: ask(target, f"delete {name!r}", "delete_endpoint", **delete))
    if action == "check":
        commands.start(status["command"])
        return go_to(f"{place}#drift")
    raise missing(f"such action: wake, check and delete are the ones of an endpoint, not {action!r}")


ROUTES = [
    Route("/endpoints", show_endpoints),
    Route("/endpoints/{name}", show_endpoint),
    Route("/endpoints/{name}", classify, methods=["POST"]),
    Route("/endpoints/{name}/status", show_status),
    Route("/endpoints/{name}/{action}", act, methods=["POST"]),
]
