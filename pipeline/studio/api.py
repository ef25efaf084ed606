"""The SageMaker API over HTTP: requests that are signed as AWS's, answered by the dispatcher of the home.

Any credentials do, and no signature is verified. An answer opens no page in a browser, whatever an object holds: it is
sandboxed by its Content-Security-Policy.
"""

import logging
import math
import re
import uuid
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast
from urllib.parse import parse_qsl, quote

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from pipeline.local.sagemaker.api import SERVICES, LocalApi, refusal
from pipeline.local.sagemaker.http import BUCKET_HOST, recognized, signing_name
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import DiskFull, is_full

BODY_BYTES = 100 * 2**20  # of a request that is held in memory, which is all but S3's
PIECE_BYTES = 2**20
SILENCE_SECONDS = 60.0  # after which an upload that sends nothing more is given up
THREADS = 64
OF_USERS = ("sagemaker-runtime", "lambda")  # whose code may take minutes: in threads of their own
FAILED = "The server has failed; its terminal says why."
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
        self.threads, self.invocations = CapacityLimiter(THREADS), CapacityLimiter(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; what nobody foresaw is logged."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        kind = "query" if "form-urlencoded" in headers.get("content-type", "") else "json"
        try:
            service = signing_name(headers, dict(parse_qsl(query, keep_blank_values=True)))
            kind, url = "s3" if service == "s3" else kind, url_of(scope, headers, service, query)
            with SpooledTemporaryFile(PIECE_BYTES, dir=str(self.local_api.state.home)) as upload:
                await store(receive, upload, math.inf if kind == "s3" else BODY_BYTES)
                body, content = (b"", cast(BinaryIO, upload)) if kind == "s3" else (upload.read(), None)
                asked = HttpRequest("", "", scope["method"], url, headers, body, content)
                request = recognized(service, asked, SERVICES)
                threads = self.invocations if request.service in OF_USERS else self.threads
                reply = await to_thread.run_sync(self.local_api.answer, request, limiter=threads)
        except RequestError as problem:
            reply = refusal(problem, kind)
        except Exception as problem:
            refused = RequestError("InternalError" if kind == "s3" else "InternalFailure", FAILED, 500)
            if is_full(problem):
                refused = RequestError("InsufficientStorage", str(DiskFull(self.local_api.state.home)), 507)
            else:
                logging.getLogger(__name__).exception("%s %s", scope["method"], scope["path"])
            reply = refusal(refused, kind)
        await self.send(reply, scope, receive, send)

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


async def store(receive: Receive, upload: "SpooledTemporaryFile[bytes]", limit: float) -> None:
    """Write a request's body to a file; RequestError if it is larger than so many bytes or is not sent whole."""
    message: Message = {"more_body": True}
    while message.get("more_body", False):
        message = {"type": "silence"}
        with move_on_after(SILENCE_SECONDS):
            message = await receive()
        if message["type"] != "http.request":
            raise RequestError("RequestTimeout", "The request's body was not sent whole.")
        await to_thread.run_sync(upload.write, message.get("body", b""))
        if upload.tell() > limit:
            raise RequestError("RequestEntityTooLargeException", f"The body must have at most {limit} bytes.", 413)
    upload.seek(0)


def url_of(scope: Scope, headers: dict[str, str], service: str, query: str) -> str:
    """Return the URL of a request as clients make it for AWS: a bucket may be in its host, as in b.localhost:8000."""
    path = quote(scope.get("raw_path") or scope["path"].encode(), safe="/%:@!$&'()*+,;=~")
    bucket = BUCKET_HOST.fullmatch(headers.get("host", "")) if service == "s3" else None
    return f"http://s3.local{'/' + bucket[1] if bucket else ''}{path}{'?' + query if query else ''}"
