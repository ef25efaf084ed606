"""The endpoint's paths: /ping, /invocations, /execution-parameters and /metrics, as SageMaker and Prometheus ask.

AWS guide, "your-algorithms-inference-code" and "your-algorithms-batch-code".
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import orjson

from classifier.job.failures import say
from classifier.serving.accept import accepted_format
from classifier.serving.borrowed import REQUEST_BYTES
from classifier.serving.connection import Connection, body_too_large
from classifier.serving.content_types import require_accepted
from classifier.serving.dispatcher import MOST_TO_LEND, Dispatcher
from classifier.serving.exchange import CLIENT_CLOSED_REQUEST, INFERENCE_ID, Answer, Exchange
from classifier.serving.frames import Head
from classifier.serving.refusals import Refusal
from classifier.serving.server_metrics import CONTENT_TYPE as METRICS_TYPE
from classifier.serving.server_metrics import ServerMetrics
from classifier.serving.worker_process import Job

MEGABYTE = 1024 * 1024
RETRY_SECONDS = 1
MAX_HELD_BYTES = 64 * MEGABYTE
MAX_CONNECTIONS = 1000
JSON = "application/json"
KNOWN = "POST an image to /invocations, or GET /ping."

Respond = Callable[[Answer], None]


class Endpoint:
    """Answers the requests of all connections.

    Args:
        max_body_bytes: A larger body is answered 413.
        max_waiting: More requests than this in the queue are answered 503.
        max_held_bytes: Of bodies in all; beyond it 503.
        max_connections: One more is answered 503 and closed.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        classes: Sequence[str],
        *,
        max_body_bytes: int,
        max_waiting: int,
        max_held_bytes: int = MAX_HELD_BYTES,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.max_body_bytes, self.max_held_bytes = max_body_bytes, max_held_bytes
        self.max_connections = max_connections
        self.held_bytes = 0
        self.draining = False
        self.connections: set[Connection] = set()
        self.metrics = ServerMetrics(classes)
        self._dispatcher = dispatcher
        self._max_waiting = max_waiting
        self._last_invocation = time.monotonic()
        dispatcher.on_served = self._served
        dispatcher.lends = max_body_bytes >= REQUEST_BYTES and max_waiting >= MOST_TO_LEND * dispatcher.workers
        self._routes: dict[tuple[str, str], Callable[[Exchange, Respond], None]] = {
            ("GET", "/ping"): self._ping,
            ("GET", "/execution-parameters"): self._execution_parameters,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/invocations"): self._invoke,
        }
        self._paths = {path for _, path in self._routes}

    @property
    def idle_seconds(self) -> float:
        """Time since the last invocation ended; 0 while one is running."""
        running = self._dispatcher.waiting or self._dispatcher.running or self._dispatcher.lent
        return 0.0 if running else time.monotonic() - self._last_invocation

    def check(self, exchange: Exchange) -> None:
        """Refuse, by its head alone, what would be refused anyway."""
        if exchange.path not in self._paths:
            raise Refusal(404, f"There is no {exchange.path}: {KNOWN}")
        if (exchange.method, exchange.path) not in self._routes:
            raise Refusal(405, f"{exchange.path} does not accept {exchange.method}: {KNOWN}")
        if (exchange.announced_bytes or 0) > self.max_body_bytes:
            raise body_too_large(self.max_body_bytes)
        if exchange.path == "/invocations":
            require_accepted(exchange.headers.get("content-type", ""))
            accepted_format(exchange.headers.get("accept", "*/*"))
            if self._dispatcher.waiting >= self._max_waiting:
                raise self.overloaded()

    def overloaded(self) -> Refusal:
        """503: the client had better come again later."""
        return Refusal(
            503, "The endpoint has more requests than it can hold: try again.", {"retry-after": str(RETRY_SECONDS)}
        )

    def start(self, exchange: Exchange, respond: Respond) -> None:
        """Answer a request that has arrived."""
        self._routes[exchange.method, exchange.path](exchange, respond)

    def finished(self, exchange: Exchange, status: int) -> None:
        """Count it and print a line; pings and readings of the metrics, which never end, are not worth one."""
        total = 1000 * (time.perf_counter() - exchange.began)
        if status == CLIENT_CLOSED_REQUEST:
            self._dispatcher.withdraw(exchange)
        self._account(exchange, status, total)

    def drain(self) -> None:
        """No connection shall stay open, nor with a worker."""
        self.draining = True
        self._dispatcher.lends = False
        self._dispatcher.reclaim()

    def _served(self, identifier: str, served: Head) -> None:
        """A worker has answered a request on a connection that it was lent."""
        exchange = Exchange(method="POST", target="/invocations", headers={INFERENCE_ID: identifier})
        exchange.received_bytes = served["bytes"]
        if served["status"] == 200:
            stages = {stage: served[f"{stage}_ms"] for stage in ("queue", "decode", "infer")}
            exchange.milliseconds.update(stages)
            self.metrics.count_predictions(served["best"], served["scores"])
        self._account(exchange, served["status"], served["total_ms"])

    def _account(self, exchange: Exchange, status: int, total: float) -> None:
        if exchange.path == "/invocations":
            self._last_invocation = time.monotonic()
            self.metrics.count_request(status, exchange.received_bytes, exchange.milliseconds | {"total": total})
        elif (exchange.method, exchange.path) in self._routes:
            return
        stages = {f"{stage}_ms": round(value, 2) for stage, value in exchange.milliseconds.items()}
        say(
            orjson.dumps(
                {
                    "id": exchange.identifier(),
                    "method": exchange.method,
                    "path": exchange.path,
                    "status": status,
                    "bytes": exchange.received_bytes,
                    **stages,
                    "total_ms": round(total, 2),
                }
            ).decode()
        )

    # paths

    def _ping(self, exchange: Exchange, respond: Respond) -> None:
        if self._dispatcher.is_ready:
            respond(Answer(200))
        else:
            respond(Answer.refusing(Refusal(503, "The model is loading: try again in a moment.")))

    def _execution_parameters(self, exchange: Exchange, respond: Respond) -> None:
        document = {
            "MaxConcurrentTransforms": 2 * self._dispatcher.workers,  # one computed, one on its way, for each
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": max(1, self.max_body_bytes // MEGABYTE),
        }
        respond(Answer(200, orjson.dumps(document), JSON))

    def _metrics(self, exchange: Exchange, respond: Respond) -> None:
        gauges = {
            "queue_length": self._dispatcher.waiting,
            "running": self._dispatcher.running,
            "ready_workers": self._dispatcher.ready,
            "lent_connections": self._dispatcher.lent,
            "connections": len(self.connections),
            "worker_restarts_total": self._dispatcher.restarts,
        }
        text = self.metrics.render(gauges, self._dispatcher.runtime)
        respond(Answer(200, text.encode(), METRICS_TYPE))

    def _invoke(self, exchange: Exchange, respond: Respond) -> None:
        if self._dispatcher.waiting >= self._max_waiting:  # it was shorter when the head arrived
            return respond(Answer.refusing(self.overloaded()))
        accept = exchange.headers.get("accept", "*/*")
        head = {"content_type": exchange.headers["content-type"], "accept": accept}
        failed = partial(self._failed, respond)
        job = Job(exchange, head, done=lambda *answer: None, failed=failed, attempts=exchange.attempts)
        job.done = partial(self._done, job, accepted_format(accept).media_type, respond)
        return self._dispatcher.submit(job)

    def _done(self, job: Job, media_type: str, respond: Respond, head: Head, body: bytes) -> None:
        if head["status"] != 200:
            return respond(Answer(head["status"], body, JSON))
        queue_ms = 1000 * (job.dispatched - job.queued)
        job.exchange.milliseconds.update(queue=queue_ms, decode=head["decode_ms"], infer=head["infer_ms"])
        self.metrics.count_predictions(head["best"], head["scores"])
        return respond(Answer(200, body, media_type))

    def _failed(self, respond: Respond) -> None:
        sentence = "The model's process ended on this request; the endpoint's log may say why."
        respond(Answer.refusing(Refusal(500, sentence)))
