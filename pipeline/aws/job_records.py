"""The jobs that executions ran: their records in SageMaker and their log streams, which are free and stay otherwise."""

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.lookup import is_missing
from pipeline.aws.stack import Client

Job = tuple[str, str]  # kind, as a step's metadata names it, and name
DELETE = {
    "ProcessingJob": ("delete_processing_job", "ProcessingJobName", "/aws/sagemaker/ProcessingJobs"),
    "TrainingJob": ("delete_training_job", "TrainingJobName", "/aws/sagemaker/TrainingJobs"),
    "TuningJob": ("delete_hyper_parameter_tuning_job", "HyperParameterTuningJobName", None),
}


def remove(client: Client, executions: tuple[str, ...]) -> Iterator[str]:
    """Remove the records and logs of the executions' jobs; a line for each execution that had any."""
    sagemaker, logs = client("sagemaker"), client("logs")
    for arn in executions:
        removed = [remove_job(sagemaker, logs, job) for job in jobs(sagemaker, arn)]
        if any(removed):
            yield f"{sum(removed)} job records of execution {arn.rpartition('/')[2]} removed"


def jobs(sagemaker: Any, execution: str) -> Iterator[Job]:
    """The jobs of an execution, a search's trials before the search."""
    pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=execution)
    for step in (step for page in pages for step in page["PipelineExecutionSteps"]):
        for kind, metadata in step.get("Metadata", {}).items():
            if kind in DELETE and "CacheHitResult" not in step:
                name = str(metadata["Arn"]).rpartition("/")[2]
                yield from trials(sagemaker, name) if kind == "TuningJob" else ()
                yield kind, name


def trials(sagemaker: Any, search: str) -> Iterator[Job]:
    """The training jobs of a search."""
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    try:
        for page in pages.paginate(HyperParameterTuningJobName=search):
            yield from (("TrainingJob", trial["TrainingJobName"]) for trial in page["TrainingJobSummaries"])
    except ClientError as error:
        if not is_missing(error):
            raise


def remove_job(sagemaker: Any, logs: Any, job: Job) -> bool:
    """Remove one job's log streams and record; whether the record was there."""
    kind, name = job
    operation, key, log_group = DELETE[kind]
    if log_group:
        remove_streams(logs, log_group, f"{name}/")
    try:
        getattr(sagemaker, operation)(**{key: name})
    except ClientError as error:
        if not is_missing(error):
            raise
        return False
    return True


def remove_streams(logs: Any, log_group: str, prefix: str) -> None:
    """Remove the log streams whose names begin so."""
    try:
        pages = logs.get_paginator("describe_log_streams").paginate(logGroupName=log_group, logStreamNamePrefix=prefix)
        for stream in [stream for page in pages for stream in page["logStreams"]]:
            logs.delete_log_stream(logGroupName=log_group, logStreamName=stream["logStreamName"])
    except ClientError as error:
        if not is_missing(error):
            raise
