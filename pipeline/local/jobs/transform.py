"""Runs a Transform step or job: the records of each object go to the model's own server, its answers to `<object>.out`.

Source: AWS guide, "batch-transform". A refused object ends nothing: the others are answered, and the job fails at the
end.
"""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from pipeline.definition.serving_requests import transform_faults
from pipeline.local.jobs import servers
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, not_run, now
from pipeline.local.jobs.transform_records import RecordError, Records
from pipeline.local.store.answers import RequestError
from pipeline.local.store.state import Document
from pipeline.local.store.storage import StorageError

RETRIED_STATUSES = (429, 503)  # and no answer at all, InvocationsMaxRetries times
DEFAULT_TIMEOUT_SECONDS, DEFAULT_RETRIES = 600, 3  # ModelClientConfig
TOP = ("BatchStrategy", "MultiRecord"), ("MaxPayloadInMB", 6), ("MaxConcurrentTransforms", 0)


async def run_transform(call: StepCall, runtime: Runtime) -> StepResult:
    """Run one Transform step.

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

    def record(**members: str | float) -> None:
        document.update(members)
        runtime.state.put("TransformJob", call.job_name, document)

    record()
    job = Transform(call, runtime)
    try:
        if faults := list(transform_faults(call.arguments)):
            raise StepFailure(f"ClientError: the request {faults[0]}")
        await asyncio.to_thread(job.run)
    except asyncio.CancelledError:
        job.stopping.set()
        servers.end_strays(runtime.state, call.job_name)
        record(TransformJobStatus="Stopped", TransformEndTime=now())
        raise
    except (RequestError, StepFailure, StorageError, OSError) as problem:
        failure = not_run(problem, metadata)
        record(TransformJobStatus="Failed", TransformEndTime=now(), FailureReason=str(failure))
        raise failure from problem
    record(TransformJobStatus="Completed", TransformEndTime=now())
    return StepResult(document, metadata, [call.arguments["TransformOutput"]["S3OutputPath"]])


class Transform:
    """One job; `stopping` ends it early."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.call, self.runtime, self.request = call, runtime, call.arguments
        self.stopping = threading.Event()

    def run(self) -> None:
        """Start the server, send every object, stop the server.

        Raises:
            StepFailure: there is no object, the model cannot be served, or an object was refused.
            StorageError: a manifest is none, or lists an object that does not exist.
        """
        source, storage = self.request["TransformInput"]["DataSource"]["S3DataSource"], self.runtime.storage
        is_manifest = source.get("S3DataType") == "ManifestFile"
        objects = storage.manifest_objects(source["S3Uri"]) if is_manifest else storage.objects(source["S3Uri"])
        if not objects:
            raise StepFailure("TransformInput names no object in the local S3.")
        self.records = Records(self.request)
        self.server = self.started()
        count = self.concurrent_transforms()
        try:
            with ThreadPoolExecutor(count) as self.requests, ThreadPoolExecutor(count) as pool:
                refusals = [said for said in pool.map(self.refusal, objects) if said]
        finally:
            servers.stop(self.server)
        log = self.runtime.job(self.call.job_name).log
        Path(self.server["log"]).replace(log)
        if refusals and not self.stopping.is_set():
            with log.open("a") as stream:
                stream.writelines(f"{said}\n" for said in refusals)
            more = f" ({len(refusals)} of {len(objects)} objects were refused; log: {log})" if len(refusals) > 1 else ""
            raise StepFailure(f"ClientError: {refusals[0]}{more}")

    def refusal(self, item: tuple[str, Path]) -> str | None:
        """Send an object's records and store the answers together, in their order; return why that failed, or None."""
        name, file = item
        if self.stopping.is_set():
            return None
        try:
            records = self.records.split(file.read_bytes())
            batches = list(self.records.requests(records))
        except RecordError as problem:
            return f"{name} cannot be sent: {problem}."
        results, rest = [], iter(records)
        for batch, reply in zip(batches, self.requests.map(self.post, batches), strict=True):
            if reply is None or not 200 <= reply.status < 300:
                return f"the model refused {name}: {reply.body.decode(errors='replace') if reply else 'no answer'}"
            try:
                results.append(self.records.result(list(islice(rest, len(batch))), reply.body))
            except RecordError as problem:
                return f"{name} got an answer that cannot be kept: {problem}."
        output = self.request["TransformOutput"]["S3OutputPath"].rstrip("/")
        self.runtime.storage.write(f"{output}/{name}.out", self.records.assembled(results))
        return None

    def post(self, batch: list[bytes]) -> servers.Answer | None:
        """Return the server's reply to one request; one that finds it busy or gone is repeated."""
        headers = {"Content-Type": self.request["TransformInput"].get("ContentType") or "application/octet-stream"}
        if accept := self.request["TransformOutput"].get("Accept"):
            headers["Accept"] = accept
        client = self.request.get("ModelClientConfig") or {}
        seconds = client.get("InvocationsTimeoutInSeconds", DEFAULT_TIMEOUT_SECONDS)
        reply = None
        for attempt in range(client.get("InvocationsMaxRetries", DEFAULT_RETRIES) + 1):
            if self.stopping.wait(0.1 * attempt):
                return None
            reply = servers.ask(self.server, "/invocations", b"\n".join(batch), headers, timeout_seconds=seconds)
            if reply is not None and reply.status not in RETRIED_STATUSES:
                return reply
            if not servers.is_running(self.server):
                break
        return reply

    def concurrent_transforms(self) -> int:
        """Return how many requests are made at a time: the job's, else what /execution-parameters says, else one."""
        if asked := self.request.get("MaxConcurrentTransforms"):
            return int(asked)
        reply = servers.ask(self.server, "/execution-parameters", timeout_seconds=servers.PING_TIMEOUT_SECONDS)
        try:
            said = json.loads(reply.body) if reply and reply.status == 200 else {}
            return max(1, int(said.get("MaxConcurrentTransforms", 1)))
        except (ValueError, AttributeError, TypeError):  # a server that answers something else
            return 1

    def started(self) -> Document:
        """Return a healthy server for the model; its files are those of an endpoint with the job's name.

        Raises:
            StepFailure: it does not come up.
            RequestError: the model cannot be started here.
        """
        batch, megabytes, concurrent = (str(self.request.get(name, default)) for name, default in TOP)
        environment = {
            **self.request.get("Environment", {}),
            "SAGEMAKER_BATCH": "true",
            "SAGEMAKER_BATCH_STRATEGY": batch,
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": megabytes,
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": concurrent,
        }
        server = servers.start(
            self.runtime.state, self.call.job_name, self.request["ModelName"], environment=environment
        )
        deadline = time.monotonic() + servers.STARTUP_SECONDS
        while not servers.is_healthy(server):
            if not servers.is_running(server) or self.stopping.is_set() or time.monotonic() > deadline:
                servers.stop(server)
                raise StepFailure(servers.failure(server))
            time.sleep(0.05)
        return server
