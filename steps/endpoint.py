"""The endpoint's HTTP answers: /ping, /invocations, and a JSON sentence for whatever is refused."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from accept import accepted_format
from failures import say
from images import ImageError, ImageTooLarge
from predictor import Predictor
from request_body import BodyTooLarge, TooLargeResponse, read_body

CONTENT_TYPES = (
    "image/jpeg",
    "image/png",
    "application/x-image",
    "image/jpg",
    "image/webp",
    "image/bmp",
    "image/x-ms-bmp",
    "image/tiff",
    "image/gif",
)
TOP = 5
CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left; nobody reads it

Row = npt.NDArray[np.float32]  # (C,) probabilities of one image


class Endpoint:
    """The ASGI application.

    Args:
        predictor: Answers for one image at a time in threads of `pool`, so that the event loop stays free.
        max_request_bytes: A larger body is answered 413.
    """

    def __init__(self, predictor: Predictor, pool: Executor, *, max_request_bytes: int) -> None:
        self._predictor = predictor
        self._pool = pool
        self._max_request_bytes = max_request_bytes
        self._running = 0
        self._last_invocation = time.monotonic()
        self._formats: dict[str, Callable[[Row], Any]] = {"list": self._list, "verbose": self._verbose}
        self._app = Starlette(
            routes=[
                Route("/ping", self._ping, methods=["GET"]),
                Route("/invocations", self._invocations, methods=["POST"]),
            ],
            exception_handlers={
                BodyTooLarge: _too_large,
                HTTPException: _refuse,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )

    @property
    def idle_seconds(self) -> float:
        """Time since the last invocation ended; 0 while one is running."""
        return 0.0 if self._running else time.monotonic() - self._last_invocation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and print one line per request; successful pings, which come every few seconds, are not worth one."""
        started = time.perf_counter()
        status = 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            if scope["type"] == "http" and (scope["path"], status) != ("/ping", 200):
                milliseconds = 1000 * (time.perf_counter() - started)
                say(f"{scope['method']} {scope['path']} {status} {milliseconds:.1f} ms")

    async def _ping(self, request: Request) -> Response:
        return Response(status_code=200)

    async def _invocations(self, request: Request) -> Response:
        with self._counted():
            _require_image(request.headers.get("content-type", ""))
            answer = self._formats[accepted_format(request.headers.get("accept", "*/*"))]
            body = await read_body(request, self._max_request_bytes)
            if not body:
                raise HTTPException(400, "The request has no body: send the bytes of one image.")
            return JSONResponse(answer(await self._predict(body)))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._last_invocation = time.monotonic()

    async def _predict(self, body: bytes) -> Row:
        try:
            loop = asyncio.get_running_loop()
            probabilities = await loop.run_in_executor(self._pool, self._predictor.predict, [body])
        except ImageTooLarge as error:
            raise HTTPException(413, str(error)) from None
        except ImageError as error:
            raise HTTPException(400, str(error)) from None
        row: Row = probabilities[0]
        return row

    def _list(self, row: Row) -> list[float]:
        probabilities: list[float] = row.tolist()
        return probabilities

    def _verbose(self, row: Row) -> dict[str, Any]:
        ranked = np.argsort(-row, kind="stable")[:TOP]
        top = [{"label": self._predictor.classes[index], "score": float(row[index])} for index in ranked]
        return {**top[0], "top": top}


def _require_image(content_type: str) -> None:
    if content_type.partition(";")[0].strip().lower() not in CONTENT_TYPES:
        raise HTTPException(
            415,
            f"Content type {content_type or '(none)'} is not accepted: send one image as "
            f"{', '.join(CONTENT_TYPES[:2])} or {CONTENT_TYPES[2]}.",
        )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: f"There is no {request.url.path}: POST an image to /invocations, or GET /ping.",
        405: f"{request.url.path} does not accept {request.method}: POST an image to /invocations, or GET /ping.",
    }
    return _sentence(error.status_code, sentences.get(error.status_code, error.detail), error.headers)


async def _too_large(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyTooLarge)
    return TooLargeResponse(error)


async def _failed(request: Request, error: Exception) -> Response:
    return _sentence(500, "The model failed on this request; the endpoint's log says why.", None)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _sentence(status: int, sentence: str, headers: Any) -> Response:
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)
