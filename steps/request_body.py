"""A request's body, read up to a limit; and the answer to a larger one.

A client that is still sending loses an answer that comes with a closed connection. So a refused body is answered at
once, then read on for a while and thrown away, and only a client that does not stop is cut off.
"""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

MEGABYTE = 1024 * 1024
DISCARDED_SHARE = 8  # times the limit, at most
DISCARDING_SECONDS = 10


class BodyTooLarge(HTTPException):
    """More bytes than accepted, announced or sent."""

    def __init__(self, limit: int, *, client_sends: bool) -> None:
        super().__init__(413, f"The request is larger than {limit / MEGABYTE:g} MB: send a smaller image.")
        self.limit = limit
        self.client_sends = client_sends  # rather than waiting to be told to go on


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; no more than `limit` bytes of it are kept, whether or not its length was announced."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLarge(limit, client_sends="expect" not in request.headers)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(limit, client_sends=True)
    return bytes(body)


class TooLargeResponse(JSONResponse):
    """413, sent before the rest of the body is discarded; closes the connection."""

    def __init__(self, error: BodyTooLarge) -> None:
        super().__init__({"error": error.detail}, status_code=413, headers={"connection": "close"})
        self.error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if self.error.client_sends:
            await _discard(receive, DISCARDED_SHARE * self.error.limit)
        await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive, limit: int) -> None:
    """Receive until the body ends, the client leaves, or enough is enough."""
    discarded = 0
    try:
        async with asyncio.timeout(DISCARDING_SECONDS):
            while discarded < limit:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
