"""Tensors as smdebug writes them: a TFRecord around a TensorBoard Event message, without protobuf.

A record is uint64 length, uint32 checksum, message, uint32 checksum (little-endian). Of the message only what holds a
tensor is used: Event.summary (5) > value (1) > tensor (8) > dtype (1), tensor_shape (2), tensor_content (4).
Source: tensorflow/core/util/event.proto, summary.proto, tensor.proto; smdebug 1.0.34, core/tfrecord and core/tfevent.
"""

import functools
import os
import stat
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_FILE = 64 << 20  # bytes of a file that is read whole
HEADER_BYTES, FOOTER_BYTES = 12, 4
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # wire types
FIXED_SIZES = {FIXED_64: 8, FIXED_32: 4}
LONGEST_VARINT = 10  # bytes
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 17: "<u2", 19: "<f2"}
DTYPES |= {22: "<u4", 23: "<u8"}  # tensorflow/core/framework/types.proto
NUMBER_OF = {dtype: number for number, dtype in DTYPES.items()}
FOOTER_TEXT = b"0x12345678"  # smdebug's footer is the checksum of this text, whatever the message (record_writer.py)


class RecordError(ValueError):
    """The bytes are no record of a tensor."""


def read_file(path: Path, place: tuple[int, int] | None = None) -> bytes:
    """Return a regular file's content, or the `place` (offset, length) of it, in bytes.

    Raises OSError also for a pipe or more than LARGEST_FILE bytes, RecordError where it ends before the place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        offset, length = place or (0, status.st_size)
        if place is None and length > LARGEST_FILE:
            raise OSError(f"it has {length:,} bytes, more than {LARGEST_FILE:,}")
        if offset + length > status.st_size:
            raise RecordError(f"the file ends at byte {status.st_size:,} of {offset + length:,}")
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


def decode(data: bytes) -> npt.NDArray[Any]:
    """Return the tensor of one record. Raises RecordError where it is cut short or damaged."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        if HEADER_BYTES + length + FOOTER_BYTES != len(data):
            raise RecordError(f"a record of {length} bytes lies in {len(data)}")
        message = memoryview(data)[HEADER_BYTES : HEADER_BYTES + length]
        for number in (5, 1, 8):  # summary, value, tensor
            message = _members(message)[number, BYTES][-1]
        tensor = _members(message)
        content, shape = (tensor.get((number, BYTES), [memoryview(b"")])[-1] for number in (4, 2))
        dimensions = [_members(found) for found in _members(shape).get((2, BYTES), [])]
        sizes = [dimension.get((1, VARINT), [0])[-1] for dimension in dimensions]  # without a size it is 0
        return np.frombuffer(content, np.dtype(DTYPES[tensor[1, VARINT][-1]])).reshape(sizes)
    except (LookupError, OverflowError, struct.error, ValueError) as error:
        why = error if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        raise RecordError(f"the record is damaged ({why})") from error


def encode(name: str, value: npt.NDArray[Any], *, step: int, mode: int, mode_step: int) -> bytes:
    """Return the record of a tensor of one of DTYPES, else raise RecordError. `step` is global, `mode` 1 for TRAIN."""
    value = np.ascontiguousarray(value).reshape(value.shape)  # which makes an array of one dimension out of a scalar
    number = NUMBER_OF.get(value.dtype.newbyteorder("<").str if value.dtype.itemsize > 1 else value.dtype.str)
    if number is None:
        raise RecordError(f"{name} is of {value.dtype}, which smdebug's format does not have")
    shape = b"".join(_field(2, _field(1, size)) for size in value.shape)
    content = value.astype(DTYPES[number], copy=False).tobytes()
    tensor = _field(1, number) + _field(2, shape) + _field(4, content)
    told = (("mode_step", mode_step), ("mode", mode))
    metadata = b"".join(_field(1, _field(1, word.encode()) + _field(2, str(n).encode())) for word, n in told)
    summary = _field(1, _field(1, name.encode()) + _field(9, metadata) + _field(8, tensor))
    return _event(_field(2, step) + _field(5, summary), FOOTER_TEXT)


def version_record() -> bytes:
    """Return the record with which TensorBoard wants an event file to begin."""
    return _event(_field(3, b"brain.Event:2"))


def encode_scalar(name: str, value: float, *, step: int) -> bytes:
    """Return the record of a scalar as TensorBoard reads it: simple_value, and the message's own checksum."""
    summary = _field(1, _field(1, name.encode(errors="replace")) + b"\x15" + struct.pack("<f", value))
    return _event(_field(2, step) + _field(5, summary))


def _event(content: bytes, footer: bytes | None = None) -> bytes:
    """The record of a message at this time; without a footer's text, its footer is its own checksum."""
    message = b"\x09" + struct.pack("<d", time.time()) + content
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(footer or message)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3 | VARINT]) + _varint_bytes(value)
    return bytes([number << 3 | BYTES]) + _varint_bytes(len(value)) + value


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@functools.lru_cache(maxsize=4096)
def _checksum(data: bytes) -> bytes:
    """CRC-32C, masked as TFRecord wants it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _members(message: memoryview) -> dict[tuple[int, int], list[Any]]:
    """Return the values of a message by field number and wire type."""
    found: dict[tuple[int, int], list[Any]] = {}
    position: int = 0
    value: Any
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind in (VARINT, BYTES):
            value, position = _varint(message, position)
        if kind != VARINT:
            size = value if kind == BYTES else FIXED_SIZES[kind]
            value, position = message[position : position + size], position + size
            if position > len(message):
                raise RecordError("a field is cut short")
        found.setdefault((key >> 3, kind), []).append(value)
    return found


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for n in range(LONGEST_VARINT):
        byte = message[position + n]
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value, position + n + 1
    raise RecordError("a number is longer than 10 bytes")
