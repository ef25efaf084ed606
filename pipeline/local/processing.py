"""Runs a Processing step as a job: inputs downloaded, the container's command run, outputs uploaded.

The contract is that of "build your own processing container" in the SageMaker guide: see processingjobconfig.json,
resourceconfig.json, and /opt/ml/output/message, whose first kilobyte becomes ExitMessage.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.isolation import CONTAINER_ROOT
from pipeline.local.process import Command, JobDirectory, JobProcess
from pipeline.local.runtime import Runtime, StepCall, StepFailure, StepResult, arn, failure_reason, not_run, now
from pipeline.local.state import Document

DEFAULT_MAX_RUNTIME_SECONDS = 86400
MESSAGE_FILE = "/opt/ml/output/message"


async def run_processing(call: StepCall, runtime: Runtime) -> StepResult:
    """One Processing step.

    Raises:
        StepFailure: the job failed.
    """
    document = job_document(call)
    job = runtime.job(call.job_name)
    metadata = {"ProcessingJob": {"Arn": document["ProcessingJobArn"]}}
    runtime.state.put("ProcessingJob", call.job_name, document)
    limit = float(
        (call.arguments.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS)
    )
    try:
        await asyncio.to_thread(lay_out, document, job, runtime)
        ended = await JobProcess(job, command(call.arguments), runtime.mount).run(limit, lambda line: None)
        succeeded = ended.code == 0 and ended.cause == "exited"
        mode = None if succeeded else "Continuous"
        outputs = await asyncio.to_thread(upload_outputs, call.arguments, job, runtime, mode)
    except asyncio.CancelledError:
        finish(document, runtime, "Stopped")
        raise
    except (PipelineError, OSError) as problem:
        failure = not_run(problem, metadata)
        finish(document, runtime, "Failed", FailureReason=str(failure))
        raise failure from problem
    message = job.inside(MESSAGE_FILE)
    if message.is_file():
        document["ExitMessage"] = message.read_text(errors="replace")[:1024]
    if succeeded:
        finish(document, runtime, "Completed")
        return StepResult(document, metadata, outputs)
    reason = failure_reason(job, ended, MESSAGE_FILE, limit)
    finish(document, runtime, "Failed", FailureReason=reason)
    raise StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR" if ended.cause == "lost" else None, metadata=metadata)


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


def lay_out(document: Document, job: JobDirectory, runtime: Runtime) -> None:
    """The tree that the container finds: inputs, empty output directories, configuration files."""
    outputs = [inside(job, output["S3Output"]["LocalPath"]) for output in outputs_of(document)]
    for source in document.get("ProcessingInputs") or []:
        s3_input = source["S3Input"]
        runtime.place_input(s3_input["S3Uri"], inside(job, s3_input["LocalPath"]), job, written=outputs)
    for folder in outputs:
        folder.mkdir(parents=True, exist_ok=True)
    config = job.inside("/opt/ml/config")
    config.mkdir(parents=True, exist_ok=True)
    resources = {"current_host": "algo-1", "hosts": ["algo-1"]}
    (config / "processingjobconfig.json").write_text(runtime.json_text(document, job))
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    job.inside("/opt/ml/output").mkdir(parents=True, exist_ok=True)
    runtime.localize_scripts(command(document).arguments, job)


def outputs_of(arguments: Document) -> list[Document]:
    """ProcessingOutputConfig.Outputs."""
    found: list[Document] = (arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    return found


def inside(job: JobDirectory, local_path: str) -> Path:
    """A LocalPath on this machine.

    Raises:
        StepFailure: it is not below /opt/ml.
    """
    try:
        return job.inside(local_path)
    except ValueError:
        raise StepFailure(f"LocalPath {local_path!r} is not below /opt/ml/processing, as SageMaker requires.") from None


def upload_outputs(arguments: Document, job: JobDirectory, runtime: Runtime, mode: str | None = None) -> list[str]:
    """Every output, or those of one S3UploadMode, to its S3 URI; the URIs."""
    uris = []
    for output in outputs_of(arguments):
        s3_output = output["S3Output"]
        if mode in (None, s3_output.get("S3UploadMode")):
            runtime.storage.upload(job.inside(s3_output["LocalPath"]), s3_output["S3Uri"])
            uris.append(s3_output["S3Uri"])
    return uris
