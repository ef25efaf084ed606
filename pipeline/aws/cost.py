"""What a run and the endpoint cost: instance-hours, and their prices as AWS lists them. An estimate, not a bill.

Jobs are billed by the second of each instance: what a step took in an earlier execution, here or on AWS, else at most
the limits in the compiled definition. Left out: storage, requests, data transfer, taxes, and what spot instances save.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.aws.requests import describe, list_all
from pipeline.aws.stack import Client
from pipeline.config.config import Config
from pipeline.definition.steps import Definition

HOURS_PER_MONTH = 730
USES = {"Processing": "Processing", "Training": "Train", "Tuning": "Train", "Transform": "Tsform", "Endpoint": "Host"}
USAGE = re.compile(r"(?:^|-)(Processing|Train|Tsform|Host):ml\.")  # of `USE1-Train:ml.m5.xlarge`, as on bills
Prices = dict[tuple[str, str], float]  # USD of an instance-hour, by use and instance type


class Instances(NamedTuple):
    """What a step runs on: so many instances `at_once`, for most_seconds over all jobs and instances."""

    step: str
    step_type: str
    instance_type: str
    at_once: int
    most_seconds: float
    is_spot: bool


def instances(definition: dict[str, Any]) -> Iterator[Instances]:
    """Yield the instances of each step of a compiled definition that runs jobs, where parameters have defaults."""
    read = Definition(definition)
    values = {f"Parameters.{name}": parameter.get("DefaultValue") for name, parameter in read.parameters.items()}

    def value(written: Any) -> Any:
        return values.get(str(written.get("Get"))) if isinstance(written, dict) else written

    for step in read.steps.values():
        job = step.arguments.get("TrainingJobDefinition", step.arguments)
        if cluster := cluster_of(job):
            search = step.arguments.get("HyperParameterTuningJobConfig", {}).get("ResourceLimits", {})
            jobs, parallel = (int(value(search.get(f"Max{name}TrainingJobs", 1))) for name in ("NumberOf", "Parallel"))
            longest = 86_400 * (5 if step.type == "Transform" else 1)  # where the request names no limit
            seconds = float(value(job.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", longest)))
            count, instance_type = int(value(cluster.get("InstanceCount", 1))), str(value(cluster["InstanceType"]))
            is_spot = bool(job.get("EnableManagedSpotTraining"))
            yield Instances(step.name, step.type, instance_type, parallel * count, jobs * count * seconds, is_spot)


def cluster_of(job: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return where a job's request or description has its instance type and count; None if it is no job."""
    processing = job.get("ProcessingResources", {}).get("ClusterConfig")
    return processing or job.get("ResourceConfig") or job.get("TransformResources")


def endpoint_instances(config: Config) -> tuple[int, int]:
    """Return the fewest and the most instances of the endpoint of pipeline.yaml; a serverless one has none."""
    scaling, count = config.deploy.autoscaling, config.deploy.instance_count
    if config.deploy.serverless.enabled:
        return 0, 0
    return (scaling.min_instances, scaling.max_instances) if scaling.enabled else (count, count)


def list_prices(client: Callable[..., Any], region: str, instance_types: Collection[str]) -> Prices:
    """Return AWS's prices on demand; what its list has no price for, or more than one, is left out."""
    pricing = client("pricing", region_name="us-east-1")  # one of the few that have the API; its prices are of any
    found = dict[tuple[str, str], set[float]]()
    for instance_type in sorted(set(instance_types)):
        wanted = {"regionCode": region, "instanceName": instance_type}
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        for text in list_all(pricing, "get_products", ServiceCode="AmazonSageMaker", Filters=filters):
            product = json.loads(str(text))
            if use := USAGE.search(product["product"]["attributes"].get("usagetype", "")):
                offers = product["terms"].get("OnDemand", {}).values()
                prices = [price["pricePerUnit"] for offer in offers for price in offer["priceDimensions"].values()]
                found.setdefault((use[1], instance_type), set()).update(float(p["USD"]) for p in prices if "USD" in p)
    return {key: prices.pop() for key, prices in found.items() if len(prices) == 1}


def measure(client: Client, pipeline_name: str, steps: Collection[str]) -> tuple[dict[str, float], list[str]]:
    """Return instance-seconds by step, each of the newest execution that ran it, and these executions' ARNs."""
    seconds, executions = dict[str, float](), list[str]()
    request = {"PipelineName": pipeline_name, "SortBy": "CreationTime", "SortOrder": "Descending"}
    newest = describe(client("sagemaker").list_pipeline_executions, **request, MaxResults=10) or {}
    for arn in (summary["PipelineExecutionArn"] for summary in newest.get("PipelineExecutionSummaries", [])):
        if missing := set(steps) - seconds.keys():
            found = {step: taken for step, taken in billed_seconds(client("sagemaker"), arn) if step in missing}
            seconds, executions = seconds | found, executions + ([arn] if found else [])
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
        request = {"HyperParameterTuningJobName": name}
        trials = list_all(sagemaker, "list_training_jobs_for_hyper_parameter_tuning_job", **request)
        return sum(length_seconds(trial, "Training") for trial in trials)
    job = getattr(sagemaker, f"describe_{kind.lower()}_job")(**{f"{kind}JobName": name})
    seconds: float = job.get("BillableTimeInSeconds", length_seconds(job, kind))  # less than the length on spot
    return seconds * int((cluster_of(job) or {}).get("InstanceCount", 1))


def length_seconds(job: Mapping[str, Any], kind: str) -> float:
    """Return the seconds from a job's start to its end; 0 before its end."""
    start, end = job.get(f"{kind}StartTime"), job.get(f"{kind}EndTime")
    return float((end - start).total_seconds()) if start and end else 0.0
