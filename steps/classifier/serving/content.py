"""What a request's body holds, and what an answer's is made of, for each content type."""

import base64
import io
import math
import struct
import tokenize
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
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
MEGABYTE = 1024 * 1024
NPY_DAMAGE = (ValueError, TypeError, LookupError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)

LENGTHS = struct.Struct("!II")  # of a message's head and body
Head = dict[str, Any]  # what it says beside its bytes
Images = tuple[list[Any], bool]  # files' bytes or uint8 pixels (H, W[, 1, 3 or 4]), and whether they came as a list


class Refusal(Exception):
    """A request that is not answered with a prediction: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def message(head: Head, body: bytes | bytearray) -> bytes:
    """Return what goes from the server to a worker, or back."""
    text = orjson.dumps(head)
    return b"".join([LENGTHS.pack(len(text), len(body)), text, body])


def parse(text: str) -> tuple[str, dict[str, str]]:
    """`application/json;verbose=1` -> ("application/json", {"verbose": "1"}), in lower case but for the values."""
    media_type, *parameters = (part.strip() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


@lru_cache(maxsize=64)
def accepted_format(accept: str) -> tuple[str, bool, float | None]:
    """Return what an Accept header wants most of OFFERED (RFC 9110, section 12.5.1), whether with labels, and the
    coverage of the sets of labels, if it wants those."""
    best, chosen = 0.0, None
    for media_type, parameters in map(parse, filter(str.strip, (accept.strip() or "*/*").split(","))):
        quality = parameters.get("q", "1")
        value = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
        if (kind := SYNONYMS.get(media_type, media_type)) in OFFERED and best < value <= 1:
            best, chosen = value, (kind, parameters)
    if chosen is None:
        known = f"{', '.join(OFFERED[:-1])} or {NPY}; {JSON};verbose=1 names the labels"
        raise Refusal(406, f"Accept {accept} cannot be answered: ask for {known}.")
    kind, parameters = chosen
    if (text := parameters.get("coverage")) is None:
        return kind, parameters.get("verbose") == "1", None
    coverage = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not 0 < coverage < 1 or kind not in (JSON, JSON_LINES):
        accepted = f"{JSON};verbose=1;coverage=0.9, or another share above 0 and below 1"
        raise Refusal(406, f"Accept {accept} cannot be answered: ask for {accepted}.")
    return kind, True, coverage


@lru_cache(maxsize=64)
def media_type_of(content_type: str) -> str:
    """Return one of ACCEPTED; refuses a body that cannot be read, before it is."""
    media_type, _ = parse(content_type)
    if media_type not in ACCEPTED:
        known = f"{', '.join(NAMED)}, {NPY}, {JSON} or {MULTIPART}"
        raise Refusal(415, f"Content type {content_type or '(none)'} is not accepted: send images as {known}.")
    return media_type


def read_images(content_type: str, body: bytes) -> Images:
    """Return a body's images; refuses one that is not what its type says (400), has none (422) or too many (413)."""
    reader = READERS.get(media_type_of(content_type))
    images, several = reader(body, content_type) if reader else ([body], False)
    if not images:
        raise Refusal(422, "The request holds no image: send one, in a form as a field with a file name.")
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
    """Pixels as numpy.save writes them."""
    import numpy as np

    try:
        array = np.lib.format.read_array(io.BytesIO(body), allow_pickle=False)  # type: ignore[no-untyped-call]
    except NPY_DAMAGE:
        raise Refusal(400, f"The body is no .npy file, or cut off: {NPY_REMEDY}") from None
    shape = array.shape[-3:] if array.ndim == 4 else array.shape
    if (
        array.dtype != np.uint8
        or not array.size
        or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)))
    ):
        raise Refusal(422, f"The array is {array.dtype} of shape {array.shape}: {NPY_REMEDY}")
    return (list(array), True) if array.ndim == 4 else ([array], False)


def read_form(body: bytes, content_type: str) -> Images:
    """The fields with a file name (RFC 7578); others are passed over."""
    from python_multipart.multipart import FormParser

    files, ends = list[Any](), list[bool]()
    boundary, in_memory = parse(content_type)[1].get("boundary"), {"MAX_MEMORY_FILE_SIZE": math.inf}
    try:
        FormParser(MULTIPART, None, files.append, lambda: ends.append(True), boundary, config=in_memory).write(body)
    except ValueError as error:
        raise Refusal(400, f"The form is damaged: {error}.") from None
    if not ends:
        raise Refusal(400, "The form is cut off: its closing boundary was not found.")
    return [file.file_object.getvalue() for file in files], len(files) > 1


READERS: dict[str, Callable[[bytes, str], Images]] = {JSON: read_json, NPY: read_npy, MULTIPART: read_form}


def write(rows: Any, classes: Sequence[str], head: Head) -> bytes:
    """Return the answer's body for probabilities (N, C) float32; a list if the request held one."""
    (kind, has_labels, _), several = accepted_format(head["accept"]), head["several"]
    if kind == CSV:
        return "".join(",".join(map(repr, row)) + "\n" for row in rows.tolist()).encode()
    if kind == NPY:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, rows if several else rows[0])
        return buffer.getvalue()
    documents: list[Any] = rows.tolist()
    if has_labels:
        documents = [labelled(row, classes, head) for row in documents]
    if kind == JSON_LINES:
        return b"".join(orjson.dumps(document) + b"\n" for document in documents)
    return orjson.dumps(documents if several else documents[0])


def labelled(row: list[float], classes: Sequence[str], head: Head) -> dict[str, Any]:
    """One image's labels, best first; whether its score reaches the operating threshold, and the set, where asked."""
    ranked = sorted(zip(row, classes, strict=True), key=itemgetter(0), reverse=True)
    top = [{"label": label, "score": score} for score, label in ranked[:TOP]]
    document = {**top[0], "top": top}
    if (threshold := head.get("confident_from")) is not None:
        document["confident"] = ranked[0][0] >= threshold
    if (threshold := head.get("set_from")) is not None:
        document["set"] = [label for score, label in ranked if score >= threshold]
    return document
