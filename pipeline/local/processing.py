"""Runs a Processing step as a job: inputs downloaded, the container's command run, outputs uploaded.

The contract is that of "build your own processing container" in the SageMaker guide: see processingjobconfig.json,
resourceconfig.json, and /opt/ml/output/message, whose first kilobyte becomes ExitMessage.
"""

import asyncio
import json
from typing import Any

from pipeline.local.isolation import CONTAINER_ROOT
from pipeline.local.process import Command, JobDirectory, JobProcess
from pipeline.local.runtime import Runtime, StepCall, StepFailure, StepResult, arn, failure_reason, now
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
    await asyncio.to_thread(lay_out, document, job, runtime)
    runtime.state.put("ProcessingJob", call.job_name, document)
    limit = call.arguments.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS)
    try:
        ended = await JobProcess(job, command(call.arguments), runtime.mount).run(limit, lambda line: None)
    except asyncio.CancelledError:
        finish(document, runtime, "Stopped")
        raise
    message = job.inside(MESSAGE_FILE)
    if message.is_file():
        document["ExitMessage"] = message.read_text(errors="replace")[:1024]
    if ended.code != 0 or ended.cause != "exited":
        reason = failure_reason(job, ended, MESSAGE_FILE, limit)
        finish(document, runtime, "Failed", FailureReason=reason)
        code = "SageMaker.JOB_INTERNAL_ERROR" if ended.cause == "lost" else None
        raise StepFailure(reason, code=code, metadata=metadata)
    outputs = await asyncio.to_thread(upload_outputs, call.arguments, job, runtime)
    finish(document, runtime, "Completed")
    return StepResult(document, metadata, outputs)


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
    """Entrypoint and arguments.

    Raises:
        StepFailure: none is given; the image's own entry point is not on this machine.
    """
    specification = arguments["AppSpecification"]
    words = [*specification.get("ContainerEntrypoint", []), *specification.get("ContainerArguments", [])]
    if not specification.get("ContainerEntrypoint"):
        raise StepFailure("AppSpecification has no ContainerEntrypoint, and an image's own is not on this machine.")
    return Command([str(word) for word in words], arguments.get("Environment", {}), str(CONTAINER_ROOT))


def lay_out(document: Document, job: JobDirectory, runtime: Runtime) -> None:
    """The tree that the container finds: inputs, empty output directories, configuration files."""
    for source in document.get("ProcessingInputs", []):
        if "S3Input" not in source:
            raise StepFailure(f"Input {source.get('InputName')!r} has no S3Input; the local target reads only S3.")
        s3_input = source["S3Input"]
        if s3_input.get("S3DataType") == "ManifestFile" or s3_input.get("S3InputMode") == "Pipe":
            raise StepFailure(
                f"Input {source.get('InputName')!r} is a manifest or a pipe; the local target reads S3Prefix as files."
            )
        runtime.storage.download(s3_input["S3Uri"], inside(job, s3_input["LocalPath"]))
    for output in document.get("ProcessingOutputConfig", {}).get("Outputs", []):
        inside(job, output["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
    config = job.inside("/opt/ml/config")
    config.mkdir(parents=True, exist_ok=True)
    (config / "processingjobconfig.json").write_text(json.dumps(document))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    job.inside("/opt/ml/output").mkdir(parents=True, exist_ok=True)


def inside(job: JobDirectory, local_path: str) -> Any:
    """A LocalPath on this machine.

    Raises:
        StepFailure: it is not below /opt/ml.
    """
    try:
        return job.inside(local_path)
    except ValueError:
        raise StepFailure(f"LocalPath {local_path!r} is not below /opt/ml/processing, as SageMaker requires.") from None


def upload_outputs(arguments: Document, job: JobDirectory, runtime: Runtime) -> list[str]:
    """Every output to its S3 URI; the URIs."""
    uris = []
    for output in arguments.get("ProcessingOutputConfig", {}).get("Outputs", []):
        s3_output = output["S3Output"]
        runtime.storage.upload(job.inside(s3_output["LocalPath"]), s3_output["S3Uri"])
        uris.append(s3_output["S3Uri"])
    return uris
