"""What a request's body holds, and what an answer's is made of, for each content type."""

import base64
import io
import math
import tokenize
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import orjson

JSON, CSV, JSON_LINES, NPY = OFFERED = ("application/json", "text/csv", "application/jsonlines", "application/x-npy")
SYNONYMS = {"*/*": JSON, "application/*": JSON, "text/*": CSV}
SYNONYMS |= {"application/jsonl": JSON_LINES, "application/x-jsonlines": JSON_LINES}
MULTIPART = "multipart/form-data"
NAMED = ("image/jpeg", "image/png", "image/webp", "application/x-image")
IMAGES = (*NAMED, "image/jpg", "image/bmp", "image/x-ms-bmp", "image/tiff", "image/gif")
ACCEPTED = (*IMAGES, NPY, JSON, MULTIPART)
MAX_IMAGES = 64  # of one request: a body of 6 MB could hold a hundred thousand tiny ones
TOP = 5
NPY_REMEDY = "send uint8 pixels of shape (H, W), (H, W, 3) or (N, H, W, 3)."
JSON_REMEDY = 'send {"image": "<base64>"} or {"images": ["<base64>", ...]}.'
NPY_DAMAGE = (ValueError, TypeError, LookupError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)

Head = dict[str, Any]  # what a message between the server and a worker says beside its bytes
Images = tuple[list[Any], bool]  # files' bytes or uint8 pixels (H, W[, 1, 3 or 4]), and whether they came as a list


class Refusal(Exception):
    """A request that is not answered with a prediction: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def parse(text: str) -> tuple[str, dict[str, str]]:
    """`application/json;verbose=1` -> ("application/json", {"verbose": "1"}), in lower case but for the values."""
    media_type, *parameters = (part.strip() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


@lru_cache(maxsize=64)
def accepted_format(accept: str) -> tuple[str, bool]:
    """What an Accept header wants most of OFFERED (RFC 9110, section 12.5.1), and whether with labels."""
    best, chosen = 0.0, None
    for media_type, parameters in map(parse, filter(str.strip, (accept.strip() or "*/*").split(","))):
        quality = parameters.get("q", "1")
        value = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
        if (kind := SYNONYMS.get(media_type, media_type)) in OFFERED and best < value <= 1:
            best, chosen = value, (kind, parameters.get("verbose") == "1")
    if chosen is None:
        known = f"{', '.join(OFFERED[:-1])} or {NPY}; {JSON};verbose=1 names the labels"
        raise Refusal(406, f"Accept {accept} cannot be answered: ask for {known}.")
    return chosen


@lru_cache(maxsize=64)
def media_type_of(content_type: str) -> str:
    """One of ACCEPTED; refuses a body that cannot be read, before it is."""
    media_type, parameters = parse(content_type)
    if media_type not in ACCEPTED:
        known = f"{', '.join(NAMED)}, {NPY}, {JSON} or {MULTIPART}"
        raise Refusal(415, f"Content type {content_type or '(none)'} is not accepted: send images as {known}.")
    if media_type == MULTIPART and not parameters.get("boundary"):
        raise Refusal(415, f"Content type {content_type} lacks its boundary: add boundary=... as a form does.")
    return media_type


def read_images(content_type: str, body: bytes) -> Images:
    """The images of a body.

    Raises:
        Refusal: 400 for a body that is not what its type says, 422 for one without usable images, 413 for too many.
    """
    if not body:
        raise Refusal(400, "The request has no body: send the bytes of one image.")
    reader = READERS.get(media_type_of(content_type))
    images, several = reader(body, content_type) if reader else ([body], False)
    if len(images) > MAX_IMAGES:
        raise Refusal(413, f"The request has {len(images)} images, but at most {MAX_IMAGES} are accepted: send fewer.")
    return images, several


def read_json(body: bytes, content_type: str) -> Images:
    """Base64, alone or in an object or a list; a list that is too long is not looked into."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is no JSON ({error}): {JSON_REMEDY}") from None
    if isinstance(document, dict):
        document = next((document[key] for key in ("images", "instances", "inputs") if key in document), document)
    if not isinstance(document, list):
        return [read_base64(document)], False
    if not document:
        raise Refusal(422, f"The list of images is empty: {JSON_REMEDY}")
    return document if len(document) > MAX_IMAGES else [read_base64(item) for item in document], True


