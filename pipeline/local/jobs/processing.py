"""Runs a Processing step as a job: inputs downloaded, the container's command run, outputs uploaded.

The contract is that of "build your own processing container" in the SageMaker guide: see processingjobconfig.json,
resourceconfig.json, and /opt/ml/output/message, whose first kilobyte becomes ExitMessage. Continuous outputs are
uploaded while the job runs, so that they outlive it whatever becomes of it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.runtime import (
    Runtime,
    StepCall,
    StepFailure,
    StepResult,
    arn,
    failure_reason,
    host_directories,
    host_names,
    not_run,
    now,
    run_hosts,
    succeeded,
)
from pipeline.local.sandbox.namespaces import CONTAINER_ROOT
from pipeline.local.sandbox.process import Command, JobDirectory, JobProcess
from pipeline.local.store.state import Document

DEFAULT_MAX_RUNTIME_SECONDS = 86400
MESSAGE_FILE = "/opt/ml/output/message"
MESSAGE_BYTES = 1024  # of it in ExitMessage
SECONDS_BETWEEN_UPLOADS = 2.0  # of Continuous outputs


async def run_processing(call: StepCall, runtime: Runtime) -> StepResult:
    """One Processing step.

    Raises:
        StepFailure: the job failed.
    """
    job = ProcessingJob(call, runtime)
    metadata = {"ProcessingJob": {"Arn": job.document["ProcessingJobArn"]}}
    try:
        outputs = await job.run()
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, PipelineError):  # stopped it is, whatever is left of the upload
            job.upload("Continuous")
        job.finish("Stopped")
        raise
    except (PipelineError, OSError) as problem:
        failure = not_run(problem, metadata)
        job.finish("Failed", FailureReason=str(failure))
        raise failure from problem
    job.finish("Completed")
    updated = updated_uris(call.arguments)
    return StepResult(job.document, metadata, [uri for uri in outputs if uri not in updated])


class ProcessingJob:
    """One processing job; `document` is what DescribeProcessingJob answers."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.name = call.job_name
        self.request = call.arguments
        self.runtime = runtime
        resources = self.request.get("ProcessingResources") or {}
        count = int((resources.get("ClusterConfig") or {}).get("InstanceCount", 1))
        isolated = bool((self.request.get("NetworkConfig") or {}).get("EnableNetworkIsolation"))
        self.hosts = host_directories(self.name, count, runtime, isolated=isolated)
        self.outputs = [output["S3Output"] for output in outputs_of(self.request)]
        self.document: Document = {
            "ProcessingJobName": self.name,
            "ProcessingJobArn": arn("processing-job", self.name),
            **self.request,
            "ProcessingJobStatus": "InProgress",
            "CreationTime": now(),
            "ProcessingStartTime": now(),
            "LastModifiedTime": now(),
        }
        runtime.state.put("ProcessingJob", self.name, self.document)

    async def run(self) -> list[str]:
        """Lay out, run, upload; the URIs of the outputs.

        Raises:
            StepFailure: the script failed, or has no place here.
            PipelineError: an input, an output or the program is not what it should be.
            OSError: this machine's fault.
        """
        condition = self.request.get("StoppingCondition") or {}
        limit = float(condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS))
        for rank in range(len(self.hosts)):
            await asyncio.to_thread(self.lay_out, rank)
        command = Command(self.words, self.request.get("Environment") or {}, str(CONTAINER_ROOT))
        processes = [JobProcess(job, command, self.runtime.mount, api=self.runtime.api) for job in self.hosts]
        async with self.continuous_uploads():
            host, ended = await run_hosts(processes, limit, lambda line: None)
        outputs = await asyncio.to_thread(self.upload, None if succeeded(ended) else "Continuous")
        if message := host.message(MESSAGE_FILE, MESSAGE_BYTES):
            self.document["ExitMessage"] = message
        if not succeeded(ended):
            code = "SageMaker.JOB_INTERNAL_ERROR" if ended.cause == "lost" else None
            raise StepFailure(failure_reason(host, ended, MESSAGE_FILE, limit), code=code)
        return outputs

    @property
    def words(self) -> list[str]:
        """Entrypoint and arguments."""
        specification = self.request["AppSpecification"]
        return [*specification["ContainerEntrypoint"], *(specification.get("ContainerArguments") or [])]

    def lay_out(self, rank: int) -> None:
        """The tree that a host's container finds: inputs, empty output directories, configuration files."""
        job, count = self.hosts[rank], len(self.hosts)
        folders = [inside(job, output["LocalPath"]) for output in self.outputs]
        for source in self.request.get("ProcessingInputs") or []:
            folder = inside(job, source["S3Input"]["LocalPath"])
            self.runtime.place_input(source["S3Input"], folder, job, host=(rank, count), written=folders)
        for folder in [*folders, job.inside("/opt/ml/config"), job.inside("/opt/ml/output")]:
            folder.mkdir(parents=True, exist_ok=True)
        names = host_names(count)
        config = job.inside("/opt/ml/config")
        (config / "processingjobconfig.json").write_text(self.runtime.json_text(self.document, job))
        (config / "resourceconfig.json").write_text(json.dumps({"current_host": names[rank], "hosts": names}))
        self.runtime.localize_programs(self.words, job)

    @contextlib.asynccontextmanager
    async def continuous_uploads(self) -> AsyncIterator[None]:
        """Meanwhile, upload what appears in Continuous outputs."""

        async def upload() -> None:
            while any(output.get("S3UploadMode") == "Continuous" for output in self.outputs):
                await asyncio.sleep(SECONDS_BETWEEN_UPLOADS)
                with contextlib.suppress(OSError, PipelineError):  # of files that come and go; the last upload tells
                    await asyncio.to_thread(self.upload, "Continuous")

        task = asyncio.create_task(upload())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def upload(self, mode: str | None = None) -> list[str]:
        """Every output, or those of one S3UploadMode, to its S3 URI, one host after the other; the URIs."""
        chosen = [output for output in self.outputs if mode in (None, output.get("S3UploadMode"))]
        for output in chosen:
            for job in self.hosts:
                self.runtime.storage.upload(job.left(output["LocalPath"]), output["S3Uri"])
        return [output["S3Uri"] for output in chosen]

    def finish(self, status: str, **more: Any) -> None:
        """Record how the job ended."""
        self.document.update(ProcessingJobStatus=status, ProcessingEndTime=now(), LastModifiedTime=now(), **more)
        self.runtime.state.put("ProcessingJob", self.name, self.document)


def outputs_of(arguments: Document) -> list[Document]:
    """ProcessingOutputConfig.Outputs."""
    found: list[Document] = (arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    return found


def input_uri(given: Document) -> str | None:
    """The S3 URI of a ProcessingInput."""
    return (given.get("S3Input") or {}).get("S3Uri")


def updated_uris(arguments: Document) -> set[str | None]:
    """What a job reads and adds to: S3 URIs that are both an input and an output."""
    written = {output["S3Output"]["S3Uri"] for output in outputs_of(arguments)}
    return written & {input_uri(given) for given in arguments.get("ProcessingInputs") or []}


def inside(job: JobDirectory, local_path: str) -> Path:
    """A LocalPath on this machine.

    Raises:
        StepFailure: it is not below /opt/ml.
    """
    try:
        return job.inside(local_path)
    except ValueError:
        raise StepFailure(f"LocalPath {local_path!r} is not below /opt/ml/processing, as SageMaker requires.") from None
