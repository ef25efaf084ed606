"""Requests that a server has to survive, each with the refusal that it has to get."""

import asyncio
import io
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from PIL import Image
from raw_client import HOST, Reply, ask, request

PATIENCE_SECONDS = 60.0
SLOW_SECONDS = 1.0  # between the bytes of a slow client
PIECE = b"x" * 65536

Make = Callable[[Random, bytes], bytes]  # given chance and a good JPEG, a body
Send = Callable[[int, Random, bytes], Awaitable[Reply]]  # the same after the server's port


@dataclass(frozen=True)
class Hostile:
    """One kind."""

    name: str
    send: Send
    status: int  # 0 is no answer, since nobody waits for it
    sentence: str = ""  # a pattern of its beginning

    def is_refused(self, reply: Reply) -> bool:
        """Whether the answer is the one that this kind should get."""
        if reply.status != self.status or not reply.status:
            return reply.status == self.status
        document = json.loads(reply.body)
        return list(document) == ["error"] and re.match(self.sentence, document["error"]) is not None


def whole(make: Make, content_type: str = "image/png", headers: str = "") -> Send:
    """Sends a whole request."""

    async def send(port: int, chance: Random, jpeg: bytes) -> Reply:
        content = make(chance, jpeg)
        return await ask(port, request(content, content_type, headers=headers), patience_seconds=PATIENCE_SECONDS)

    return send


@cache
def png_of_zeros(width: int, height: int, rows: int) -> bytes:
    """A PNG of any size in a few kilobytes, with as many rows as it promises or fewer."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@cache
def saved_as(jpeg: bytes, format_name: str) -> bytes:
    """The same picture in another format."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).convert("RGB").save(buffer, format_name)
    return buffer.getvalue()


def truncated(format_name: str) -> Make:
    """A file that ends somewhere in its second half."""

    def make(chance: Random, jpeg: bytes) -> bytes:
        content = saved_as(jpeg, format_name)
        return content[: chance.randrange(len(content) // 2, len(content) - 64)]

    return make


async def endless(port: int, chance: Random, jpeg: bytes) -> Reply:
    """A body in chunks that does not end."""

    async def pieces() -> AsyncIterator[bytes]:
        yield f"POST /invocations HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/png\r\n".encode()
        yield b"Transfer-Encoding: chunked\r\n\r\n"
        while True:
            yield f"{len(PIECE):x}\r\n".encode() + PIECE + b"\r\n"

    return await ask(port, pieces(), patience_seconds=PATIENCE_SECONDS)


async def slow(port: int, chance: Random, jpeg: bytes) -> Reply:
    """A byte now and then."""

    async def pieces() -> AsyncIterator[bytes]:
        for byte in request(jpeg):
            yield bytes([byte])
            await asyncio.sleep(SLOW_SECONDS)

    return await ask(port, pieces(), patience_seconds=PATIENCE_SECONDS)


async def goes_away(port: int, chance: Random, jpeg: bytes) -> Reply:
    """Nobody waits for the answer; sometimes not all was sent."""
    content = request(jpeg)
    sent = content if chance.random() < 0.5 else content[: chance.randrange(len(content))]
    return await ask(port, sent, patience_seconds=0.001)


def many(chance: Random, jpeg: bytes) -> bytes:
    return json.dumps({"images": ["QUJD"] * 10_000}).encode()


def damaged_form(chance: Random, jpeg: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n' + jpeg


DAMAGED = "The image is damaged"
TOO_COSTLY = "The image would take [0-9,]+ MB to decode"
NO_IMAGE = "The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image"
KINDS = [
    Hostile("decompression bomb", whole(lambda chance, jpeg: png_of_zeros(6000, 4000, 4000)), 413, TOO_COSTLY),
    Hostile(
        "900 megapixels", whole(lambda chance, jpeg: png_of_zeros(30_000, 30_000, 30)), 413, r"The image has 900\.0 "
    ),
    Hostile("100,000 px wide", whole(lambda chance, jpeg: png_of_zeros(100_000, 300, 300)), 413, TOO_COSTLY),
    Hostile("truncated JPEG", whole(truncated("JPEG"), "image/jpeg"), 400, DAMAGED),
    Hostile("truncated PNG", whole(truncated("PNG")), 400, DAMAGED),
    Hostile("truncated WebP", whole(truncated("WEBP"), "image/webp"), 400, DAMAGED),
    Hostile("random bytes", whole(lambda chance, jpeg: chance.randbytes(50_000), "image/jpeg"), 400, NO_IMAGE),
    Hostile("random array", whole(lambda chance, jpeg: chance.randbytes(50_000), "application/x-npy"), 400, "The body"),
    Hostile("wrong content type", whole(lambda chance, jpeg: jpeg, "video/mp4"), 415, "Content type video/mp4 is not"),
    Hostile(
        "huge JSON", whole(lambda chance, jpeg: b"[" * 7_000_000, "application/json"), 413, "The request is larger"
    ),
    Hostile("deep JSON", whole(lambda chance, jpeg: b"[" * 1_000_000, "application/json"), 400, "The body is no JSON"),
    Hostile("10,000 images", whole(many, "application/json"), 413, "The request has 10000 images, but at most "),
    Hostile("form cut off", whole(damaged_form, "multipart/form-data; boundary=b"), 400, "The form is cut off"),
    Hostile(
        "impossible Accept", whole(lambda chance, jpeg: jpeg, headers="Accept: image/png\r\n"), 406, "Accept image"
    ),
    Hostile("endless body", endless, 413, "The request is larger than 6 MB"),
    Hostile("slow client", slow, 408, "The request did not arrive within"),
    Hostile("client that goes away", goes_away, 0),
]
