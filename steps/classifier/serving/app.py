"""The endpoint's paths: SageMaker's contract, Prometheus' metrics, and a page for a browser.

AWS guide, "your-algorithms-inference-code" and "your-algorithms-batch-code".
"""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from classifier.job.failures import say
from classifier.serving.content import IMAGES, JSON, Refusal, accepted_format, media_type_of
from classifier.serving.pool import Lost, Pool
from classifier.serving.settings import MEGABYTE, Settings

MAX_HELD_BYTES = 64 * MEGABYTE  # of all bodies, or two of the largest
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOW_CONFIDENCE = 0.5  # a best score below this is counted
CLIENT_LEFT = 499  # nginx's code; nobody reads it
INFERENCE_ID, INFERENCE_ID_CHARACTERS = "x-amzn-sagemaker-inference-id", 64  # InvokeEndpoint takes no longer one
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
KNOWN = "POST an image to /invocations, or GET /ping."
OVERLOADED = Refusal(503, "The endpoint has more requests than it can hold: try again.")


class Metrics:
    """What the endpoint did since it started; all names begin with classifier_."""

    def __init__(self, classes: Sequence[str], pool: Pool) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "classifier", "registry": self.registry}
        self.requests = Counter("requests", "Requests by status", ["status"], **common)
        self.bytes = Counter("request_bytes", "Bytes of their bodies", **common)
        predictions = Counter("predictions", "Predictions by class", ["class"], **common)
        self.predictions = [predictions.labels(name) for name in classes]
        self.low_confidence = Counter("low_confidence", f"Predictions with a score below {LOW_CONFIDENCE}", **common)
        seconds = Histogram("seconds", "Seconds by stage", ["stage"], buckets=BUCKETS_SECONDS, **common)
        self.seconds = {f"{stage}_ms": seconds.labels(stage) for stage in ("decode", "queue", "infer", "total")}
        self.runtime = Gauge("runtime_info", "What runs the network", ["runtime"], **common)
        Gauge("queue_length", "Requests that no worker has", **common).set_function(lambda: len(pool.queue))
        Gauge("running", "Requests that workers have", **common).set_function(lambda: pool.running)
        Gauge("ready_workers", "Workers that compute", **common).set_function(lambda: pool.ready)
        pool.on_restart = Counter("worker_restarts", "Workers that died", **common).inc


