"""The executions of a pipeline as a list, what their steps took, and the lines that their jobs print."""

import json
import statistics
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import explain, is_missing
from pipeline.definition.step_types import BY_METADATA
from pipeline.errors import PipelineError
from pipeline.service import control
from pipeline.service.status import JOB_GROUPS, job_of, metrics, output_of
from pipeline.service.targets import Target

PAGE = 100  # the most executions that one request lists
CHANNELS = "/opt/ml/input/data"
COMPARED_EXECUTIONS = 5  # the newest ones, whose steps say how long a step takes


def recent(target: Target, name: str, count: int) -> list[dict[str, Any]]:
    """Return the ARN, status and start of the newest executions of a pipeline."""
    client, found = target.client("sagemaker"), []
    with control.service_errors(f"list executions of pipeline {name!r}"):
        if control.existing(client, name):
            answer = client.list_pipeline_executions(PipelineName=name, MaxResults=min(count, PAGE))
            found = answer["PipelineExecutionSummaries"]
    return [
        {
            "execution": each["PipelineExecutionArn"].rpartition("/")[2],
            "execution_arn": each["PipelineExecutionArn"],
            "status": each["PipelineExecutionStatus"],
            "started": each["StartTime"],
        }
        for each in found[:count]
    ]


def details(target: Target, execution_arn: str) -> dict[str, Any]:
    """Return the seconds from an execution's first step to its last, and on this machine its test accuracy."""
    steps = control.steps(target, execution_arn)
    began, ended = [[step[key] for step in steps if key in step] for key in ("StartTime", "EndTime")]
    is_cheap = target.name == "local"
    measured = metrics(target, output_of(target, steps, "evaluation")) if is_cheap else {}
    return {
        "seconds": round((max(ended) - min(began)).total_seconds(), 1) if began and ended else None,
        "test_accuracy": measured.get("test_accuracy"),
    }


def usual_seconds(target: Target, name: str, *, besides: str = "") -> dict[str, float]:
    """Return the median seconds of each step in the newest executions that succeeded, in the order of their steps.

    Reused steps do not count; one that was only ever reused is left out.
    """
    taken: dict[str, list[float]] = {}
    for execution in recent(target, name, COMPARED_EXECUTIONS):
        if execution["status"] != "Succeeded" or execution["execution_arn"] == besides:
            continue
        for step in control.steps(target, execution["execution_arn"]):
            if "EndTime" in step and "CacheHitResult" not in step and "SelectiveExecutionResult" not in step:
                seconds = (step["EndTime"] - step["StartTime"]).total_seconds()
                taken.setdefault(step["StepName"], []).append(seconds)
    return {step: statistics.median(seconds) for step, seconds in taken.items()}


class JobLogs:
    """Reads on in the logs of jobs: each call returns what was printed since the last one."""

    def __init__(self, target: Target) -> None:
        self.client = target.client("logs")
        self.streams: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.unreadable: set[str] = set()

    def new_lines(self, group: str, job_name: str) -> list[str]:
        """Return new lines of a job's log; of a job on several instances, the first one's.

        Why a log cannot be read is a line as well, once; one that is not there yet has no lines.
        """
        log_group = f"/aws/sagemaker/{group}"
        try:
            stream = self.stream_of(log_group, job_name)
            if stream is None:
                return []
            token = {"nextToken": self.tokens[job_name]} if job_name in self.tokens else {}
            answer = self.client.get_log_events(
                logGroupName=log_group, logStreamName=stream, startFromHead=True, **token
            )
        except ClientError as problem:
            if is_missing(problem) or log_group in self.unreadable:
                return []
            self.unreadable.add(log_group)
            return [f"The log cannot be shown: {explain(problem)}"]
        self.tokens[job_name] = answer["nextForwardToken"]
        return [event["message"].rstrip() for event in answer["events"] if event["message"].strip()]

    def stream_of(self, log_group: str, job_name: str) -> str | None:
        """Return the job's log stream, once there is one."""
        if job_name not in self.streams:
            answer = self.client.describe_log_streams(logGroupName=log_group, logStreamNamePrefix=f"{job_name}/")
            if not answer["logStreams"]:
                return None
            self.streams[job_name] = answer["logStreams"][0]["logStreamName"]
        return self.streams[job_name]


def ended_trials(target: Target, tuning_job: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Return number and summary of each trial of a search that has ended; none where that cannot be asked."""
    pages = target.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    try:
        found = [
            trial
            for page in pages.paginate(HyperParameterTuningJobName=tuning_job)
            for trial in page["TrainingJobSummaries"]
        ]
    except ClientError:
        return []
    return [item for item in enumerate(found, start=1) if item[1]["TrainingJobStatus"] != "InProgress"]


def job_group(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the log group's last part and the job's name of a step that ran a job."""
    job = job_of(step)
    return (JOB_GROUPS[job[0]], job[1]) if job and "CacheHitResult" not in step else None


def pipeline_of(execution_arn: str) -> str:
    """Return the name of an execution's pipeline."""
    return execution_arn.partition(":pipeline/")[2].partition("/")[0]


def describe_job(target: Target, step: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer of the service about a step's job."""
    job = job_of(step)
    if job is None:
        return None
    resource, client = BY_METADATA[job[0]].resource, target.client("sagemaker")
    operation = {"HyperParameterTuningJob": "describe_hyper_parameter_tuning_job"}.get(
        resource, f"describe_{resource.removesuffix('Job').lower()}_job"
    )
    with control.service_errors(f"describe job {job[1]!r}"):
        answer: dict[str, Any] = getattr(client, operation)(**{f"{resource}Name": job[1]})
    return answer


def users_places(target: Target, pipeline_name: str, step: Mapping[str, Any]) -> dict[str, str]:
    """Return what a person calls the folders that a step's job sees: the data's own folder, else where S3 has them."""
    with suppress(PipelineError):
        job = describe_job(target, step) or {}
        inputs = [each["S3Input"] for each in job.get("ProcessingInputs", []) if "S3Input" in each]
        uris = {each["LocalPath"]: each["S3Uri"] for each in inputs if "LocalPath" in each}
        for channel in job.get("InputDataConfig", []):
            uris[f"{CHANNELS}/{channel['ChannelName']}"] = (
                channel["DataSource"].get("S3DataSource", {}).get("S3Uri", "")
            )
        last = last_data(target, pipeline_name)
        return {path: last.get(uri) or target.where(uri) for path, uri in uris.items() if uri}
    return {}


def last_data(target: Target, pipeline_name: str) -> dict[str, str]:
    """Return the URI of the data that a pipeline used last, with the name that the user gave them."""
    memory = target.placement.uri(pipeline_name, "data", "source.json")
    with suppress(PipelineError, ValueError, KeyError):
        if target.holds(memory):
            content = json.loads(target.read(memory))
            return {content["uri"]: content["source"]}
    return {}
