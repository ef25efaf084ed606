"""A load generator that takes little of the machine it shares: N connections, each with one request at a time.

Nothing but loopback is ever addressed.
"""

import asyncio
import time
from dataclasses import dataclass, field

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 60.0


@dataclass
class Outcome:
    """What a time under load brought."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds, of good answers
    failures: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds."""
        ordered = sorted(self.latencies) or [float("nan")]
        return 1000 * ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


class Client(asyncio.Protocol):
    """One connection that sends the same request again as soon as it is answered."""

    def __init__(self, request: bytes, outcome: Outcome, end: float) -> None:
        self._request, self._outcome, self._end = request, outcome, end
        self._received = bytearray()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._received.clear()
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < head_end + 4 + length:
            return
        now = time.perf_counter()
        if head.startswith(b"http/1.1 200"):
            self._outcome.latencies.append(now - self._began)
        else:
            self._outcome.failures += 1
        if now < self._end:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exception: Exception | None) -> None:
        if time.perf_counter() < self._end:
            self._outcome.failures += 1
        if not self.finished.done():
            self.finished.set_result(None)


def request_bytes(path: str, content_type: str, body: bytes) -> bytes:
    """A whole POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, request: bytes, *, connections: int, seconds: float) -> Outcome:
    """Send for so long; the requests that are under way then are waited for."""
    outcome = Outcome()

    async def run() -> None:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        end = began + seconds
        clients = [
            (await loop.create_connection(lambda: Client(request, outcome, end), HOST, port))[1]
            for _ in range(connections)
        ]
        async with asyncio.timeout(seconds + TIMEOUT_SECONDS):
            await asyncio.gather(*(client.finished for client in clients))
        outcome.seconds = time.perf_counter() - began

    asyncio.run(run())
    return outcome
