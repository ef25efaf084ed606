"""Answers a job's AWS requests: the runner's end of the socket that `guest/sitecustomize.py` writes to.

One connection carries one request and its reply, each a head in JSON and a body, both preceded by their lengths.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pipeline.local.store.answers import Api, HttpRequest, Reply, RequestError

SOCKET_NAME = ".api.sock"  # in the job's tree
LENGTHS = struct.Struct("!IQ")
CHUNK_BYTES = 2**20
HEAD_LIMIT_BYTES, BODY_LIMIT_BYTES = 2**20, 5 * 2**30  # the second is S3's for one request


@contextlib.asynccontextmanager
async def answered_requests(api: Api, folder: Path, packages: Path) -> AsyncIterator[None]:
    """Meanwhile, answer requests that come to the socket in a job's tree, and keep what its pip has installed.

    Raises:
        OSError: there can be no socket.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                if request := await read_request(reader):
                    head, reply = await asyncio.to_thread(reply_to, api, request, folder.parent / "home", packages)
                    text = json.dumps(head).encode()
                    body = reply.stream
                    writer.writelines([LENGTHS.pack(len(text), body.size), text])
                    for chunk in body.stream(CHUNK_BYTES):
                        writer.write(chunk)
                        await writer.drain()
                    await writer.drain()
            finally:
                writer.close()

    server = await asyncio.start_unix_server(answer, sock=bound_socket(folder))
    try:
        yield
    finally:
        server.close()
        (folder / SOCKET_NAME).unlink(missing_ok=True)


def bound_socket(folder: Path) -> socket.socket:
    """A listening place in a directory, whose path may be longer than an address can be.

    Raises:
        OSError: there can be none.
    """
    path = folder / SOCKET_NAME
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    handle = os.open(folder, os.O_RDONLY)
    try:
        bound.bind(f"/proc/self/fd/{handle}/{SOCKET_NAME}" if Path("/proc/self/fd").exists() else str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.close(handle)
    return bound


async def read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    """A request; None for what is too large to be one.

    Raises:
        asyncio.IncompleteReadError: the job went away.
    """
    head_bytes, body_bytes = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    if head_bytes > HEAD_LIMIT_BYTES or body_bytes > BODY_LIMIT_BYTES:
        return None
    head = json.loads(await reader.readexactly(head_bytes))
    return HttpRequest(**head, body=await reader.readexactly(body_bytes))


def reply_to(api: Api, request: HttpRequest, home: Path, packages: Path) -> tuple[dict[str, Any], Reply]:
    """Return status and headers, or the code and message of a refusal; and the reply, whose body follows."""
    try:
        is_pip = request.service == "pip"
        reply = Reply(keep(home / ".installed", request.url, packages), {}, b"") if is_pip else api.answer(request)
    except RequestError as problem:
        return {"code": problem.code, "message": str(problem)}, Reply(problem.status, {}, b"")
    return {"status": reply.status, "headers": reply.headers}, reply


def keep(folder: Path, key: str, packages: Path) -> int:
    """Move what a job has installed to where others find it and no job can change it, unless the same is there.

    The job chooses the key and may have made links: nothing but a directory of its own is moved.
    """
    installed = folder / key
    is_own = re.fullmatch("[0-9a-f]{64}", key) and not folder.is_symlink() and not installed.is_symlink()
    if is_own and installed.is_dir() and not (packages / key).exists():
        installed.rename(packages / key)
        return 200
    return 404
