"""Runs a Processing step as a job: inputs downloaded, the container's command run, outputs uploaded.

The contract is that of "build your own processing container" in the SageMaker guide: see processingjobconfig.json,
resourceconfig.json, and /opt/ml/output/message, whose first kilobyte becomes ExitMessage. A job of several instances is
as many processes, each with an /opt/ml of its own; that of the second, with its log, is `algo-2` within the job's
directory. Continuous outputs are uploaded while the job runs, so that they outlive it whatever becomes of it.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, failure_reason, not_run, now
from pipeline.local.sandbox.namespaces import CONTAINER_ROOT
from pipeline.local.sandbox.process import Command, Exit, JobDirectory, JobProcess
from pipeline.local.store.state import Document

DEFAULT_MAX_RUNTIME_SECONDS = 86400
MESSAGE_FILE = "/opt/ml/output/message"
SECONDS_BETWEEN_UPLOADS = 2.0  # of Continuous outputs


async def run_processing(call: StepCall, runtime: Runtime) -> StepResult:
    """One Processing step.

    Raises:
        StepFailure: the job failed.
    """
    document = job_document(call)
    jobs = instance_jobs(call, runtime)
    metadata = {"ProcessingJob": {"Arn": document["ProcessingJobArn"]}}
    runtime.state.put("ProcessingJob", call.job_name, document)
    limit = float(
        (call.arguments.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS)
    )
    try:
        for rank in range(len(jobs)):
            await asyncio.to_thread(lay_out, document, jobs, rank, runtime)
        async with continuous_uploads(call.arguments, jobs, runtime):
            job, ended = await run_instances(jobs, command(call.arguments), runtime, limit)
        mode = None if succeeded(ended) else "Continuous"
        outputs = await asyncio.to_thread(upload_outputs, call.arguments, jobs, runtime, mode)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, PipelineError):  # stopped it is, whatever is left of the upload
            upload_outputs(call.arguments, jobs, runtime, "Continuous")
        finish(document, runtime, "Stopped")
        raise
    except (PipelineError, OSError) as problem:
        failure = not_run(problem, metadata)
        finish(document, runtime, "Failed", FailureReason=str(failure))
        raise failure from problem
    message = job.inside(MESSAGE_FILE)
    if message.is_file():
        document["ExitMessage"] = message.read_text(errors="replace")[:1024]
    if succeeded(ended):
        finish(document, runtime, "Completed")
        updated = updated_uris(call.arguments)
        return StepResult(document, metadata, [uri for uri in outputs if uri not in updated])
    reason = failure_reason(job, ended, MESSAGE_FILE, limit)
    finish(document, runtime, "Failed", FailureReason=reason)
    raise StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR" if ended.cause == "lost" else None, metadata=metadata)


def instance_jobs(call: StepCall, runtime: Runtime) -> list[JobDirectory]:
    """A directory for each instance; the first one's is the job's."""
    resources = call.arguments.get("ProcessingResources") or {}
    count = int((resources.get("ClusterConfig") or {}).get("InstanceCount", 1))
    return [runtime.job(call.job_name if rank == 0 else f"{call.job_name}/{host(rank)}") for rank in range(count)]


def host(rank: int) -> str:
    """What SageMaker calls an instance."""
    return f"algo-{rank + 1}"


async def run_instances(
    jobs: Sequence[JobDirectory], words: Command, runtime: Runtime, limit_seconds: float
) -> tuple[JobDirectory, Exit]:
    """Run all instances at once; the one that ended last, or the first to fail, upon which the others are ended."""
    running = {
        asyncio.create_task(
            JobProcess(job, words, runtime.mount, api=runtime.api).run(limit_seconds, lambda line: None)
        ): job
        for job in jobs
    }
    try:
        while True:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                job, ended = running.pop(task), task.result()
                if not running or not succeeded(ended):
                    return job, ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def succeeded(ended: Exit) -> bool:
    """Whether a process ended by itself, and well."""
    return ended.code == 0 and ended.cause == "exited"


@contextlib.asynccontextmanager
async def continuous_uploads(
    arguments: Document, jobs: Sequence[JobDirectory], runtime: Runtime
) -> AsyncIterator[None]:
    """Meanwhile, upload what appears in Continuous outputs."""

    async def upload() -> None:
        while any(output["S3Output"].get("S3UploadMode") == "Continuous" for output in outputs_of(arguments)):
            await asyncio.sleep(SECONDS_BETWEEN_UPLOADS)
            with contextlib.suppress(OSError, PipelineError):  # of files that come and go; the last upload tells
                await asyncio.to_thread(upload_outputs, arguments, jobs, runtime, "Continuous")

    task = asyncio.create_task(upload())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def job_document(call: StepCall) -> Document:
    """What DescribeProcessingJob answers."""
    return {
        "ProcessingJobName": call.job_name,
        "ProcessingJobArn": arn("processing-job", call.job_name),
        **call.arguments,
        "ProcessingJobStatus": "InProgress",
        "CreationTime": now(),
        "ProcessingStartTime": now(),
        "LastModifiedTime": now(),
    }


def finish(document: Document, runtime: Runtime, status: str, **more: Any) -> None:
    """Record how the job ended."""
    document.update(ProcessingJobStatus=status, ProcessingEndTime=now(), LastModifiedTime=now(), **more)
    runtime.state.put("ProcessingJob", document["ProcessingJobName"], document)


def command(arguments: Document) -> Command:
    """Entrypoint and arguments."""
    specification = arguments["AppSpecification"]
    words = [*specification["ContainerEntrypoint"], *(specification.get("ContainerArguments") or [])]
    return Command(words, arguments.get("Environment") or {}, str(CONTAINER_ROOT))


def lay_out(document: Document, jobs: Sequence[JobDirectory], rank: int, runtime: Runtime) -> None:
    """The tree that an instance's container finds: inputs, empty output directories, configuration files."""
    job = jobs[rank]
    outputs = [inside(job, output["S3Output"]["LocalPath"]) for output in outputs_of(document)]
    for source in document.get("ProcessingInputs") or []:
        s3_input = source["S3Input"]
        sharded = s3_input.get("S3DataDistributionType") == "ShardedByS3Key"
        share = (rank, len(jobs)) if sharded else (0, 1)
        runtime.place_input(s3_input["S3Uri"], inside(job, s3_input["LocalPath"]), job, written=outputs, share=share)
    for folder in outputs:
        folder.mkdir(parents=True, exist_ok=True)
    config = job.inside("/opt/ml/config")
    config.mkdir(parents=True, exist_ok=True)
    resources = {"current_host": host(rank), "hosts": [host(number) for number in range(len(jobs))]}
    (config / "processingjobconfig.json").write_text(runtime.json_text(document, job))
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    job.inside("/opt/ml/output").mkdir(parents=True, exist_ok=True)
    runtime.localize_scripts(command(document).arguments, job)


def outputs_of(arguments: Document) -> list[Document]:
    """ProcessingOutputConfig.Outputs."""
    found: list[Document] = (arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    return found


def input_uri(given: Document) -> str | None:
    """The S3 URI of a ProcessingInput."""
    uri: str | None = (given.get("S3Input") or {}).get("S3Uri")
    return uri


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


def upload_outputs(
    arguments: Document, jobs: Sequence[JobDirectory], runtime: Runtime, mode: str | None = None
) -> list[str]:
    """Every output, or those of one S3UploadMode, to its S3 URI, one instance after the other; the URIs."""
    uris = []
    for output in outputs_of(arguments):
        s3_output = output["S3Output"]
        if mode in (None, s3_output.get("S3UploadMode")):
            for job in jobs:
                runtime.storage.upload(job.inside(s3_output["LocalPath"]), s3_output["S3Uri"])
            uris.append(s3_output["S3Uri"])
    return uris
