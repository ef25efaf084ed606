"""Runs a Transform step or job: the records of each object go to the model's own server, its answers to `<object>.out`.

Source: AWS guide, "batch-transform". A refused object ends nothing: the others are answered, and the job fails at the
end.
"""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.definition.serving_requests import transform_faults
from pipeline.local.jobs import servers
from pipeline.local.jobs.model_data import is_direct, resolved_containers
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, not_run, now
from pipeline.local.jobs.transform_records import RecordError, Records, read_records
from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document
from pipeline.local.store.storage import Storage, StorageError

RETRIED_STATUSES = (429, 503)  # and no answer at all, InvocationsMaxRetries times
DEFAULT_TIMEOUT_SECONDS, DEFAULT_RETRIES = 600, 3  # ModelClientConfig


async def run_transform(call: StepCall, runtime: Runtime) -> StepResult:
    """One Transform step.

    Raises:
        StepFailure: the request asks for what is not done here, the model cannot be served, or it refuses an object.
    """
    document: Document = {
        "TransformJobName": call.job_name,
        "TransformJobArn": arn("transform-job", call.job_name),
        **call.arguments,
        "TransformJobStatus": "InProgress",
        "CreationTime": now(),
    }
    metadata = {"TransformJob": {"Arn": document["TransformJobArn"]}}
    runtime.state.put("TransformJob", call.job_name, document)
    job = Transform(call, runtime)
    try:
        if faults := list(transform_faults(call.arguments)):
            raise StepFailure(f"ClientError: the request {faults[0]}")
        await asyncio.to_thread(job.run)
    except asyncio.CancelledError:
        job.stopping.set()
        servers.end_strays(runtime.state, call.job_name)
        finish(document, runtime, "Stopped")
        raise
    except (RequestError, StepFailure, StorageError, OSError) as problem:
        failure = not_run(problem, metadata)
        finish(document, runtime, "Failed", FailureReason=str(failure))
        raise failure from problem
    finish(document, runtime, "Completed")
    return StepResult(document, metadata, [call.arguments["TransformOutput"]["S3OutputPath"]])


def finish(document: Document, runtime: Runtime, status: str, **more: str) -> None:
    """Record how the job ended."""
    document.update(TransformJobStatus=status, TransformEndTime=now(), **more)
    runtime.state.put("TransformJob", document["TransformJobName"], document)


