"""Runs a Transform step or job: the records of each object go to the model's own server, its answers to `<object>.out`.

An object is split into records, these are filtered and put together to requests; the answers are taken apart into one
for each record, joined with it, filtered and assembled. A refused object ends nothing: the others are answered, and the
job fails at the end. Sources: AWS guide, "batch-transform" and "batch-transform-data-processing"; API, TransformInput
and DataProcessing.
"""

import asyncio
import csv
import gzip
import io
import json
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.checks.serving import (
    DEFAULT_PAYLOAD_MEGABYTES,
    FORMATS,
    FilterError,
    filtered,
    media_type,
    read_filter,
    transform_problems,
)
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, not_run, now, record_job
from pipeline.local.sandbox.environment import JOB_VARIABLE
from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document
from pipeline.local.store.storage import StorageError

MEGABYTE = 1024 * 1024
RETRIED_STATUSES = (429, 503)  # and no answer at all, InvocationsMaxRetries times
DEFAULT_TIMEOUT_SECONDS, DEFAULT_RETRIES = 600, 3  # ModelClientConfig
UNUSABLE = (FilterError, ValueError, csv.Error, RecursionError)  # of a record that is not what the job says
csv.field_size_limit(100 * MEGABYTE)


class ObjectError(PipelineError):
    """An object that cannot be sent, that the model refuses, or whose answer cannot be kept."""


async def run_transform(call: StepCall, runtime: Runtime) -> StepResult:
    """Run one Transform step; StepFailure if the model cannot be served, or refuses an object."""
    job = Transform(call, runtime)
    document: Document = {
        "TransformJobName": call.job_name,
        "TransformJobArn": arn("transform-job", call.job_name),
        **call.arguments,
        "CreationTime": now(),
    }
    metadata = {"TransformJob": {"Arn": document["TransformJobArn"]}}

    def record(status: str, **members: str | float) -> None:
        document.update(TransformJobStatus=status, **members)
        record_job(runtime.state, "TransformJob", call.job_name, document)

    record("InProgress")
    try:
        if faults := list(transform_problems(call.arguments)):
            raise StepFailure(f"ClientError: the request {faults[0]}")
        await asyncio.to_thread(job.run)
    except asyncio.CancelledError:
        job.stopping.set()
        servers.end_all(job.log.with_name("server"))
        record("Stopped", TransformEndTime=now())
        raise
    except (RequestError, StepFailure, StorageError, OSError) as problem:
        failure = not_run(problem, metadata)
        record("Failed", TransformEndTime=now(), FailureReason=str(failure))
        raise failure from problem
    record("Completed", TransformEndTime=now())
    return StepResult(document, metadata, [call.arguments["TransformOutput"]["S3OutputPath"]])


