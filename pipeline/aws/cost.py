"""What a run and the endpoint cost, estimated from the prices of pipeline.yaml. An estimate, not a bill.

Jobs are billed by the second of each instance. What an execution took, here or on AWS, is the best guess for the next;
where nothing was measured, the limits of pipeline.yaml say what it can cost at most. Left out: storage volumes,
requests, data transfer, taxes, and what spot instances save.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.aws.lookup import answer
from pipeline.aws.stack import Client
from pipeline.config.config import Config, PricesConfig
from pipeline.errors import UsageError
from pipeline.suggestion import did_you_mean

HOURS_PER_MONTH = 730
MEASURED, LIMIT = "measured", "limit"
EXECUTIONS_LOOKED_AT = 10


@dataclass(frozen=True)
class StepCost:
    """One step: instance_seconds over all its jobs and instances, as measured or at most."""

    step: str
    instance_type: str
    instance_seconds: float
    basis: str
    amount: float


@dataclass(frozen=True)
class RunCost:
    """One execution."""

    steps: tuple[StepCost, ...]
    currency: str
    prices_of: str

    @property
    def total(self) -> float:
        """Of all steps."""
        return sum(step.amount for step in self.steps)

    @property
    def is_limit(self) -> bool:
        """Whether any step is counted by its limit."""
        return any(step.basis == LIMIT for step in self.steps)


@dataclass(frozen=True)
class EndpointCost:
    """The endpoint, left on: amounts per hour and month, from the fewest instances to the most."""

    instance_type: str
    min_instances: int
    max_instances: int
    per_hour: float
    per_month: float
    per_month_at_most: float
    currency: str
    prices_of: str
    is_serverless: bool


def run_cost(config: Config, measured: Mapping[str, float] | None = None) -> RunCost:
    """One execution; `measured` holds the instance-seconds of the steps of an earlier one (see `billed_seconds`).

    Raises:
        UsageError: the price of an instance type is missing.
    """
    known = measured or {}
    steps = []
    for step, (instance_type, limit_seconds) in limits(config).items():
        seconds = known.get(step, limit_seconds)
        amount = seconds / 3600 * per_hour(config.prices, instance_type)
        steps.append(StepCost(step, instance_type, seconds, MEASURED if step in known else LIMIT, amount))
    return RunCost(tuple(steps), config.prices.currency, config.prices.date)


def limits(config: Config) -> dict[str, tuple[str, float]]:
    """Instance type and most instance-seconds of each step that is billed."""
    data, tuning, training, evaluation = config.data, config.tuning, config.training, config.evaluation
    return {
        "PrepareData": (data.instance_type, data.instance_count * data.max_runtime_seconds),
        "TuneHyperparameters": (tuning.instance_type, tuning.max_jobs * tuning.max_runtime_seconds),
        "TrainWithDebugger": (training.instance_type, training.instance_count * training.max_runtime_seconds),
        "EvaluateModel": (evaluation.instance_type, evaluation.max_runtime_seconds),
    }


def endpoint_cost(config: Config) -> EndpointCost:
    """The endpoint of pipeline.yaml, left on for a month of 730 hours.

    Raises:
        UsageError: the price of its instance type is missing.
    """
    deploy, prices = config.deploy, config.prices
    fewest = most = deploy.instance_count
    if deploy.autoscaling.enabled:
        fewest, most = deploy.autoscaling.min_instances, deploy.autoscaling.max_instances
    if deploy.serverless.enabled:
        fewest = most = 0
    price = 0.0 if deploy.serverless.enabled else per_hour(prices, deploy.instance_type)
    return EndpointCost(
        instance_type=deploy.instance_type,
        min_instances=fewest,
        max_instances=most,
        per_hour=fewest * price,
        per_month=fewest * price * HOURS_PER_MONTH,
        per_month_at_most=most * price * HOURS_PER_MONTH,
        currency=prices.currency,
        prices_of=prices.date,
        is_serverless=deploy.serverless.enabled,
    )


def per_hour(prices: PricesConfig, instance_type: str) -> float:
    """The price of an instance-hour.

    Raises:
        UsageError: the table does not have it.
    """
    try:
        return prices.per_hour[instance_type]
    except KeyError:
        hint = did_you_mean(instance_type, prices.per_hour)
        raise UsageError(f"pipeline.yaml: prices.per_hour has no price for {instance_type}; add it.{hint}") from None


def lines(run: RunCost, endpoint: EndpointCost, measured: "Measured", *, on_this_machine: bool = False) -> list[str]:
    """Both estimates as a person reads them."""
    rows = [
        f"  {step.step:<20} {step.instance_type:<15} {duration(step.instance_seconds):>10} {step.amount:10.2f}"
        + (" at most" if step.basis == LIMIT else "")
        for step in run.steps
    ]
    found = [
        f"An estimate, not a bill: prices of {run.prices_of} in {run.currency}, on demand, from pipeline.yaml.",
        "That table is a starting point: check it against AWS's price pages and edit it.",
        *source(measured, on_this_machine),
        "One run:",
        *rows,
        f"  {'total':<20} {'':<15} {'':>10} {run.total:10.2f}" + (" at most" if run.is_limit else ""),
        standing(endpoint),
    ]
    if run.is_limit:
        found.append("At most: such a step has not been measured, so its max_runtime_seconds is counted in full.")
    return found


def source(measured: "Measured", on_this_machine: bool) -> list[str]:
    """Where the durations come from."""
    if not measured.executions:
        return []
    which = f"execution {' and '.join(arn.rpartition('/')[2] for arn in measured.executions)}"
    if on_this_machine:
        return [f"Durations of the local run, {which}: this machine is faster or slower than those instances."]
    return [f"Durations as billed in {which}."]


def standing(endpoint: EndpointCost) -> str:
    """What the endpoint costs, in a line."""
    if endpoint.is_serverless:
        return "The endpoint is serverless: it costs by use, and nothing while it is idle."
    count = str(endpoint.min_instances)
    month = f"{endpoint.per_month:.2f}"
    if endpoint.max_instances != endpoint.min_instances:
        count, month = f"{count} to {endpoint.max_instances}", f"{month} to {endpoint.per_month_at_most:.2f}"
    return f"The endpoint, left on ({count} x {endpoint.instance_type}): {month} a month."


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"


@dataclass(frozen=True)
class Measured:
    """Instance-seconds by step, and the executions that they are of, newest first."""

    seconds: dict[str, float]
    executions: tuple[str, ...]


def measured(client: Client, pipeline_name: str, steps: Iterable[str]) -> Measured:
    """What the steps took when they last ran: a step that the newest execution took from the cache, in an older one."""
    seconds: dict[str, float] = {}
    used = []
    for arn in newest_executions(client("sagemaker"), pipeline_name):
        missing = set(steps) - seconds.keys()
        if not missing:
            break
        found = {step: taken for step, taken in billed_seconds(client, arn).items() if step in missing}
        seconds |= found
        used += [arn] if found else []
    return Measured(seconds, tuple(used))


def newest_executions(sagemaker: Any, pipeline_name: str) -> list[str]:
    """ARNs, newest first; none before there is a pipeline."""
    request = {"PipelineName": pipeline_name, "SortBy": "CreationTime", "SortOrder": "Descending"}
    found = answer(sagemaker.list_pipeline_executions, **request, MaxResults=EXECUTIONS_LOOKED_AT)
    return [summary["PipelineExecutionArn"] for summary in (found or {}).get("PipelineExecutionSummaries", [])]


def billed_seconds(client: Client, execution_arn: str) -> dict[str, float]:
    """Instance-seconds of each step of an execution that ran jobs; steps from the cache or without an end are left out.

    Works the same on both targets, by ListPipelineExecutionSteps and the jobs' descriptions.
    """
    sagemaker = client("sagemaker")
    pages = sagemaker.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=execution_arn)
    found: dict[str, float] = {}
    for step in (step for page in pages for step in page["PipelineExecutionSteps"]):
        metadata = step.get("Metadata", {})
        kind = next((kind for kind in JOBS if kind in metadata), None)
        if kind is None or step.get("StepStatus") != "Succeeded" or "CacheHitResult" in step:
            continue
        seconds = JOBS[kind](sagemaker, str(metadata[kind]["Arn"]).rpartition("/")[2])
        if seconds is not None:
            found[step["StepName"]] = seconds
    return found


def processing_seconds(sagemaker: Any, name: str) -> float | None:
    """Of a processing job."""
    job = sagemaker.describe_processing_job(ProcessingJobName=name)
    seconds = between(job.get("ProcessingStartTime"), job.get("ProcessingEndTime"))
    instances = job["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
    return None if seconds is None else seconds * instances


def training_seconds(sagemaker: Any, name: str) -> float | None:
    """Of a training job; spot instances are billed for less than the time they take."""
    job = sagemaker.describe_training_job(TrainingJobName=name)
    seconds = job.get("BillableTimeInSeconds", between(job.get("TrainingStartTime"), job.get("TrainingEndTime")))
    return None if seconds is None else float(seconds) * job["ResourceConfig"]["InstanceCount"]


def tuning_seconds(sagemaker: Any, name: str) -> float | None:
    """Of all trials of a search."""
    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    trials = [
        trial for page in pages.paginate(HyperParameterTuningJobName=name) for trial in page["TrainingJobSummaries"]
    ]
    measured = [between(trial.get("TrainingStartTime"), trial.get("TrainingEndTime")) for trial in trials]
    return sum(seconds for seconds in measured if seconds is not None) if trials else None


def between(start: Any, end: Any) -> float | None:
    """Seconds between two times, if both are known."""
    return float((end - start).total_seconds()) if start and end else None


JOBS = {"ProcessingJob": processing_seconds, "TrainingJob": training_seconds, "TuningJob": tuning_seconds}
