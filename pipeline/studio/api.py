"""The SageMaker API over HTTP: requests that are signed as AWS's, answered by the dispatcher of the home.

Any credentials do, and no signature is verified. An answer opens no page in a browser, whatever an object holds: it is
sandboxed by its Content-Security-Policy.
"""

import io
import logging
import re
import uuid
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote

import anyio
from anyio import CapacityLimiter, from_thread, to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pipeline.local.sagemaker.api import SERVICES, LocalApi, refusal
from pipeline.local.sagemaker.http import BUCKET_HOST, recognized, signing_name
from pipeline.local.store.answers import HttpRequest, Reply, RequestError

LOGGER = logging.getLogger(__name__)
BODY_BYTES = 100 * 2**20  # of a request that is held in memory, which is all but S3's
PIECE_BYTES = 2**20
SILENCE_SECONDS = 60.0  # after which an upload that sends nothing more is given up
THREADS = 64
PRESIGNED = ("X-Amz-Signature", "AWSAccessKeyId")
HARMLESS = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}


def is_api(scope: Scope) -> bool:
    """Return whether a request is signed as AWS's, by a header or in its query."""
    if any(name == b"authorization" and value.startswith(b"AWS4-") for name, value in scope["headers"]):
        return True
    return any(name in PRESIGNED for name, _ in parse_qsl(scope["query_string"].decode("latin-1")))


class Api:
    """An ASGI application that answers AWS's requests on one home."""

    def __init__(self, local_api: LocalApi) -> None:
        self.local_api = local_api
        self.threads = CapacityLimiter(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query, upload = scope["query_string"].decode("latin-1"), Upload(receive)
        kind = "query" if "form-urlencoded" in headers.get("content-type", "") else "json"
        try:
            service = signing_name(headers, dict(parse_qsl(query, keep_blank_values=True)))
            kind, url = "s3" if service == "s3" else kind, url_of(scope, headers, service, query)
            request = HttpRequest("", "", scope["method"], url, headers, b"", io.BufferedReader(upload, PIECE_BYTES))
            if kind != "s3":
                request = replace(request, body=await upload.whole(headers), upload=None)
            reply = await to_thread.run_sync(self.answer, service, request, limiter=self.threads)
        except RequestError as problem:
            reply = refusal(problem, kind)
        await self.send(reply, scope, receive, send)

    def answer(self, service: str, request: HttpRequest) -> Reply:
        """Return the answer to a request of a service; what nobody foresaw is logged."""
        try:
            return self.local_api.answer(recognized(service, request, SERVICES))
        except RequestError:
            raise
        except Exception as problem:
            LOGGER.exception("%s %s of %s", request.method, request.url, service)
            code = "InternalError" if service == "s3" else "InternalFailure"
            raise RequestError(code, "The server has failed; its terminal says why.", 500) from problem

    async def send(self, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        """Send an answer; a body that is a file is read as fast as the client takes it."""
        request_id = str(uuid.uuid4())
        headers = {**reply.headers, **HARMLESS, "x-amzn-RequestId": request_id, "x-amz-request-id": request_id}
        headers = {name: re.sub(r"[^ -~]", "?", value) for name, value in headers.items()}
        if isinstance(reply.body, bytes):
            response: Response = Response(reply.body, reply.status, headers)
        else:
            response = StreamingResponse(iter(partial(reply.body.read, PIECE_BYTES), b""), reply.status, headers)
        with reply.stream:
            await response(scope, receive, send)


class Upload(io.RawIOBase):
    """The body of a request as a stream, to be read in another thread than the event loop's."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.rest = b""
        self.is_whole = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for the next bytes."""
        while not self.rest and not self.is_whole:
            from_thread.run(self.fetch)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size

    async def fetch(self) -> None:
        """Wait for the next piece; RequestError if the client is gone or silent."""
        with anyio.move_on_after(SILENCE_SECONDS):
            message = await self.receive()
            if message["type"] == "http.request":
                self.rest, self.is_whole = message.get("body", b""), not message.get("more_body", False)
                return
        raise RequestError("RequestTimeout", "The request's body was not sent whole.")

    async def whole(self, headers: dict[str, str]) -> bytes:
        """Return a body that is held in memory; RequestError if it is too large for that."""
        content = bytearray()
        length = headers.get("content-length", "0")
        while not self.is_whole:
            if len(content) > BODY_BYTES or int(length) > BODY_BYTES:
                said = f"The body must have at most {BODY_BYTES} bytes."
                raise RequestError("RequestEntityTooLargeException", said, 413)
            await self.fetch()
            content += self.rest
        return bytes(content)


def url_of(scope: Scope, headers: dict[str, str], service: str, query: str) -> str:
    """Return the URL of a request as clients make it for AWS: a bucket may be in its host, as in b.localhost:8000."""
    path = quote(scope.get("raw_path") or scope["path"].encode(), safe="/%:@!$&'()*+,;=~")
    bucket = BUCKET_HOST.fullmatch(headers.get("host", "")) if service == "s3" else None
    return f"http://s3.local{'/' + bucket[1] if bucket else ''}{path}{'?' + query if query else ''}"
