"""The endpoint over HTTP: paths (AWS guide, "your-algorithms-inference-code" and "-batch-code"), metrics and limits."""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from classifier.job.failures import say
from classifier.serving.content import IMAGES, MEGABYTE, Refusal, accepted_format, media_type_of
from classifier.serving.pool import Job, Pool, Settings
from classifier.training.abstaining import NEVER, Measured, operating_point, set_threshold, why_not

HEAD_BYTES = 32 * 1024
FRAMED_SHARE, DISCARDED_SHARE = 2, 8  # times the limit of a body, with its chunks' framing: taken, and thrown away
READING_SECONDS = 30.0  # from a request's first byte to its last
LATE = f"The request did not arrive within {READING_SECONDS:g} s."
DISCARDING_SECONDS = 10.0
GRACE_SECONDS = 0.25  # for a request that was on its way on an idle connection when the server was told to end
MAX_HELD_BYTES = 64 * MEGABYTE  # of all bodies, or two of the largest
LOW_CONFIDENCE = 0.5  # a best score below this is counted, where there is no operating threshold

disable_created_metrics()  # type: ignore[no-untyped-call]
REQUESTS = Counter("classifier_requests", "Requests by status", ["status"])
PREDICTIONS = Counter("classifier_predictions", "Predictions by class", ["class"])
LOW_CONFIDENCES = Counter("classifier_low_confidence", "Predictions with a score below the operating threshold, or 0.5")
SECONDS = Histogram("classifier_seconds", "Seconds by stage", ["stage"])
RUNTIME = Gauge("classifier_runtime_info", "What runs the network", ["runtime"])
QUEUE_LENGTH = Gauge("classifier_queue_length", "Requests that no worker has")
RUNNING = Gauge("classifier_running", "Requests that workers have")
READY_WORKERS = Gauge("classifier_ready_workers", "Workers that compute")
RESTARTS = Counter("classifier_worker_restarts", "Workers that died")