class Transform:
    """One job; `stopping` ends it early. Its server writes to the job's log, and has its files in `server` beside."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.name, self.request, self.runtime = call.job_name, call.arguments, runtime
        self.log = runtime.job("TransformJob", call.job_name).log
        self.stopping = threading.Event()

    def run(self) -> None:
        """Start the server, have it answer every object, stop it."""
        source, storage = self.request["TransformInput"]["DataSource"]["S3DataSource"], self.runtime.storage
        is_manifest = source.get("S3DataType") == "ManifestFile"
        objects = storage.manifest_objects(source["S3Uri"]) if is_manifest else storage.objects(source["S3Uri"])
        if not objects:
            raise StepFailure("TransformInput names no object in the local S3.")
        self.records = Records(self.request)
        variables = {
            **self.request.get("Environment", {}),
            JOB_VARIABLE: str(self.log.parent.resolve()),
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_BATCH_STRATEGY": self.request.get("BatchStrategy", "MultiRecord"),
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self.request.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MEGABYTES)),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self.request.get("MaxConcurrentTransforms", 0)),
        }
        model, state = self.request["ModelName"], self.runtime.state
        self.server = servers.start(state, model, self.log.parent, variables=variables)
        try:
            if not servers.comes_up(self.server, self.stopping.is_set):
                raise StepFailure(servers.failure(self.server))
            count = self.concurrent_transforms()
            with ThreadPoolExecutor(count) as self.requests, ThreadPoolExecutor(count) as pool:
                refusals = [said for said in pool.map(self.refusal, objects) if said]
        finally:
            servers.stop(self.server)
        if refusals and not self.stopping.is_set():
            with self.log.open("a") as stream:
                stream.writelines(f"{said}\n" for said in refusals)
            found = f"{len(refusals)} of {len(objects)} objects were refused"
            more = f" ({found}; log: {self.log})" if len(refusals) > 1 else ""
            raise StepFailure(f"ClientError: {refusals[0]}{more}")

    def concurrent_transforms(self) -> int:
        """Return how many requests are made at a time: the job's, else what /execution-parameters says, else one."""
        if asked := self.request.get("MaxConcurrentTransforms"):
            return int(asked)
        reply = servers.ask(self.server, "/execution-parameters", timeout_seconds=servers.PING_TIMEOUT_SECONDS)
        try:
            return max(1, int(json.loads(reply.body)["MaxConcurrentTransforms"])) if reply else 1
        except (ValueError, LookupError, TypeError):  # a server that answers something else
            return 1

    def refusal(self, item: tuple[str, Path]) -> str | None:
        """Have the model answer an object, and store that; return why it failed, or None."""
        name, file = item
        if self.stopping.is_set():
            return None
        try:
            content = self.records.transformed(name, file.read_bytes(), partial(self.answers, name))
        except ObjectError as problem:
            return str(problem)
        output = self.request["TransformOutput"]["S3OutputPath"].rstrip("/")
        self.runtime.storage.write(f"{output}/{name}.out", content)
        return None

    def answers(self, name: str, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the model's answers to the requests of an object, several of which are made at a time."""
        for reply in self.requests.map(self.post, bodies):
            if reply is None or not 200 <= reply.status < 300:
                said = reply.body.decode(errors="replace") if reply else "no answer"
                raise ObjectError(f"the model refused {name}: {said}")
            yield reply.body

    def post(self, body: bytes) -> servers.Answer | None:
        """Return the server's reply to one request; one that finds it busy or gone is repeated."""
        kinds = {
            "Content-Type": self.request["TransformInput"].get("ContentType") or "application/octet-stream",
            "Accept": self.request["TransformOutput"].get("Accept"),
        }
        headers = {name: kind for name, kind in kinds.items() if kind}
        client = self.request.get("ModelClientConfig") or {}
        seconds = client.get("InvocationsTimeoutInSeconds", DEFAULT_TIMEOUT_SECONDS)
        reply = None
        for attempt in range(client.get("InvocationsMaxRetries", DEFAULT_RETRIES) + 1):
            if self.stopping.wait(0.1 * attempt):
                return None
            reply = servers.ask(self.server, "/invocations", body, headers, timeout_seconds=seconds)
            if (reply and reply.status not in RETRIED_STATUSES) or not servers.is_running(self.server):
                break
        return reply


class Records:
    """How a job takes its objects apart and puts their answers together; `transform_problems` found nothing in it."""

    def __init__(self, request: Document) -> None:
        source, output = request["TransformInput"], request["TransformOutput"]
        settings = request.get("DataProcessing") or {}
        self.input_filter = read_filter(settings.get("InputFilter") or "$")
        self.output_filter = read_filter(settings.get("OutputFilter") or "$")
        self.joins = settings.get("JoinSource") == "Input"
        content_type = media_type(source.get("ContentType"))
        self.input_format = FORMATS.get(content_type)
        self.output_format = FORMATS.get(media_type(output.get("Accept")) or content_type)
        self.is_gzip = source.get("CompressionType") == "Gzip"
        self.by_line = source.get("SplitType") == "Line"
        self.batched = request.get("BatchStrategy", "MultiRecord") == "MultiRecord"
        self.limit_bytes = request.get("MaxPayloadInMB", DEFAULT_PAYLOAD_MEGABYTES) * MEGABYTE or float("inf")
        self.end = b"\n" if output.get("AssembleWith") == "Line" else b""

    def transformed(self, name: str, content: bytes, answers: Callable[[Iterable[bytes]], Iterator[bytes]]) -> bytes:
        """Return what is stored for an object; ObjectError if a record or an answer is not what the job says.

        Args:
            answers: gives those to the bodies of requests, in their order.
        """
        try:
            records = self.split(content)
            batches = list(self.batches(records))
        except UNUSABLE as problem:
            raise ObjectError(f"{name} cannot be sent: {problem}.") from problem
        kept, rest = io.BytesIO(), iter(records)
        for batch, answer in zip(batches, answers(map(b"\n".join, batches)), strict=True):
            try:
                result = self.result(list(islice(rest, len(batch))), answer)
            except UNUSABLE as problem:
                raise ObjectError(f"{name} got an answer that cannot be joined and filtered: {problem}.") from problem
            kept.write(result.removesuffix(self.end) + self.end)
        return kept.getvalue()

    def split(self, content: bytes) -> list[bytes]:
        """Return the records of an object."""
        if self.is_gzip:
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as problem:
                raise ValueError(f"it is no gzip file: {problem}") from problem
        processed = self.input_filter or self.output_filter or self.joins
        return lines(content) if self.by_line or (processed and self.input_format == "jsonlines") else [content]

    def batches(self, records: Iterable[bytes]) -> Iterator[list[bytes]]:
        """Yield the records of each request, as the model gets them."""
        batch: list[bytes] = []
        size = 0
        for number, record in enumerate(records, 1):
            if self.input_filter:
                try:
                    given = parsed(self.input_format, record)
                    record = rendered(self.input_format, filtered(given, self.input_filter))
                except UNUSABLE as problem:
                    raise ValueError(f"InputFilter cannot be applied to record {number}: {problem}") from problem
            if batch and self.by_line and (not self.batched or size + 1 + len(record) > self.limit_bytes):
                yield batch
                batch, size = [], 0
            size += len(record) + bool(batch)
            batch.append(record)
            if size > self.limit_bytes:
                what = f"record {number}" if self.by_line else "it"
                raise ValueError(f"{what} has {size:,} bytes, more than MaxPayloadInMB allows")
        if batch:
            yield batch

    def result(self, records: Sequence[bytes], answer: bytes) -> bytes:
        """Return what is kept of the answer to some records: each joined with its own part, and filtered."""
        if not (self.joins or self.output_filter):
            return answer
        texts = [answer] if len(records) == 1 and self.output_format != "csv" else lines(answer)
        if len(texts) != len(records):
            found = f"{len(records)} records were sent, but the answer has {len(texts)} lines"
            raise ValueError(f"{found}; each needs one")
        values = [parsed(self.output_format, text) for text in texts]
        if self.joins:
            values = [self.joined(parsed(self.input_format, r), v) for r, v in zip(records, values, strict=True)]
        return b"\n".join(rendered(self.output_format, filtered(value, self.output_filter)) for value in values)

    def joined(self, record: Any, value: Any) -> Any:
        """Return a record with its answer, columns or in one object."""
        if self.output_format == "csv":
            return [*record, *value]
        return {**(record if isinstance(record, dict) else {"SageMakerInput": record}), "SageMakerOutput": value}


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
