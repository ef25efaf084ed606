"""Endpoints: what they serve, how busy and how quick they are, drift, and what they say of images dropped here."""

import io
import json
import secrets
import shlex
import tempfile
import time
import urllib.request
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import anyio.from_thread
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.aws.requests import items
from pipeline.config.job_code import importable_steps
from pipeline.errors import PipelineError
from pipeline.service import images
from pipeline.service import models as registry
from pipeline.service.predictor import ACCEPT, CONTENT_TYPE, ImagePredictor, is_labelled
from pipeline.service.targets import ask, split_uri
from pipeline.studio import commands
from pipeline.studio.pages.models import endpoints_of, evaluation_of
from pipeline.studio.site import attempt, form_of, go_to, live, missing, path_text, render, studio

MOST_IMAGES, MOST_BYTES = 20, 200 << 20  # at once
KEPT_BATCHES = 8
MOST_COUNTED = 10_000  # captured requests
METRICS_SECONDS = 2  # that an answer of /metrics is shown for
PERCENTILES = (0.5, 0.9, 0.99)


@dataclass
class Asked:
    """One image, its answer or why there is none, and what the answer depends on once somebody has asked."""

    name: str
    picture: bytes | None  # PNG, no larger than the page and the heatmap need
    answer: dict[str, Any] | None
    problem: str
    heat: bytes | None = None


BATCHES: OrderedDict[str, list[Asked]] = OrderedDict()


def show_endpoints(request: Request) -> Response:
    here = studio(request)
    return render(request, "endpoints.html", endpoints=endpoints_of(here.target), command=here.call.command)


def show_endpoint(request: Request) -> Response:
    """Return an endpoint's page, with the images of the batch that `answers` names."""
    here, name = studio(request), request.path_params["name"]
    target, found = here.target, known(request)
    arn = registry.served_version(target, name)
    package = registry.model_package(target, arn) if arn else {}
    example = f"{evaluation_of(package)}/example.png"
    image = target.storage.path(example).resolve() if evaluation_of(package) and target.holds(example) else "photo.jpg"
    url = target.endpoint_view(name, found["EndpointStatus"])["url"]
    headers = ["-H", f"Content-Type: {CONTENT_TYPE}", "-H", f"Accept: {ACCEPT}"]
    return render(
        request, "endpoint.html",
        name=name, found=found, package=package, image=str(image), api=str(request.base_url).rstrip("/"),
        curl=shlex.join(["curl", *headers, "--data-binary", f"@{image}", f"{url}/invocations"]),
        captured=captured(request, found), most=MOST_COUNTED, most_images=MOST_IMAGES,
        batch=request.query_params.get("answers", ""), answers=BATCHES.get(request.query_params.get("answers", ""), []),
        top=images.TOP, drift=drift_command(request, arn), **status_of(request),
    )  # fmt: skip


def show_status(request: Request) -> Response:
    """Return what is live of an endpoint's page."""
    context = status_of(request)
    return live(request, "endpoint_status.html", lambda: context, also=str(context))


def status_of(request: Request) -> dict[str, Any]:
    """Return status, traffic and drift as they are now."""
    here, name = studio(request), request.path_params["name"]
    found = known(request)
    view, arn = here.target.endpoint_view(name, found["EndpointStatus"]), registry.served_version(here.target, name)
    is_up = view["url"] and view["status"] in ("InService", "Updating")
    command = drift_command(request, arn)
    report: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        report = json.loads((drift_folder(request) / "drift.json").read_text())
    return {
        "view": view, "reason": found.get("FailureReason", ""), "version": arn and arn.rpartition("model-package/")[2],
        "traffic": traffic(f"{view['url']}/metrics", int(time.monotonic() / METRICS_SECONDS)) if is_up else None,
        "is_checking": commands.is_running(command), "problem": commands.failure(command),
        "report": report, "report_name": drift_folder(request).name,
    }  # fmt: skip


def known(request: Request) -> dict[str, Any]:
    """Return DescribeEndpoint of the one that the address names."""
    name = request.path_params["name"]
    found = registry.endpoint(studio(request).target, name)
    if found is None:
        raise missing(f"endpoint {name!r}")
    return found


@lru_cache(maxsize=32)
def traffic(address: str, moment: int) -> dict[str, Any] | None:
    """Return what a server of this project counts since it started; None of another server, or of one that is busy."""
    requests, classes, buckets = dict[str, int](), dict[str, int](), list[tuple[float, float]]()
    with suppress(OSError, ValueError, KeyError):
        with urllib.request.urlopen(address, timeout=2) as answer:
            text = answer.read().decode()
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            if sample.name == "classifier_requests_total":
                requests[sample.labels["status"]] = int(sample.value)
            elif sample.name == "classifier_predictions_total" and sample.value:
                classes[sample.labels["class"]] = int(sample.value)
            elif sample.name == "classifier_seconds_bucket" and sample.labels["stage"] == "total":
                buckets.append((float(sample.labels["le"]), sample.value))
        if "classifier_requests" in text:
            best = sorted(classes.items(), key=lambda item: -item[1])
            return {"requests": requests, "classes": best, "seconds": {q: quantile(buckets, q) for q in PERCENTILES}}
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
    target, asked = studio(request).target, {"EndpointConfigName": found["EndpointConfigName"]}
    with suppress(PipelineError):
        settings = ask(target, "describe its configuration", "describe_endpoint_config", **asked)
        if (settings.get("DataCaptureConfig") or {}).get("EnableCapture"):
            bucket, prefix = split_uri(settings["DataCaptureConfig"]["DestinationS3Uri"])
            place = f"{prefix.rstrip('/')}/{found['EndpointName']}/"
            listed = items(target.client("s3"), "list_objects_v2", Bucket=bucket, Prefix=place)
            return sum(1 for _ in islice(listed, MOST_COUNTED + 1))
    return None


