"""The records of a transform job: an object split into requests, and the answers joined, filtered and assembled.

Sources: AWS guide, "batch-transform" and "batch-transform-data-processing"; API, TransformInput and DataProcessing.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.definition.serving_requests import (
    DEFAULT_PAYLOAD_MEGABYTES,
    FORMATS,
    FilterError,
    Selector,
    filtered,
    media_type,
    read_filter,
)
from pipeline.errors import PipelineError
from pipeline.local.store.state import Document

MEGABYTE = 1024 * 1024
UNUSABLE = (FilterError, ValueError, csv.Error, RecursionError)  # of a record that is not what the job says
csv.field_size_limit(100 * MEGABYTE)
Path = list[Selector]


class RecordError(PipelineError):
    """An object, or an answer of the model, that cannot be taken apart as the job says."""


@dataclass(frozen=True)
class Processing:
    """DataProcessing that does something, read."""

    input_filter: Path
    joins: bool
    output_filter: Path
    input_format: str
    output_format: str


@dataclass(frozen=True)
class Records:
    """How a job takes its objects apart and puts their answers together."""

    by_line: bool
    batched: bool
    limit_bytes: float
    is_gzip: bool
    assembles_lines: bool
    processing: Processing | None

    def split(self, content: bytes) -> list[bytes]:
        """The records of an object.

        Raises:
            RecordError: it is not compressed as the job says.
        """
        if self.is_gzip:
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as problem:
                raise RecordError(f"it is no gzip file: {problem}") from problem
        return lines(content) if self.by_line or self.has_lines() else [content]

    def has_lines(self) -> bool:
        """Whether each line is a record of its own, although all are sent at once."""
        return self.processing is not None and self.processing.input_format == "jsonlines"

    def requests(self, records: Sequence[bytes]) -> Iterator[list[bytes]]:
        """The records of each request, in order; each as the model gets it.

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
        """What the model gets of a record."""
        if self.processing is None or not self.processing.input_filter:
            return record
        try:
            value = filtered(parsed(self.processing.input_format, record), self.processing.input_filter)
        except UNUSABLE as problem:
            raise RecordError(f"InputFilter cannot be applied to record {number}: {problem}") from problem
        return rendered(self.processing.input_format, value)

    def result(self, records: Sequence[bytes], answer: bytes) -> bytes:
        """What is kept of the answer to some records.

        Raises:
            RecordError: it is not one answer a record, or the filter does not fit it.
        """
        if self.processing is None or not (self.processing.joins or self.processing.output_filter):
            return answer
        try:
            outputs = self.outputs(answer, len(records))
            pairs = zip(records, outputs, strict=True)
            return b"\n".join([self.kept(self.processing, record, output) for record, output in pairs])
        except UNUSABLE as problem:
            raise RecordError(f"the answer cannot be joined and filtered: {problem}") from problem

    def outputs(self, answer: bytes, count: int) -> list[Any]:
        """The answer's records."""
        assert self.processing
        kind = self.processing.output_format
        texts = [answer] if count == 1 and kind != "csv" else lines(answer)
        if len(texts) != count:
            raise RecordError(f"{count} records were sent, but the answer has {len(texts)} lines; each needs one")
        return [parsed(kind, text) for text in texts]

    def kept(self, processing: Processing, record: bytes, output: Any) -> bytes:
        """One record of the output: joined with its input, then filtered."""
        value = output
        if processing.joins:
            value = joined(parsed(processing.input_format, record), output, is_csv=processing.output_format == "csv")
        return rendered(processing.output_format, filtered(value, processing.output_filter))

    def assembled(self, results: Sequence[bytes]) -> bytes:
        """The object that is stored."""
        if not self.assembles_lines:
            return b"".join(results)
        return b"".join(result if result.endswith(b"\n") else result + b"\n" for result in results)


def read_records(request: Document) -> Records:
    """How a CreateTransformJob request wants its records; `transform_faults` has found nothing in it."""
    source, output = request["TransformInput"], request["TransformOutput"]
    megabytes = request.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MEGABYTES)
    return Records(
        by_line=source.get("SplitType") == "Line",
        batched=request.get("BatchStrategy", "MultiRecord") == "MultiRecord",
        limit_bytes=megabytes * MEGABYTE or float("inf"),
        is_gzip=source.get("CompressionType") == "Gzip",
        assembles_lines=output.get("AssembleWith") == "Line",
        processing=read_processing(request),
    )


def read_processing(request: Document) -> Processing | None:
    """DataProcessing; None if it leaves everything as it is."""
    settings = request.get("DataProcessing") or {}
    paths = [read_filter(settings.get(name) or "$") for name in ("InputFilter", "OutputFilter")]
    joins = settings.get("JoinSource") == "Input"
    if not any(paths) and not joins:
        return None
    content_type = media_type(request["TransformInput"].get("ContentType"))
    accept = media_type(request["TransformOutput"].get("Accept")) or content_type
    return Processing(paths[0], joins, paths[1], FORMATS[content_type], FORMATS[accept])


def lines(content: bytes) -> list[bytes]:
    """The lines of a text; what follows the last newline is one unless it is empty."""
    found = content.split(b"\n")
    return found if found[-1] else found[:-1]


def parsed(kind: str, record: bytes) -> Any:
    """A record as a JSON value; a row of CSV is an array of texts."""
    text = record.decode()
    if kind != "csv":
        return json.loads(text)
    return next(csv.reader([text.rstrip("\r")]), [])


def rendered(kind: str, value: Any) -> bytes:
    """A record as text, without a newline."""
    if kind != "csv":
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(value if isinstance(value, list) else [value])
    return row.getvalue().encode()


def joined(record: Any, output: Any, *, is_csv: bool) -> Any:
    """Input and output side by side: columns of CSV, or an object that holds the output as SageMakerOutput."""
    if is_csv:
        return [*record, *output]
    return {**(record if isinstance(record, dict) else {"SageMakerInput": record}), "SageMakerOutput": output}
