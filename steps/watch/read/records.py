"""One tensor of an event file: a TFRecord around a TensorBoard Event message, decoded without protobuf.

A record is uint64 length, uint32 checksum, message, uint32 checksum (little-endian). Of the message only what holds a
tensor is looked at: Event.summary (5) > value (1) > tensor (8) > dtype (1), tensor_shape (2), tensor_content (4).
Source: tensorflow/core/util/event.proto, summary.proto, tensor.proto; smdebug 1.0.34, smdebug/core/tfevent/proto.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 12
FOOTER_BYTES = 4
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # wire types
FIXED_SIZES = {FIXED_64: 8, FIXED_32: 4}
DTYPES: dict[int, str] = {  # tensorflow/core/framework/types.proto
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "|u1",
    5: "<i2",
    6: "|i1",
    9: "<i8",
    10: "|b1",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}


class RecordError(ValueError):
    """The bytes are no record of a tensor."""


def read_record(data: bytes) -> npt.NDArray[Any]:
    """The tensor of one record.

    Raises:
        RecordError: The record is cut short, or damaged.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if HEADER_BYTES + length + FOOTER_BYTES != len(data):
            raise RecordError(f"a record of {length} bytes lies in {len(data)}")
        return _event_tensor(memoryview(data)[HEADER_BYTES : HEADER_BYTES + length])
    except (IndexError, KeyError, struct.error, ValueError) as error:
        raise RecordError(f"the record is damaged ({error})") from error


def _event_tensor(event: memoryview) -> npt.NDArray[Any]:
    summary = _last(event, 5)
    value = _last(summary, 1)
    tensor = _last(value, 8)
    dtype, shape, content = 0, memoryview(b""), memoryview(b"")
    for number, _, found in _fields(tensor):
        if number == 1:
            dtype = int(found)
        elif number == 2:
            shape = found
        elif number == 4:
            content = found
    return np.frombuffer(content, np.dtype(DTYPES[dtype])).reshape(_sizes(shape))


def _sizes(shape: memoryview) -> list[int]:
    """Dimension sizes; a dimension without one has size 0."""
    dimensions = [dimension for number, _, dimension in _fields(shape) if number == 2]
    return [next((int(size) for number, _, size in _fields(found) if number == 1), 0) for found in dimensions]


def _last(message: memoryview, wanted: int) -> memoryview:
    found: memoryview | None = None
    for number, kind, value in _fields(message):
        if number == wanted and kind == BYTES:
            found = value
    if found is None:
        raise RecordError(f"field {wanted} is missing")
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == VARINT:
            value: Any
            value, position = _varint(message, position)
        else:
            size, position = _varint(message, position) if kind == BYTES else (FIXED_SIZES[kind], position)
            value = message[position : position + size]
            if len(value) != size:
                raise RecordError("a field is cut short")
            position += size
        yield key >> 3, kind, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