class Transform:
    """One job; `stopping` ends it early."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.call = call
        self.runtime = runtime
        self.request = call.arguments
        self.stopping = threading.Event()

    def run(self) -> None:
        """Start the server, send every object, stop the server.

        Raises:
            StepFailure: there is no object, the model cannot be served, or an object was refused.
        """
        objects = input_objects(self.runtime.storage, self.request["TransformInput"]["DataSource"]["S3DataSource"])
        records = read_records(self.request)
        self.server = self.started()
        concurrent = self.concurrent_transforms()
        pool = ThreadPoolExecutor(concurrent)
        try:
            refusals = list(self.refusals(objects, records, pool, concurrent))
        finally:
            pool.shutdown(cancel_futures=True)
            servers.stop(self.server)
        log = self.runtime.job(self.call.job_name).log
        Path(self.server["log"]).replace(log)
        if refusals and not self.stopping.is_set():
            with log.open("a") as stream:
                stream.writelines(f"{said}\n" for said in refusals)
            more = f" ({len(refusals)} of {len(objects)} objects were refused; log: {log})" if len(refusals) > 1 else ""
            raise StepFailure(f"ClientError: {refusals[0]}{more}")

    def refusals(
        self, objects: list[tuple[str, Path]], records: Records, pool: ThreadPoolExecutor, concurrent: int
    ) -> Iterator[str]:
        """Send every object, the next before the one before it is answered, and store its answer; why that failed."""
        sent: deque[tuple[str, list[bytes], list[tuple[int, Future[servers.Answer | None]]]]] = deque()
        for name, file in objects:
            try:
                found = records.split(file.read_bytes())
                batches = list(records.requests(found))
            except RecordError as problem:
                yield f"{name} cannot be sent: {problem}."
                continue
            answers = [(len(batch), pool.submit(self.post, b"\n".join(batch))) for batch in batches]
            sent.append((name, found, answers))
            while sum(len(futures) for *_, futures in sent) > 2 * concurrent:
                yield from self.store(*sent.popleft(), records)
        for item in sent:
            yield from self.store(*item, records)

    def store(
        self, name: str, found: list[bytes], answers: list[tuple[int, Future[servers.Answer | None]]], records: Records
    ) -> Iterator[str]:
        """Wait for an object's answers and store them together, in the order of its records; why that failed."""
        results, position = [], 0
        for count, future in answers:
            answer = future.result()
            if self.stopping.is_set():
                return
            if answer is None or not 200 <= answer.status < 300:
                for _, other in answers:
                    other.cancel()
                yield f"the model refused {name}: {answer.body.decode(errors='replace') if answer else 'no answer'}"
                return
            try:
                results.append(records.result(found[position : position + count], answer.body))
            except RecordError as problem:
                yield f"{name} got an answer that cannot be kept: {problem}."
                return
            position += count
        output = self.request["TransformOutput"]["S3OutputPath"].rstrip("/")
        self.runtime.storage.write(f"{output}/{name}.out", records.assembled(results))

    def post(self, payload: bytes) -> servers.Answer | None:
        """The server's answer to one request; one that finds it busy or gone is repeated."""
        source, output = self.request["TransformInput"], self.request["TransformOutput"]
        headers = {"Content-Type": source.get("ContentType") or "application/octet-stream"}
        if accept := output.get("Accept"):
            headers["Accept"] = accept
        client = self.request.get("ModelClientConfig") or {}
        seconds = client.get("InvocationsTimeoutInSeconds", DEFAULT_TIMEOUT_SECONDS)
        for attempt in range(client.get("InvocationsMaxRetries", DEFAULT_RETRIES) + 1):
            if self.stopping.wait(0.1 * attempt):
                return None
            answer = servers.post(self.server, payload, headers, timeout_seconds=seconds)
            if answer is not None and answer.status not in RETRIED_STATUSES:
                return answer
            if not servers.is_running(self.server):
                break
        return answer

    def concurrent_transforms(self) -> int:
        """Requests at the same time: the job's, else what the server's /execution-parameters says, else one."""
        if asked := self.request.get("MaxConcurrentTransforms"):
            return int(asked)
        try:
            answer = servers.request(
                self.server, "GET", "/execution-parameters", timeout_seconds=servers.PING_TIMEOUT_SECONDS
            )
            said = json.loads(answer.body) if answer and answer.status == 200 else {}
            return max(1, int(said.get("MaxConcurrentTransforms", 1)))
        except (TimeoutError, ValueError, AttributeError, TypeError):  # a server that answers something else
            return 1

    def started(self) -> Document:
        """A healthy server for the model; its files are those of an endpoint with the job's name.

        Raises:
            StepFailure: it does not come up.
        """
        environment = {
            **self.request.get("Environment", {}),
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_BATCH_STRATEGY": self.request.get("BatchStrategy", "MultiRecord"),
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(self.request.get("MaxPayloadInMB", 6)),
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(self.request.get("MaxConcurrentTransforms", 0)),
        }
        if is_direct(self.runtime.state, self.request["ModelName"]):
            raise StepFailure("ClientError: a transform job calls containers in turn, but the model's Mode is Direct.")
        containers = resolved_containers(self.runtime.state, self.request["ModelName"], environment)
        server = servers.start(self.runtime.state, self.call.job_name, containers)
        deadline = time.monotonic() + servers.STARTUP_SECONDS
        while not servers.is_healthy(server):
            if not servers.is_running(server) or self.stopping.is_set() or time.monotonic() > deadline:
                servers.stop(server)
                raise StepFailure(servers.failure(server))
            time.sleep(0.05)
        return server


def input_objects(storage: Storage, source: Document) -> list[tuple[str, Path]]:
    """The objects of a job's S3DataSource: (name below the prefix, file).

    Raises:
        StepFailure: there is none.
        StorageError: a manifest is none, or lists an object that does not exist.
    """
    is_manifest = source.get("S3DataType") == "ManifestFile"
    objects = storage.manifest_objects(source["S3Uri"]) if is_manifest else storage.objects(source["S3Uri"])
    if not objects:
        raise StepFailure("TransformInput names no object in the local S3.")
    return objects
