"""The SageMaker API over HTTP: requests that are signed as AWS's."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from pipeline.local.sagemaker.api import LocalApi


def is_api(scope: Scope) -> bool:
    """Return whether a request is the API's, whatever its path: it is signed."""
    return Headers(scope=scope).get("authorization", "").startswith("AWS4-")


class Api:
    """Answers requests to the API; an ASGI application."""

    def __init__(self, local_api: LocalApi) -> None:
        self.local_api = local_api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await JSONResponse({"__type": "UnknownOperationException"}, 400)(scope, receive, send)