def drift_folder(request: Request) -> Path:
    return studio(request).target.home / "reports" / f"drift-{request.path_params['name']}"


def drift_command(request: Request, arn: str | None) -> str:
    """Return the command line that compares what the endpoint was sent with what its version was trained on."""
    words = ["--endpoint", request.path_params["name"], *(["--model", arn] if arn else [])]
    return studio(request).call.command("drift", *words, "--out", str(drift_folder(request)))


def classify(request: Request) -> Response:
    """Ask the endpoint about each image of a form."""
    place, target = f"/endpoints/{path_text(request.path_params['name'])}", studio(request).target
    if int(request.headers.get("content-length", MOST_BYTES + 1)) > MOST_BYTES:
        anyio.from_thread.run(drained, request)
        return go_to(place, problem=f"The images are larger than {MOST_BYTES >> 20} MB together: send fewer at once.")
    given = [file for file in form_of(request).getlist("images") if isinstance(file, UploadFile) and file.filename]
    if not 0 < len(given) <= MOST_IMAGES:
        return go_to(place, problem=f"Choose from 1 to {MOST_IMAGES} images at once; there were {len(given)}.")
    contents = [file.file.read() for file in given]
    predictor = ImagePredictor(request.path_params["name"], target)
    try:
        answers = list(predictor.ask_each(contents))
    except PipelineError as problem:
        return go_to(place, problem=str(problem))
    batch = [
        Asked(
            str(file.filename),
            small(content),
            *((None, str(answer)) if isinstance(answer, Exception) else (answer, "")),
        )
        for file, content, answer in zip(given, contents, answers, strict=True)
    ]
    BATCHES[token := secrets.token_hex(8)] = batch
    while len(BATCHES) > KEPT_BATCHES:
        BATCHES.popitem(last=False)
    return go_to(f"{place}?answers={token}#answers")


async def drained(request: Request) -> None:
    """Throw a body away: a browser that is cut off while it sends shows no answer."""
    async for _ in request.stream():
        pass


def small(content: bytes) -> bytes | None:
    """Return an image as a PNG no larger than is shown and explained; None if it is none."""
    with importable_steps():
        from classifier.data.images import ImageError, decode
    buffer = io.BytesIO()
    try:
        picture = decode(content, max_pixels=100_000_000)
    except ImageError:
        return None
    picture.thumbnail((2 * images.SIDE_PX, 2 * images.SIDE_PX))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def asked_of(request: Request) -> Asked:
    """Return the image that the address names."""
    batch = BATCHES.get(request.path_params["batch"], [])
    if request.path_params["number"] >= len(batch):
        raise missing("such image any more: ask again")
    return batch[int(request.path_params["number"])]


def show_picture(request: Request) -> Response:
    asked = asked_of(request)
    content = asked.heat if request.path_params["kind"] == "heat" else asked.picture
    if content is None:
        raise missing("such picture")
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


def explain(request: Request) -> Response:
    """Find out what an answer depends on, by fifty requests with a part of the image covered each."""
    asked, name = asked_of(request), request.path_params["name"]
    place = f"/endpoints/{path_text(name)}?answers={request.path_params['batch']}"
    if asked.picture is None or asked.answer is None or not is_labelled(asked.answer):
        return go_to(place, problem=f"{asked.name} has no answer that could be explained.")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        image.write_bytes(asked.picture)
        predictor = ImagePredictor(name, studio(request).target)
        try:
            asked.heat = images.explain(predictor, image, asked.answer, Path(folder) / "out").read_bytes()
        except PipelineError as problem:
            return go_to(place, problem=str(problem))
    return go_to(f"{place}#image-{request.path_params['number']}")


def act(request: Request) -> Response:
    """Wake, check or delete an endpoint."""
    here, name, action = studio(request), request.path_params["name"], request.path_params["action"]
    place, found = f"/endpoints/{path_text(name)}", known(request)
    if action == "wake":
        return attempt(place, f"Endpoint {name} is awake.", lambda: here.target.wake(name))
    if action == "delete":
        delete = {"EndpointName": found["EndpointName"]}
        return attempt("/endpoints", f"Endpoint {name} is deleted.",
                       lambda: ask(here.target, f"delete endpoint {name!r}", "delete_endpoint", **delete))  # fmt: skip
    commands.start(drift_command(request, registry.served_version(here.target, name)))
    return go_to(f"{place}#drift")


ROUTES = [
    Route("/endpoints", show_endpoints),
    Route("/endpoints/{name}", show_endpoint),
    Route("/endpoints/{name}/status", show_status),
    Route("/endpoints/{name}/answers", classify, methods=["POST"]),
    Route("/endpoints/{name}/answers/{batch}/{number:int}", explain, methods=["POST"]),
    Route("/endpoints/{name}/answers/{batch}/{number:int}/{kind}", show_picture),
    Route("/endpoints/{name}/{action}", act, methods=["POST"]),
]