class Endpoint:
    """Answers the requests of all connections."""

    def __init__(self, settings: Settings, description: dict[str, Any], pool: Pool) -> None:
        self.settings, self._pool = settings, pool
        self._measured = description.get("abstaining")
        self._confident_from = confident_from(self._measured, settings.min_precision)
        self._held_bytes, self._last_invocation = 0, time.monotonic()
        self._predictions = [PREDICTIONS.labels(name) for name in description["classes"]]
        QUEUE_LENGTH.set_function(lambda: len(pool.queue))
        RUNNING.set_function(lambda: pool.running)
        READY_WORKERS.set_function(lambda: sum(worker.is_ready for worker in pool.workers))
        pool.on_restart = RESTARTS.inc
        page = FileResponse(Path(__file__).with_name("page.html"))
        routes = [Route("/", page, methods=["GET"]), Route("/ping", self.ping), Route("/metrics", self.metrics)]
        routes += [Route("/execution-parameters", self.limits), Route("/invocations", self.invoke, methods=["POST"])]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: self.refuse})

    async def idle(self) -> None:
        """Return when nobody has asked for so long that the endpoint shall end."""
        while time.monotonic() - self._last_invocation < self.settings.idle_seconds:
            if self._pool.queue or self._pool.running or not self._pool.has_started:
                self._last_invocation = time.monotonic()
            await asyncio.sleep(0.1)
        say(f"No invocation for {self.settings.idle_seconds:g} s: the endpoint ends")

    async def invoke(self, request: Request) -> Response:
        """Answer a prediction, count it, and print its line."""
        began, body, stages = time.perf_counter(), bytearray(), dict[str, float]()
        try:
            response = await self._predict(request, body, stages)
        except Refusal as refusal:
            response = refused(refusal.status, str(refusal))
        except ClientDisconnect:
            response = Response(status_code=request.state.connection.refused or 499)  # nginx's: the client left
        finally:
            self._held_bytes -= len(body)
            self._last_invocation = time.monotonic()
        stages["total_ms"] = 1000 * (time.perf_counter() - began)
        REQUESTS.labels(response.status_code).inc()
        for stage, milliseconds in stages.items() if response.status_code == 200 else ():
            SECONDS.labels(stage.removesuffix("_ms")).observe(milliseconds / 1000)
        name = request.headers.get("x-amzn-sagemaker-inference-id", "")
        self.log("POST", "/invocations", response.status_code, name, bytes=len(body), **stages)
        return response

    async def _predict(self, request: Request, body: bytearray, stages: dict[str, float]) -> Response:
        """Fill in the body and the milliseconds of each stage; raises Refusal or ClientDisconnect."""
        headers, most = request.headers, self.settings.max_body_bytes
        head = {"content_type": headers.get("content-type", ""), "accept": headers.get("accept", "*/*")}
        is_long = media_type_of(head["content_type"]) not in IMAGES
        media_type, _, coverage = accepted_format(head["accept"])
        thresholds = {"confident_from": self._confident_from, "set_from": self._set_from(coverage)}
        too_large = f"The request is larger than {most / MEGABYTE:g} MB: send a smaller image."
        if int(headers.get("content-length") or 0) > most:
            raise Refusal(413, too_large)
        async for piece in request.stream():  # at least one, although it may be empty
            body += piece
            self._held_bytes += len(piece)
            if len(body) > most:
                raise Refusal(413, too_large)
            if self._pool.is_full or self._held_bytes > max(MAX_HELD_BYTES, 2 * most):
                raise Refusal(503, "The endpoint has more requests than it can hold: try again.")
        queued = time.perf_counter()
        self._pool.put(job := Job(head | thresholds, body, is_long))
        found, answer = await job.answer
        if found["status"] != 200:
            raise Refusal(found["status"], found["error"])
        stages |= {stage: found[stage] for stage in ("decode_ms", "infer_ms")}
        stages["queue_ms"] = 1000 * (time.perf_counter() - queued) - sum(stages.values())
        for index, score in zip(found["best"], found["scores"], strict=True):
            self._predictions[index].inc()
            LOW_CONFIDENCES.inc(score < (self._confident_from or LOW_CONFIDENCE))
        return Response(answer, headers={"content-type": media_type})

    def _set_from(self, coverage: float | None) -> float | None:
        """Return the score from which on a label belongs to the set, if one is wanted."""
        if coverage is None:
            return None
        if self._measured is None:
            raise Refusal(406, "This model keeps no measured scores, which sets of labels take: train it again.")
        return set_threshold(self._measured, coverage)

    def log(self, method: str, path: str, status: int, name: str = "", **figures: float) -> None:
        """Print a line of the access log; pings and readings of the metrics, which never end, are not worth one."""
        line = {"id": name or str(uuid.uuid4()), "method": method, "path": path, "status": status}
        say(orjson.dumps(line | {figure: round(value, 2) for figure, value in figures.items()}).decode())

    async def refuse(self, request: Request, error: Any) -> Response:
        """Answer another path or another method, which Starlette refuses."""
        self.log(request.method, request.url.path, error.status_code)
        return refused(error.status_code, f"{error.detail}: POST images to /invocations, or GET /ping.", error.headers)

    async def ping(self, request: Request) -> Response:
        """Answer 200 once a worker has shown that the model answers."""
        is_ready = any(worker.is_ready for worker in self._pool.workers)
        return Response() if is_ready else refused(503, "The model is loading: try again in a moment.")

    async def limits(self, request: Request) -> Response:
        """Tell batch transform what it may do: one request computed, one on its way, for each worker."""
        most = {"MaxConcurrentTransforms": 2 * len(self._pool.workers), "BatchStrategy": "SINGLE_RECORD"}
        return JSONResponse(most | {"MaxPayloadInMB": self.settings.max_body_bytes // MEGABYTE or 1})

    async def metrics(self, request: Request) -> Response:
        """Answer in Prometheus' text format."""
        RUNTIME.clear()
        RUNTIME.labels(self._pool.runtime).set(1)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def confident_from(measured: Measured | None, min_precision: float) -> float | None:
    """Return the operating threshold, and say it; None where no precision is wanted."""
    if not min_precision:
        return None
    if measured is None:
        say("This model keeps no measured scores, so no answer counts as confident: train it again.")
    elif point := operating_point(measured, min_precision):
        share = point["images"] / measured["images"]
        say(f"Confident from a score of {point['threshold']:.4f}: {share:.0%} of the images measured had that")
        return float(point["threshold"])
    else:
        say(why_not(measured, min_precision))
    return NEVER


def refused(status: int, sentence: str, headers: Any = None) -> Response:
    """Return one sentence of JSON, and for now only: when to come again."""
    return JSONResponse({"error": sentence}, status, headers or ({"retry-after": "1"} if status == 503 else {}))


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the limits that it lacks: on a request's bytes and on the time that it takes to arrive.

    A client that is still sending loses an answer that comes with a closed connection. So it is answered at once, what
    follows is thrown away for a while, and only a client that does not stop is cut off.
    """

    def __init__(self, endpoint: Endpoint, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._endpoint, self._is_ending = endpoint, False  # whether the server drains
        self._arriving, self._bytes = "", 0  # the part of a request, "head" or "body", that is not all there; its bytes
        self.refused = 0  # the status that was answered here; nothing more is read as a request

    @property
    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(READING_SECONDS, self._refuse, 408, LATE)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if not self.refused:
            super().data_received(data)
        share = DISCARDED_SHARE if self.refused or self._is_answered else FRAMED_SHARE
        if self._bytes > share * self._endpoint.settings.max_body_bytes + HEAD_BYTES:
            self._refuse(400, "The body's chunks are mostly framing: send larger ones.")
        elif self._arriving == "head" and self._bytes > HEAD_BYTES and not self.refused:
            self._refuse(431, f"The request's head is larger than {HEAD_BYTES // 1024} KB.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._arriving = "head"
        self._deadline.cancel()
        self._deadline = self.loop.call_later(READING_SECONDS, self._refuse, 408, LATE)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._arriving = "body"
        if self._is_ending or self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._arriving, self._bytes = "", 0
        self._deadline.cancel()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "The request is no HTTP/1.1.")

    def shutdown(self) -> None:
        self._is_ending = True
        if self._is_answered:
            self.loop.call_later(GRACE_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer what cannot be read on, after the answers to earlier requests; cut off what has had its answer."""
        in_body = self._arriving == "body"
        if self.refused or self.transport.is_closing() or (in_body and (self.cycle.response_started or self.pipeline)):
            self.transport.abort()
            return
        self.refused = status
        if not in_body and not self._is_answered:
            self.cycle.keep_alive = False  # the answer to an earlier request is the last
            return
        if in_body:  # the application is told that the client has left
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self._endpoint.log("", "", status)
        body = orjson.dumps({"error": sentence})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.write_eof()
        self.loop.call_later(DISCARDING_SECONDS, self.transport.abort)