class Endpoint:
    """Answers the requests of all connections."""

    def __init__(self, settings: Settings, classes: Sequence[str], pool: Pool) -> None:
        self.max_body_bytes, self.is_draining = settings.max_body_bytes, False
        self._pool, self._metrics, self._numbers = pool, Metrics(classes, pool), itertools.count(1)
        self._page = Path(__file__).with_name("page.html").read_bytes()
        self._held_bytes, self._max_held_bytes = 0, max(MAX_HELD_BYTES, 2 * settings.max_body_bytes)
        self._in_flight, self._last_invocation = 0, time.monotonic()
        refusals: Any = {HTTPException: self.refuse, Refusal: self.refuse}
        paths = {"/": self.page, "/ping": self.ping, "/metrics": self.metrics}
        routes = [Route(path, answer) for path, answer in paths.items()]
        routes.append(Route("/execution-parameters", self.execution_parameters))
        routes.append(Route("/invocations", self.invoke, methods=["POST"]))
        self.app = Starlette(routes=routes, exception_handlers=refusals)
        self.app.router.redirect_slashes = False

    @property
    def idle_seconds(self) -> float:
        """Time since the last invocation ended, or the model was loaded; 0 while one is running."""
        if self._in_flight or not self._pool.has_started:
            self._last_invocation = time.monotonic()
        return time.monotonic() - self._last_invocation

    async def invoke(self, request: Request) -> Response:
        """Answer a prediction, count it, and print its line."""
        began, connection, body = time.perf_counter(), request.state.connection, bytearray()
        figures: dict[str, float] = {}
        self._in_flight += 1
        try:
            response = await self._predict(request, body, figures)
            status = response.status_code
        except Refusal as refusal:
            status, response = refusal.status, refusal_answer(refusal.status, str(refusal))
        except (ClientDisconnect, Lost) as error:
            status, sentence = 500, "The model's process ended on this request; the endpoint's log may say why."
            response = refusal_answer(500, sentence)
            if isinstance(error, ClientDisconnect) or connection.is_lost:
                status = connection.refused or CLIENT_LEFT
        finally:
            self._in_flight -= 1
            self._held_bytes -= len(body)
            self._last_invocation = time.monotonic()
        figures["total_ms"] = 1000 * (time.perf_counter() - began)
        self._metrics.requests.labels(status).inc()
        self._metrics.bytes.inc(len(body))
        for stage, milliseconds in figures.items() if status == 200 else ():
            self._metrics.seconds[stage].observe(milliseconds / 1000)
        name = request.headers.get(INFERENCE_ID, "")
        self.log("POST", "/invocations", status, name=name, received=len(body), figures=figures)
        return response

    async def _predict(self, request: Request, body: bytearray, figures: dict[str, float]) -> Response:
        """Fill in the body and the milliseconds of each stage; raises Refusal, ClientDisconnect or Lost."""
        connection, headers = request.state.connection, request.headers
        head = {"content_type": headers.get("content-type", ""), "accept": headers.get("accept", "*/*")}
        is_long = media_type_of(head["content_type"]) not in IMAGES
        media_type, _ = accepted_format(head["accept"])
        await self._read(request, body)
        queued = time.perf_counter()
        found, answer = await self._pool.answer(head, body, lambda: not connection.is_lost, is_long=is_long)
        if found["status"] != 200:
            raise Refusal(found["status"], found["error"])
        figures |= {stage: found[stage] for stage in ("decode_ms", "infer_ms")}
        figures["queue_ms"] = 1000 * (time.perf_counter() - queued) - sum(figures.values())
        for index, score in zip(found["best"], found["scores"], strict=True):
            self._metrics.predictions[index].inc()
            self._metrics.low_confidence.inc(score < LOW_CONFIDENCE)
        return Response(answer, CLIENT_LEFT if connection.is_lost else 200, {"content-type": media_type})

    async def _read(self, request: Request, body: bytearray) -> None:
        """Take the body, as long as there is room for it."""
        most = self.max_body_bytes
        too_large = Refusal(413, f"The request is larger than {most / MEGABYTE:g} MB: send a smaller image.")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        if self._pool.is_full:
            raise OVERLOADED
        async for piece in request.stream():
            body += piece
            self._held_bytes += len(piece)
            if len(body) > most:
                raise too_large
            if self._held_bytes > self._max_held_bytes:
                raise OVERLOADED
        if self._pool.is_full:  # it was not when the head arrived
            raise OVERLOADED

    def log(self, method: str, path: str, status: int, *, name: str = "", received: int = 0, figures: Any = ()) -> None:
        """Print a line of the access log; pings and readings of the metrics, which never end, are not worth one."""
        name = name[:INFERENCE_ID_CHARACTERS] or f"{os.getpid()}-{next(self._numbers)}"
        line = {"id": name, "method": method, "path": path, "status": status, "bytes": received}
        say(orjson.dumps(line | {stage: round(value, 2) for stage, value in dict(figures).items()}).decode())

    async def refuse(self, request: Request, error: HTTPException) -> Response:
        """What Starlette refuses: another path, another method."""
        what = "There is no {1}" if error.status_code == 404 else "{1} does not accept {0}"
        self.log(request.method, request.url.path, error.status_code)
        sentence = f"{what.format(request.method, request.url.path)}: {KNOWN}"
        return refusal_answer(error.status_code, sentence, error.headers)

    async def page(self, request: Request) -> Response:
        """For a browser."""
        return Response(self._page, media_type="text/html")

    async def ping(self, request: Request) -> Response:
        """Whether a worker has answered one of the model's own images."""
        return Response() if self._pool.ready else refusal_answer(503, "The model is loading: try again in a moment.")

    async def execution_parameters(self, request: Request) -> Response:
        """What batch transform may do: one request computed, one on its way, for each worker."""
        most = {"MaxConcurrentTransforms": 2 * self._pool.count, "MaxPayloadInMB": self.max_body_bytes // MEGABYTE or 1}
        return Response(orjson.dumps({**most, "BatchStrategy": "SINGLE_RECORD"}), media_type=JSON)

    async def metrics(self, request: Request) -> Response:
        """In Prometheus' text format."""
        self._metrics.runtime.clear()
        self._metrics.runtime.labels(self._pool.runtime).set(1)
        return Response(prometheus_client.generate_latest(self._metrics.registry), media_type=PROMETHEUS)


def refusal_answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """One sentence of JSON, and for now only: when to come again."""
    more = {"retry-after": "1"} if status == 503 else {}
    return Response(orjson.dumps({"error": sentence}), status, {**more, **(headers or {})}, JSON)
