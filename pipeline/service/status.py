"""One document about an execution: what `--json` prints and the final table shows."""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.definition.step_types import BY_METADATA
from pipeline.definition.steps import Definition, Step
from pipeline.errors import PipelineError, ServiceError
from pipeline.service import control
from pipeline.service.debug_output import debug_report
from pipeline.service.targets import Target

JOB_GROUPS = {name: each.log_group for name, each in BY_METADATA.items() if each.log_group}
PARSERS: dict[str, Callable[[str], Any]] = {
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: text.lower() == "true",
    "String": str,
}
METRICS_ROOT = "multiclass_classification_metrics"


def status(target: Target, arn: str) -> dict[str, Any]:
    """The whole document."""
    client = target.client("sagemaker")
    execution = control.describe(target, arn)
    with control.service_errors(f"read the definition of {arn}"):
        answer = client.describe_pipeline_definition_for_execution(PipelineExecutionArn=arn)
        pages = client.get_paginator("list_pipeline_parameters_for_execution").paginate(PipelineExecutionArn=arn)
        given = [parameter for page in pages for parameter in page.get("PipelineParameters", [])]
    definition = Definition(json.loads(answer["PipelineDefinition"]))
    found = control.steps(target, arn)
    evaluation_uri = output_of(target, found, "evaluation")
    report_uri = f"{evaluation_uri}/report.html" if evaluation_uri else None
    debugger = debug_report(target, found)
    return {
        "execution_arn": arn,
        "status": execution["PipelineExecutionStatus"],
        "failure_reason": execution.get("FailureReason"),
        "parameters": {item["Name"]: typed(item["Value"], definition.parameters.get(item["Name"])) for item in given},
        "steps": [step_row(target, arn, step, definition.steps.get(step["StepName"])) for step in found],
        "metrics": metrics(target, evaluation_uri),
        "best_hyperparameters": best_hyperparameters(target, found),
        "rules": debugger["rules"],
        **registered(target, found),
        "endpoint": deployed(target, found),
        "example_image": target.example(f"{evaluation_uri}/example.png") if evaluation_uri else None,
        "reports": {
            "evaluation": target.where(report_uri) if report_uri and target.holds(report_uri) else None,
            "debugger": debugger["place"],
            "profiler": debugger["place"],
        },
    }


def typed(text: str, parameter: Mapping[str, Any] | None) -> Any:
    """A parameter's value in its declared type."""
    return PARSERS[(parameter or {}).get("Type", "String")](text)


def step_row(target: Target, arn: str, step: Mapping[str, Any], declared: Step | None) -> dict[str, Any]:
    """One step."""
    started, ended = step.get("StartTime"), step.get("EndTime")
    return {
        "name": step["StepName"],
        "type": declared.type if declared else "",
        "status": step["StepStatus"],
        "cache_hit": "CacheHitResult" in step,
        "source_execution": source_of(step),
        "started": started.isoformat() if started else None,
        "ended": ended.isoformat() if ended else None,
        "seconds": round((ended - started).total_seconds(), 3) if started and ended else None,
        "log": log_of(target, arn, step),
        "failure_reason": step.get("FailureReason"),
        "outcome": step.get("Metadata", {}).get("Condition", {}).get("Outcome"),
        "outputs": outputs_of(step),
    }


def source_of(step: Mapping[str, Any]) -> str | None:
    """The execution that the step's result is of, where it is another one."""
    given: Mapping[str, str] = step.get("CacheHitResult") or step.get("SelectiveExecutionResult") or {}
    return given.get("SourcePipelineExecutionArn")


def outputs_of(step: Mapping[str, Any]) -> dict[str, str]:
    """What a Lambda step answered."""
    answered = step.get("Metadata", {}).get("Lambda", {}).get("OutputParameters", [])
    return {item["Name"]: item["Value"] for item in answered}


