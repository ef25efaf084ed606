"""A request's body as images: one file, several in a JSON document or a form, or arrays of pixels."""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.data.images import Pixels
from classifier.serving.accept import parse
from classifier.serving.content_types import JSON, MULTIPART, NPY
from classifier.serving.refusals import Refusal

MAX_IMAGES = 64  # of one request: a body of 6 MB could hold a hundred thousand tiny ones
MAX_PARTS = 256  # of a form
LISTS = ("images", "instances", "inputs")  # keys of a JSON document
SINGLES = ("image", "b64", "data", "body")
JSON_REMEDY = 'send {"image": "<base64>"} or {"images": ["<base64>", ...]}.'
NPY_HEADER_BYTES = 1024
NPY_HEADER = re.compile(
    rb"\x93NUMPY(?P<lengths>\x01\x00..|\x02\x00....)"
    rb"\{'descr': '(?P<descr>[^']{1,99})', 'fortran_order': (?P<fortran_order>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,9},? ?){0,8})\),? ?\} *\n",
    re.DOTALL,
)
NPY_REMEDY = "send uint8 pixels of shape (H, W), (H, W, 3) or (N, H, W, 3)."

Part = bytes | Pixels  # a file, or decoded pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)


@dataclass(frozen=True)
class Payload:
    """The images of a request."""

    parts: list[Part]
    several: bool  # whether they came as a list, even of one


def read_payload(content_type: str, body: bytes) -> Payload:
    """The images in a body of an accepted content type.

    Raises:
        Refusal: 400 for a body that is not what its type says, 422 for one without usable images, 413 for too many.
    """
    if not body:
        raise Refusal(400, "The request has no body: send the bytes of one image.")
    media_type, parameters = parse(content_type)
    return READERS.get(media_type, _image)(body, parameters)


def _image(body: bytes, parameters: dict[str, str]) -> Payload:
    return Payload([body], several=False)


def _json(body: bytes, parameters: dict[str, str]) -> Payload:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is no JSON ({error}): {JSON_REMEDY}") from None
    if isinstance(document, dict):
        document = next((document[key] for key in LISTS if key in document), document)
    if not isinstance(document, list):
        return Payload([_decoded(document)], several=False)
    if not document:
        raise Refusal(422, f"The list of images is empty: {JSON_REMEDY}")
    _refuse_more(len(document))
    return Payload([_decoded(item) for item in document], several=True)


def _decoded(item: Any) -> bytes:
    if isinstance(item, dict):
        item = next((item[key] for key in SINGLES if key in item), None)
    if not isinstance(item, str):
        raise Refusal(422, f"The JSON document holds no image where one is expected: {JSON_REMEDY}")
    text = item.partition(",")[2] if item.startswith("data:") else item
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, f"An image is no base64 ({error}): {JSON_REMEDY}") from None


def _npy(body: bytes, parameters: dict[str, str]) -> Payload:
    header = _npy_header(body)
    if header is None:
        raise Refusal(400, f"The body is no .npy file: {NPY_REMEDY}")
    shape = tuple(int(side) for side in header["shape"].split(b",") if side.strip())
    if header["descr"] != b"|u1" or not _is_picture(shape[-3:] if len(shape) == 4 else shape) or 0 in shape:
        raise Refusal(422, f"The array is {header['descr'].decode('latin-1')} of shape {shape}: {NPY_REMEDY}")
    data = memoryview(body)[header.end() :]
    if len(data) != math.prod(shape):
        raise Refusal(400, f"The array of shape {shape} has {math.prod(shape)} bytes, but {len(data)} were sent.")
    array: Pixels = np.ndarray(shape, np.uint8, data, order="F" if header["fortran_order"] == b"True" else "C")
    if len(shape) < 4:
        return Payload([array], several=False)
    _refuse_more(len(array))
    return Payload(list(array), several=True)


def _npy_header(body: bytes) -> re.Match[bytes] | None:
    """As numpy writes it; numpy's own reader takes any Python literal, and fails in as many ways."""
    found = NPY_HEADER.match(body[:NPY_HEADER_BYTES])
    if found is None or found.end() != found.end("lengths") + int.from_bytes(found["lengths"][2:], "little"):
        return None
    return found


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))


def _multipart(body: bytes, parameters: dict[str, str]) -> Payload:
    """RFC 7578; parts with a file name or an image's content type are images, other fields are passed over."""
    files = [content for head, content in _parts(body, parameters["boundary"].encode()) if _is_file(head)]
    _refuse_more(len(files))
    if not files:
        raise Refusal(422, "The form has no file: add an image as a field with a file name.")
    return Payload(list(files), several=len(files) > 1)


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    _, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS)
    if len(pieces) == MAX_PARTS:
        raise Refusal(413, f"The form has {MAX_PARTS} fields or more, but fewer are accepted: send fewer.")
    for piece in pieces:
        if piece.startswith(b"--"):
            return
        _, _, part = piece.partition(b"\r\n")
        head, blank_line, content = (b"\r\n" + part).partition(b"\r\n\r\n")
        if not blank_line:
            break
        yield head.lower(), content
    raise Refusal(400, "The form is cut off or damaged: its closing boundary was not found.")


def _is_file(head: bytes) -> bool:
    return b"filename=" in head or b"filename*=" in head or b"content-type: image/" in head


def _refuse_more(count: int) -> None:
    if count > MAX_IMAGES:
        raise Refusal(413, f"The request has {count} images, but at most {MAX_IMAGES} are accepted: send fewer.")


Reader = Callable[[bytes, dict[str, str]], Payload]
READERS: dict[str, Reader] = {JSON: _json, NPY: _npy, MULTIPART: _multipart}
