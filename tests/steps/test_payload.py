"""Request bodies of every content type, and what is refused in them."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from classifier.serving.content_types import require_accepted
from classifier.serving.payload import MAX_IMAGES, read_payload
from classifier.serving.refusals import Refusal

PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
FORM = 'multipart/form-data; boundary="xYz"'
JSON_REMEDY = 'send {"image": "<base64>"} or {"images": ["<base64>", ...]}.'
NPY_REMEDY = "send uint8 pixels of shape (H, W), (H, W, 3) or (N, H, W, 3)."


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), version=version)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def form(*parts: bytes) -> bytes:
    return b"".join(b"--xYz\r\n" + part + b"\r\n" for part in parts) + b"--xYz--\r\n"


FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\nhello'

BODIES: dict[str, tuple[str, bytes, list[bytes], bool]] = {
    "a file": ("image/jpeg", b"\xff\xd8", [b"\xff\xd8"], False),
    "base64": ("application/json", json.dumps(encoded(b"a")).encode(), [b"a"], False),
    "an image": ("application/json; charset=utf-8", json.dumps({"image": encoded(b"a")}).encode(), [b"a"], False),
    "a data URL": (
        "application/json",
        json.dumps({"b64": "data:image/png;base64," + encoded(b"a")}).encode(),
        [b"a"],
        False,
    ),
    "a list": ("application/json", json.dumps([encoded(b"a"), {"b64": encoded(b"b")}]).encode(), [b"a", b"b"], True),
    "images": ("application/json", json.dumps({"images": [encoded(b"a")]}).encode(), [b"a"], True),
    "instances": ("application/json", json.dumps({"instances": [{"data": encoded(b"a")}]}).encode(), [b"a"], True),
    "a form": (FORM, form(FIELD, FILE + b"\r\n--\x00"), [b"\r\n--\x00"], False),
    "a form of two": (FORM, form(FILE + b"a", b"content-type: image/png\r\n\r\nb"), [b"a", b"b"], True),
}


@pytest.mark.parametrize("case", BODIES)
def test_images_are_found_in_every_kind_of_body(case: str) -> None:
    content_type, body, parts, several = BODIES[case]
    payload = read_payload(content_type, body)
    assert (payload.parts, payload.several) == (parts, several)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("array", [PIXELS, PIXELS[:, :, 0], np.asfortranarray(PIXELS)])
def test_arrays_are_read_as_numpy_wrote_them(array: Any, version: tuple[int, int]) -> None:
    payload = read_payload("application/x-npy", npy(array, version))
    assert not payload.several
    np.testing.assert_array_equal(payload.parts[0], array)  # type: ignore[arg-type]


def test_an_array_of_four_dimensions_is_a_list_of_images() -> None:
    payload = read_payload("application/x-npy", npy(np.stack([PIXELS, PIXELS + 1])))
    assert payload.several
    np.testing.assert_array_equal(payload.parts[1], PIXELS + 1)  # type: ignore[arg-type]


REFUSALS: dict[str, tuple[str, bytes, int, str]] = {
    "nothing": ("image/png", b"", 400, "The request has no body: send the bytes of one image."),
    "no JSON": (
        "application/json",
        b"{",
        400,
        "The body is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): "
        + JSON_REMEDY,
    ),
    "another document": (
        "application/json",
        b'{"a": 1}',
        422,
        f"The JSON document holds no image where one is expected: {JSON_REMEDY}",
    ),
    "an empty list": ("application/json", b"[]", 422, f"The list of images is empty: {JSON_REMEDY}"),
    "an empty list by name": (
        "application/json",
        b'{"images": []}',
        422,
        f"The list of images is empty: {JSON_REMEDY}",
    ),
    "no base64": (
        "application/json",
        b'"a*b"',
        422,
        f"An image is no base64 (Only base64 data is allowed): {JSON_REMEDY}",
    ),
    "too many images": (
        "application/json",
        json.dumps(["QQ=="] * (MAX_IMAGES + 1)).encode(),
        413,
        "The request has 65 images, but at most 64 are accepted: send fewer.",
    ),
    "no array": ("application/x-npy", b"\x93NUMPY\x01\x00", 400, f"The body is no .npy file: {NPY_REMEDY}"),
    "objects": (
        "application/x-npy",
        npy(np.array([[None]])),
        422,
        f"The array is |O of shape (1, 1): {NPY_REMEDY}",
    ),
    "floats": ("application/x-npy", npy(np.zeros((2, 2))), 422, f"The array is <f8 of shape (2, 2): {NPY_REMEDY}"),
    "a row": (
        "application/x-npy",
        npy(np.zeros(3, np.uint8)),
        422,
        f"The array is |u1 of shape (3,): {NPY_REMEDY}",
    ),
    "a short array": (
        "application/x-npy",
        npy(PIXELS)[:-1],
        400,
        "The array of shape (4, 5, 3) has 60 bytes, but 59 were sent.",
    ),
    "a form without a file": (
        FORM,
        form(FIELD),
        422,
        "The form has no file: add an image as a field with a file name.",
    ),
    "half a form": (
        FORM,
        form(FILE + b"a")[:-10],
        400,
        "The form is cut off or damaged: its closing boundary was not found.",
    ),
    "a form of crumbs": (
        FORM,
        b"--xYz\r\n" * 300,
        413,
        "The form has 256 fields or more, but fewer are accepted: send fewer.",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_body_without_usable_images_is_refused_in_its_own_words(case: str) -> None:
    content_type, body, status, sentence = REFUSALS[case]
    with pytest.raises(Refusal) as caught:
        read_payload(content_type, body)
    assert (caught.value.status, caught.value.sentence) == (status, sentence)


def test_json_nested_too_deeply_is_refused() -> None:
    with pytest.raises(Refusal, match="The body is no JSON") as caught:
        read_payload("application/json", b"[" * 100_000)
    assert caught.value.status == 400


def test_a_form_without_boundary_is_refused_by_its_content_type() -> None:
    with pytest.raises(Refusal) as caught:
        require_accepted("multipart/form-data")
    assert (caught.value.status, caught.value.sentence) == (
        415,
        "Content type multipart/form-data lacks its boundary: add boundary=... as a form does.",
    )
