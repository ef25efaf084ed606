"""A client that sends any bytes to a server on this machine, and reads what comes back."""

import asyncio
import re
from collections.abc import AsyncIterable
from dataclasses import dataclass

HOST = "127.0.0.1"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """The last answer that came; status 0 if none did."""

    status: int
    body: bytes = b""


async def ask(port: int, data: bytes | AsyncIterable[bytes], *, patience_seconds: float) -> Reply:
    """Send all of it on a connection of its own, and read one answer, which may come before all is sent."""
    reader, writer = await asyncio.open_connection(HOST, port)
    sending = asyncio.create_task(_send(writer, data))
    try:
        async with asyncio.timeout(patience_seconds):
            reply = await read_reply(reader)
            while reply.status == 100:
                reply = await read_reply(reader)
            return reply
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return Reply(0)
    finally:
        sending.cancel()
        writer.transport.abort()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """One answer; raises what a connection raises that ends before."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = STATUS_LINE.match(head), LENGTH.search(head)
    if status is None:
        raise ConnectionError(f"no HTTP: {head[:40]!r}")
    body = await reader.readexactly(int(length[1])) if length else b""
    return Reply(int(status[1]), body)


async def _send(writer: asyncio.StreamWriter, data: bytes | AsyncIterable[bytes]) -> None:
    try:
        if isinstance(data, bytes):
            writer.write(data)
            await writer.drain()
            return
        async for piece in data:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        return  # the answer tells why


def request(
    body: bytes, content_type: str = "image/jpeg", *, path: str = "/invocations", headers: str = "", announced: int = -1
) -> bytes:
    """A POST request; `announced` is another Content-Length than the body's."""
    length = len(body) if announced < 0 else announced
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n"
    return f"{head}{headers}\r\n".encode() + body
