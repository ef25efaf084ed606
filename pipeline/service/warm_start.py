"""Which search a new one begins with (tuning.warm_start): the newest one of this pipeline that has been completed.

A definition cannot find that out, so `run`, `start` and `upsert` look when they compile it; the name becomes the
default of the runtime parameter WarmStartParent. A schedule starts the definition as it was last compiled: its searches
begin with the same parent until one of these commands is used again. The type is TransferLearning, since data and code
may have changed in between. What the service would refuse (automatic-model-tuning-warm-start in the guide) is not
chosen: another objective, or another number of hyperparameters.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.service import control
from pipeline.service.targets import Target

EXECUTIONS_LOOKED_AT = 20  # the newest ones
OBJECTIVE = ("MetricName", "Type")


def parent_for(target: Target, name: str, definition: str) -> str | None:
    """The tuning job that the definition's search may begin with; None where there is none.

    Args:
        target: where to look.
        name: of the pipeline.
        definition: compiled; its first Tuning step is meant.

    Raises:
        ServiceError: the service refuses to tell.
    """
    steps = json.loads(definition)["Steps"]
    wanted = next((step["Arguments"] for step in steps if step["Type"] == "Tuning"), None)
    if wanted is None:
        return None
    client = target.client("sagemaker")
    for job_name in searches(target, name):
        with control.service_errors(f"read tuning job {job_name!r}"):
            found = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=job_name)
        if found["HyperParameterTuningJobStatus"] == "Completed" and fits(found, wanted):
            return job_name
    return None


def searches(target: Target, name: str) -> Iterator[str]:
    """The tuning jobs of the newest executions whose step succeeded, the newest first."""
    client, summaries = target.client("sagemaker"), []
    with control.service_errors(f"list executions of pipeline {name!r}"):
        if control.existing(client, name):
            listed = client.list_pipeline_executions(
                PipelineName=name, SortBy="CreationTime", SortOrder="Descending", MaxResults=EXECUTIONS_LOOKED_AT
            )
            summaries = listed["PipelineExecutionSummaries"]
    for summary in summaries:
        for step in control.steps(target, summary["PipelineExecutionArn"]):
            job = step.get("Metadata", {}).get("TuningJob")
            if job and step["StepStatus"] == "Succeeded":
                yield job["Arn"].rpartition("/")[2]


def fits(parent: Mapping[str, Any], request: Mapping[str, Any]) -> bool:
    """Whether the service accepts one search as the parent of another."""
    return objective(parent) == objective(request) and hyperparameters(parent) == hyperparameters(request)


def objective(search: Mapping[str, Any]) -> list[str]:
    """The metric and its direction."""
    found = search["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    return [found[key] for key in OBJECTIVE]


def hyperparameters(search: Mapping[str, Any]) -> int:
    """How many there are, static and searched; those that the service adds itself do not count."""
    ranges = search["HyperParameterTuningJobConfig"].get("ParameterRanges") or {}
    static = search["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    searched = {entry["Name"] for kind in ranges.values() for entry in kind or []}
    return len({name for name in {*static, *searched} if not name.startswith("_")})
