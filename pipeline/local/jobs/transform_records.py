"""The records of a transform job: an object split into requests, and the answers joined, filtered and assembled.

Sources: AWS guide, "batch-transform" and "batch-transform-data-processing"; API, TransformInput and DataProcessing.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.definition.serving_requests import (
    DEFAULT_PAYLOAD_MEGABYTES,
    FORMATS,
    FilterError,
    filtered,
    media_type,
    read_filter,
)
from pipeline.errors import PipelineError
from pipeline.local.store.state import Document

MEGABYTE = 1024 * 1024
UNUSABLE = (FilterError, ValueError, csv.Error, RecursionError)  # of a record that is not what the job says
csv.field_size_limit(100 * MEGABYTE)


class RecordError(PipelineError):
    """An object, or an answer of the model, that cannot be taken apart as the job says."""


class Records:
    """How a job takes its objects apart and puts their answers together; `transform_faults` has found nothing in it."""

    def __init__(self, request: Document) -> None:
        source, output = request["TransformInput"], request["TransformOutput"]
        self.is_gzip = source.get("CompressionType") == "Gzip"
        self.by_line = source.get("SplitType") == "Line"
        self.batched = request.get("BatchStrategy", "MultiRecord") == "MultiRecord"
        self.limit_bytes = request.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MEGABYTES) * MEGABYTE or float("inf")
        self.assembles_lines = output.get("AssembleWith") == "Line"
        settings = request.get("DataProcessing") or {}
        self.input_filter = read_filter(settings.get("InputFilter") or "$")
        self.output_filter = read_filter(settings.get("OutputFilter") or "$")
        self.joins = settings.get("JoinSource") == "Input"
        content_type = media_type(source.get("ContentType"))
        self.input_format = FORMATS.get(content_type)
        self.output_format = FORMATS.get(media_type(output.get("Accept")) or content_type)

    def split(self, content: bytes) -> list[bytes]:
        """Return the records of an object.

        Raises:
            RecordError: it is not compressed as the job says.
        """
        if self.is_gzip:
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as problem:
                raise RecordError(f"it is no gzip file: {problem}") from problem
        processed = self.input_filter or self.output_filter or self.joins
        return lines(content) if self.by_line or (processed and self.input_format == "jsonlines") else [content]

    def requests(self, records: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Yield the records of each request, in order; each as the model gets it.

        Raises:
            RecordError: a record is larger than MaxPayloadInMB, or the filter does not fit it.
        """
        batch: list[bytes] = []
        size = 0
        for number, record in enumerate(records, 1):
            sent = self.filtered_input(record, number)
            if batch and self.by_line and (not self.batched or size + 1 + len(sent) > self.limit_bytes):
                yield batch
                batch, size = [], 0
            size += len(sent) + bool(batch)
            batch.append(sent)
            if size > self.limit_bytes:
                what = f"record {number}" if self.by_line else "it"
                raise RecordError(f"{what} has {size:,} bytes, more than MaxPayloadInMB allows")
        if batch:
            yield batch

    def filtered_input(self, record: bytes, number: int) -> bytes:
        """Return what the model gets of a record."""
        if not self.input_filter:
            return record
        try:
            return rendered(self.input_format, filtered(parsed(self.input_format, record), self.input_filter))
        except UNUSABLE as problem:
            raise RecordError(f"InputFilter cannot be applied to record {number}: {problem}") from problem

    def result(self, records: Sequence[bytes], answer: bytes) -> bytes:
        """Return what is kept of the answer to some records.

        Raises:
            RecordError: it is not one answer a record, or the filter does not fit it.
        """
        if not (self.joins or self.output_filter):
            return answer
        texts = [answer] if len(records) == 1 and self.output_format != "csv" else lines(answer)
        if len(texts) != len(records):
            found = f"{len(records)} records were sent, but the answer has {len(texts)} lines"
            raise RecordError(f"{found}; each needs one")
        try:
            return b"\n".join(self.kept(record, text) for record, text in zip(records, texts, strict=True))
        except UNUSABLE as problem:
            raise RecordError(f"the answer cannot be joined and filtered: {problem}") from problem

    def kept(self, record: bytes, text: bytes) -> bytes:
        """Return one record of the output: joined with its input, columns or in one object, then filtered."""
        value = parsed(self.output_format, text)
        if self.joins:
            given = parsed(self.input_format, record)
            if self.output_format == "csv":
                value = [*given, *value]
            else:
                value = {**(given if isinstance(given, dict) else {"SageMakerInput": given}), "SageMakerOutput": value}
        return rendered(self.output_format, filtered(value, self.output_filter))

    def assembled(self, results: Sequence[bytes]) -> bytes:
        """Return the object that is stored."""
        ends = (b"" if result.endswith(b"\n") or not self.assembles_lines else b"\n" for result in results)
        return b"".join(part for pair in zip(results, ends, strict=True) for part in pair)


def lines(content: bytes) -> list[bytes]:
    """Return the lines of a text; what follows the last newline is one unless it is empty."""
    found = content.split(b"\n")
    return found if found[-1] else found[:-1]


def parsed(kind: str | None, record: bytes) -> Any:
    """Return a record as a JSON value; a row of CSV is an array of texts."""
    text = record.decode()
    return next(csv.reader([text.rstrip("\r")]), []) if kind == "csv" else json.loads(text)


def rendered(kind: str | None, value: Any) -> bytes:
    """Return a record as text, without a newline."""
    if kind != "csv":
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(value if isinstance(value, list) else [value])
    return row.getvalue().encode()