def read_base64(item: Any) -> bytes:
    """A file in a JSON document."""
    if isinstance(item, dict):
        item = next((item[key] for key in ("image", "b64", "data", "body") if key in item), None)
    if not isinstance(item, str):
        raise Refusal(422, f"The JSON document holds no image where one is expected: {JSON_REMEDY}")
    text = item.partition(",")[2] if item.startswith("data:") else item
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise Refusal(422, f"An image is no base64 ({error}): {JSON_REMEDY}") from None


def read_npy(body: bytes, content_type: str) -> Images:
    """Pixels as numpy.save writes them; the size is checked before any memory is taken."""
    import numpy as np

    file, of_version = io.BytesIO(body), np.lib.format
    readers: Any = {(1, 0): of_version.read_array_header_1_0, (2, 0): of_version.read_array_header_2_0}
    try:
        shape, in_columns, dtype = readers[of_version.read_magic(file)](file)  # type: ignore[no-untyped-call]
    except NPY_DAMAGE:
        raise Refusal(400, f"The body is no .npy file: {NPY_REMEDY}") from None
    picture = shape[-3:] if len(shape) == 4 else shape
    if dtype != np.uint8 or 0 in shape or not (len(picture) == 2 or (len(picture) == 3 and picture[2] in (1, 3, 4))):
        raise Refusal(422, f"The array is {dtype} of shape {shape}: {NPY_REMEDY}")
    data = memoryview(body)[file.tell() :]
    if len(data) != math.prod(shape):
        raise Refusal(400, f"The array of shape {shape} has {math.prod(shape)} bytes, but {len(data)} were sent.")
    array: Any = np.ndarray(shape, np.uint8, data, order="F" if in_columns else "C")
    return (list(array), True) if len(shape) == 4 else ([array], False)


def read_form(body: bytes, content_type: str) -> Images:
    """The fields with a file name (RFC 7578); others are passed over."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import FormParser

    files: list[Any] = []
    ends: list[bool] = []
    boundary, config = parse(content_type)[1]["boundary"], {"MAX_MEMORY_FILE_SIZE": math.inf}
    try:
        FormParser(MULTIPART, None, files.append, lambda: ends.append(True), boundary, config=config).write(body)
    except FormParserError as error:
        raise Refusal(400, f"The form is damaged: {error}.") from None
    if not ends:
        raise Refusal(400, "The form is cut off: its closing boundary was not found.")
    if not files:
        raise Refusal(422, "The form has no file: add an image as a field with a file name.")
    return [file.file_object.getvalue() for file in files], len(files) > 1


READERS: dict[str, Callable[[bytes, str], Images]] = {JSON: read_json, NPY: read_npy, MULTIPART: read_form}


def write(rows: Any, classes: Sequence[str], accept: str, *, several: bool) -> bytes:
    """The answer's body for probabilities (N, C) float32; `several` if the request held a list: then it is one."""
    kind, labels = accepted_format(accept)
    if kind == CSV:
        return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()
    if kind == NPY:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, rows if several else rows[0])
        return buffer.getvalue()
    documents = [ranked(row, classes) for row in rows] if labels else rows.tolist()
    if kind == JSON_LINES:
        return b"".join(orjson.dumps(document) + b"\n" for document in documents)
    return orjson.dumps(documents if several else documents[0])


def ranked(row: Any, classes: Sequence[str]) -> dict[str, Any]:
    """The best label, its score, and the TOP best, of one image's probabilities (C,)."""
    top = [{"label": classes[index], "score": float(row[index])} for index in (-row).argsort(kind="stable")[:TOP]]
    return {**top[0], "top": top}