def job_of(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Metadata member and name of a step's job."""
    for member in JOB_GROUPS:
        if job_arn := step.get("Metadata", {}).get(member, {}).get("Arn"):
            return member, job_arn.rpartition("/")[2]
    return None


def log_of(target: Target, arn: str, step: Mapping[str, Any]) -> str | None:
    """Where the step's log is; of a search, its best trial's."""
    if "Lambda" in step.get("Metadata", {}):
        return target.function_log(arn, step["StepName"])
    job = job_of(step)
    if job is None:
        return None
    member, name = job
    if member == "TuningJob":
        best = tuning_job(target, name).get("BestTrainingJob")
        if not best:
            return None
        name = best["TrainingJobName"]
    return target.log_of(JOB_GROUPS[member], name)


def tuning_job(target: Target, name: str) -> dict[str, Any]:
    """DescribeHyperParameterTuningJob; empty in the moment before the service knows the job."""
    with contextlib.suppress(ServiceError), control.service_errors(f"describe tuning job {name!r}"):
        answer: dict[str, Any] = target.client("sagemaker").describe_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name
        )
        return answer
    return {}


def best_hyperparameters(target: Target, steps: list[dict[str, Any]]) -> dict[str, str]:
    """The winner of the last search."""
    for step in reversed(steps):
        job = job_of(step)
        if job and job[0] == "TuningJob":
            best = tuning_job(target, job[1]).get("BestTrainingJob", {})
            return dict(best.get("TunedHyperParameters", {}))
    return {}


def output_of(target: Target, steps: list[dict[str, Any]], name: str) -> str | None:
    """The S3 URI of the last Processing output of that name."""
    for step in reversed(steps):
        job = job_of(step)
        if job and job[0] == "ProcessingJob" and step["StepStatus"] == "Succeeded":
            with control.service_errors(f"describe processing job {job[1]!r}"):
                answer = target.client("sagemaker").describe_processing_job(ProcessingJobName=job[1])
            for output in answer.get("ProcessingOutputConfig", {}).get("Outputs", []):
                if output["OutputName"] == name:
                    return str(output["S3Output"]["S3Uri"])
    return None


def metrics(target: Target, evaluation_uri: str | None) -> dict[str, float]:
    """Single numbers of evaluation.json, as test_<metric>; of the accuracy the interval and the images as well."""
    if evaluation_uri is None:
        return {}
    try:
        content = json.loads(target.read(f"{evaluation_uri}/evaluation.json"))
    except (PipelineError, ValueError):
        return {}
    found = content.get(METRICS_ROOT, {}) if isinstance(content, dict) else {}
    values = {name: metric.get("value") for name, metric in found.items() if isinstance(metric, dict)}
    accuracy = found.get("accuracy", {})
    values |= {f"accuracy_{name}": accuracy.get(name) for name in ("lower_bound", "upper_bound", "images")}
    return {f"test_{name}": value for name, value in values.items() if isinstance(value, int | float)}


def registered(target: Target, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """The version that was registered, and its approval now; None when it has been deleted since."""
    arns = [step["Metadata"]["RegisterModel"]["Arn"] for step in steps if "RegisterModel" in step.get("Metadata", {})]
    if not arns:
        return {"model_package_arn": None, "model_approval_status": None}
    approval = None
    with contextlib.suppress(ServiceError), control.service_errors(f"describe model package {arns[-1]}"):
        package = target.client("sagemaker").describe_model_package(ModelPackageName=arns[-1])
        approval = package["ModelApprovalStatus"]
    return {"model_package_arn": arns[-1], "model_approval_status": approval}


def deployed(target: Target, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The endpoint that a Lambda step named, as it is now."""
    names = [outputs_of(step)["endpoint_name"] for step in steps if "endpoint_name" in outputs_of(step)]
    found = control.endpoint(target, names[-1]) if names else None
    if found is None:
        return None
    return target.endpoint_view(names[-1], found["EndpointStatus"])
