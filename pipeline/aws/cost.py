"""What a run and the endpoint cost, estimated from the prices of pipeline.yaml. An estimate, not a bill.

Jobs are billed by the second of each instance. What a step took in an earlier execution, here or on AWS, is the best
guess for the next; where nothing was measured, the limits in the compiled definition say what it can cost at most. Left
out: storage volumes, requests, data transfer, taxes, and what spot instances save.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.aws.requests import describe, list_all
from pipeline.aws.stack import Client
from pipeline.config.config import Config
from pipeline.definition.steps import Definition
from pipeline.errors import UsageError
from pipeline.suggestion import did_you_mean

HOURS_PER_MONTH = 730
DAY_SECONDS = 86_400  # what a job may take where its request names no limit; a transform job five days


class StepCost(NamedTuple):
    """One step: instance_seconds over all its jobs and instances, basis "measured" or "limit"."""

    step: str
    instance_type: str
    instance_seconds: float
    basis: str
    amount: float


class EndpointCost(NamedTuple):
    """The endpoint, left on, from the fewest instances to the most; a serverless one has none."""

    min_instances: int
    max_instances: int
    per_month: float
    per_month_at_most: float


def run_cost(config: Config, definition: dict[str, Any], measured: Mapping[str, float] | None = None) -> list[StepCost]:
    """Estimate each step of a compiled definition that runs jobs; `measured` holds instance-seconds by step."""
    known, costs = measured or {}, []
    for step, (instance_type, limit_seconds) in limits(definition).items():
        seconds = known.get(step, limit_seconds)
        amount = seconds / 3600 * price_per_hour(config, instance_type)
        costs.append(StepCost(step, instance_type, seconds, "measured" if step in known else "limit", amount))
    return costs


def limits(definition: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Return instance type and most instance-seconds of each step that runs jobs, where parameters have defaults."""
    read, found = Definition(definition), {}
    values = {f"Parameters.{name}": parameter.get("DefaultValue") for name, parameter in read.parameters.items()}

    def value(written: Any) -> Any:
        return values.get(str(written.get("Get"))) if isinstance(written, dict) else written

    for step in read.steps.values():
        job = step.arguments.get("TrainingJobDefinition", step.arguments)
        if cluster := cluster_of(job):
            search = step.arguments.get("HyperParameterTuningJobConfig", {}).get("ResourceLimits", {})
            longest = DAY_SECONDS * (5 if step.type == "Transform" else 1)
            seconds = value(job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", longest))
            jobs = value(search.get("MaxNumberOfTrainingJobs", 1))
            count = jobs * value(cluster.get("InstanceCount", 1))
            found[step.name] = (str(value(cluster["InstanceType"])), float(count * seconds))
    return found


def cluster_of(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return where a job's request or description has its instance type and count; None if it is no job."""
    processing = job.get("ProcessingResources", {}).get("ClusterConfig")
    return processing or job.get("ResourceConfig") or job.get("TransformResources")


def endpoint_cost(config: Config) -> EndpointCost:
    """Estimate the endpoint of pipeline.yaml, left on for a month of 730 hours."""
    deploy, scaling = config.deploy, config.deploy.autoscaling
    if deploy.serverless.enabled:
        return EndpointCost(0, 0, 0.0, 0.0)
    fewest, most = deploy.instance_count, deploy.instance_count
    if scaling.enabled:
        fewest, most = scaling.min_instances, scaling.max_instances
    month = price_per_hour(config, deploy.instance_type) * HOURS_PER_MONTH
    return EndpointCost(fewest, most, fewest * month, most * month)


def price_per_hour(config: Config, instance_type: str) -> float:
    """Return the price of an instance-hour; a UsageError if the table does not have it."""
    prices: Mapping[str, float] = config.prices.per_hour
    if instance_type not in prices:
        hint = did_you_mean(instance_type, prices)
        raise UsageError(f"pipeline.yaml: prices.per_hour has no price for {instance_type}; add it.{hint}")
    return prices[instance_type]


def measure(client: Client, pipeline_name: str, steps: Collection[str]) -> tuple[dict[str, float], list[str]]:
    """Return instance-seconds by step, each of the newest execution that ran it, and these executions' ARNs."""
    seconds: dict[str, float] = {}
    executions = []
    request = {"PipelineName": pipeline_name, "SortBy": "CreationTime", "SortOrder": "Descending"}
    newest = describe(client("sagemaker").list_pipeline_executions, **request, MaxResults=10) or {}
    for arn in (summary["PipelineExecutionArn"] for summary in newest.get("PipelineExecutionSummaries", [])):
        if missing := set(steps) - seconds.keys():
            found = {step: taken for step, taken in billed_seconds(client("sagemaker"), arn) if step in missing}
            seconds |= found
            executions += [arn] if found else []
    return seconds, executions


def billed_seconds(sagemaker: Any, execution_arn: str) -> Iterator[tuple[str, float]]:
    """Yield each step of an execution that ran jobs, with its instance-seconds; steps from the cache ran none."""
    for step in list_all(sagemaker, "list_pipeline_execution_steps", PipelineExecutionArn=execution_arn):
        if step.get("StepStatus") == "Succeeded" and "CacheHitResult" not in step:
            for member, metadata in step.get("Metadata", {}).items():
                name = str(metadata.get("Arn")).rpartition("/")[2]
                if member.endswith("Job") and (seconds := job_seconds(sagemaker, member.removesuffix("Job"), name)):
                    yield step["StepName"], seconds


def job_seconds(sagemaker: Any, kind: str, name: str) -> float:
    """Return the instance-seconds of a Processing, Training, Transform or Tuning job; 0 if they are not known."""
    if kind == "Tuning":
        operation = "list_training_jobs_for_hyper_parameter_tuning_job"
        trials = list_all(sagemaker, operation, HyperParameterTuningJobName=name)
        return sum(length_seconds(trial, "Training") for trial in trials)
    job = getattr(sagemaker, f"describe_{kind.lower()}_job")(**{f"{kind}JobName": name})
    seconds: float = job.get("BillableTimeInSeconds", length_seconds(job, kind))  # less than the length on spot
    return seconds * int((cluster_of(job) or {}).get("InstanceCount", 1))


def length_seconds(job: Mapping[str, Any], kind: str) -> float:
    """Return the seconds from a job's start to its end; 0 before its end."""
    start, end = job.get(f"{kind}StartTime"), job.get(f"{kind}EndTime")
    return float((end - start).total_seconds()) if start and end else 0.0
