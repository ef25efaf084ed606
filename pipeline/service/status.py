"""One document about an execution: what `--json` prints and the final table shows."""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.definition.steps import Definition, Step
from pipeline.errors import PipelineError, ServiceError
from pipeline.service import executions
from pipeline.service.executions import JOB_GROUPS, describe_job, job_of, source_of
from pipeline.service.models import endpoint, model_package
from pipeline.service.reports import debug_report, search_job, tuning_job
from pipeline.service.targets import Target

PARSERS: dict[str, Callable[[str], Any]] = {
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: text.lower() == "true",
    "String": str,
}


def status(target: Target, arn: str) -> dict[str, Any]:
    execution, given = executions.describe(target, arn), executions.parameters_of(target, arn)
    definition, steps = Definition(executions.definition_of(target, arn)), executions.steps(target, arn)
    evaluation_uri, search = output_of(target, steps, "evaluation"), search_job(steps)
    debugger = debug_report(target, steps)
    report_uri = f"{evaluation_uri}/report.html" if evaluation_uri else None
    example = f"{evaluation_uri}/example.png" if evaluation_uri else None
    best = tuning_job(target, search).get("BestTrainingJob", {}) if search else {}
    types = {name: parameter.get("Type", "String") for name, parameter in definition.parameters.items()}
    return {
        "execution_arn": arn,
        "status": execution["PipelineExecutionStatus"],
        "failure_reason": execution.get("FailureReason"),
        "parameters": {name: PARSERS[types.get(name, "String")](text) for name, text in given.items()},
        "steps": [step_row(target, arn, step, definition.steps.get(step["StepName"])) for step in steps],
        "metrics": metrics(target, evaluation_uri),
        "best_hyperparameters": dict(best.get("TunedHyperParameters", {})),
        "rules": debugger["rules"],
        **registered(target, steps),
        "endpoint": deployed(target, steps),
        "example_image": target.where(example) if example and target.reports and target.holds(example) else None,
        "reports": {
            "evaluation": target.where(report_uri) if report_uri and target.holds(report_uri) else None,
            "debugger": debugger["place"],
            "profiler": debugger["place"],
        },
    }


def step_row(target: Target, arn: str, step: Mapping[str, Any], declared: Step | None) -> dict[str, Any]:
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


def outputs_of(step: Mapping[str, Any]) -> dict[str, str]:
    answered = step.get("Metadata", {}).get("Lambda", {}).get("OutputParameters", [])
    return {item["Name"]: item["Value"] for item in answered}


def log_of(target: Target, arn: str, step: Mapping[str, Any]) -> str | None:
    """Return where the step's log is; of a search, its best trial's."""
    if "Lambda" in step.get("Metadata", {}):
        return target.function_log(arn, step["StepName"])
    job = job_of(step)
    if job is None:
        return None
    member, name = job
    if member == "TuningJob":
        name = tuning_job(target, name).get("BestTrainingJob", {}).get("TrainingJobName")
    return target.log_of(JOB_GROUPS[member], name) if name else None


def output_of(target: Target, steps: list[dict[str, Any]], name: str) -> str | None:
    """Return the S3 URI of the last Processing output of that name."""
    for step in reversed(steps):
        if "ProcessingJob" in step.get("Metadata", {}) and step["StepStatus"] == "Succeeded":
            job = describe_job(target, step) or {}
            for output in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
                if output["OutputName"] == name:
                    return str(output["S3Output"]["S3Uri"])
    return None


def metrics(target: Target, evaluation_uri: str | None) -> dict[str, float]:
    """Return single numbers of evaluation.json, as test_<metric>; of the accuracy the interval and images as well."""
    content: Any = None
    with contextlib.suppress(PipelineError, ValueError):
        content = json.loads(target.read(f"{evaluation_uri}/evaluation.json")) if evaluation_uri else None
    found = content.get("multiclass_classification_metrics", {}) if isinstance(content, dict) else {}
    values = {name: metric.get("value") for name, metric in found.items() if isinstance(metric, dict)}
    accuracy = found.get("accuracy", {})
    values |= {f"accuracy_{name}": accuracy.get(name) for name in ("lower_bound", "upper_bound", "images")}
    return {f"test_{name}": value for name, value in values.items() if isinstance(value, int | float)}


def details(target: Target, execution_arn: str) -> dict[str, Any]:
    """Return the seconds from an execution's first step to its last, and on this machine its test accuracy."""
    steps = executions.steps(target, execution_arn)
    began, ended = [[step[key] for step in steps if key in step] for key in ("StartTime", "EndTime")]
    measured = metrics(target, output_of(target, steps, "evaluation")) if target.name == "local" else {}
    return {
        "seconds": round((max(ended) - min(began)).total_seconds(), 1) if began and ended else None,
        "test_accuracy": measured.get("test_accuracy"),
    }


def registered(target: Target, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the version that was registered, and its approval now; None when it has been deleted since."""
    arns = [step["Metadata"]["RegisterModel"]["Arn"] for step in steps if "RegisterModel" in step.get("Metadata", {})]
    approval = None
    with contextlib.suppress(ServiceError):
        approval = model_package(target, arns[-1])["ModelApprovalStatus"] if arns else None
    return {"model_package_arn": arns[-1] if arns else None, "model_approval_status": approval}


def deployed(target: Target, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the endpoint that a Lambda step named, as it is now."""
    names = [outputs_of(step)["endpoint_name"] for step in steps if "endpoint_name" in outputs_of(step)]
    found = endpoint(target, names[-1]) if names else None
    return target.endpoint_view(names[-1], found["EndpointStatus"]) if found else None
