"""One document about an execution: what `--json` prints and the final table shows."""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.compile.placement import INPUTS_STEP
from pipeline.definition.steps import Definition, Step
from pipeline.errors import PipelineError, ServiceError
from pipeline.service import executions
from pipeline.service.executions import JOB_GROUPS, describe_job, job_of, source_of
from pipeline.service.models import endpoint, model_package
from pipeline.service.reports import debug_report, search_job, tuning_job
from pipeline.service.targets import Target

METRICS = "multiclass_classification_metrics"  # in evaluation.json
CHECKS = ("CheckAccuracy", "CheckIsNew")
PARSERS: dict[str, Callable[[str], Any]] = {
    "Integer": int,
    "Float": float,
    "Boolean": lambda text: text.lower() == "true",
    "String": str,
}


def status(target: Target, arn: str) -> dict[str, Any]:
    execution = executions.describe(target, arn)
    definition, steps = Definition(executions.definition_of(target, arn)), executions.steps(target, arn)
    evaluation_uri, search = output_of(target, steps, "evaluation"), search_job(steps)
    debugger = debug_report(target, steps)
    report_uri = f"{evaluation_uri}/report.html" if evaluation_uri else None
    example = f"{evaluation_uri}/example.png" if evaluation_uri else None
    best = tuning_job(target, search).get("BestTrainingJob", {}) if search else {}
    evaluation = read_evaluation(target, evaluation_uri)
    known, is_in_service = known_version(steps, evaluation)
    model, parameters = registered(target, steps, known), executions.parameters_of(target, arn)
    serving = deployed(target, steps, parameters.get("EndpointName") if known else None)
    types = {name: parameter.get("Type", "String") for name, parameter in definition.parameters.items()}
    return {
        "execution_arn": arn,
        "status": execution["PipelineExecutionStatus"],
        "failure_reason": execution.get("FailureReason"),
        "parameters": {name: PARSERS[types.get(name, "String")](text) for name, text in parameters.items()},
        "steps": [step_row(target, arn, step, definition.steps.get(step["StepName"])) for step in steps],
        "metrics": metrics(evaluation),
        "comparison_warning": members(evaluation, "improvement").get("warning") or None,
        "best_hyperparameters": dict(best.get("TunedHyperParameters", {})),
        "rules": debugger["rules"],
        **model,
        "nothing_new": nothing_new(model, is_in_service=is_in_service) if known else None,
        "endpoint": serving,
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


def read_evaluation(target: Target, evaluation_uri: str | None) -> dict[str, Any]:
    """Return evaluation.json; empty if there is none, or none that can be read."""
    content: Any = None
    with contextlib.suppress(PipelineError, ValueError):
        content = json.loads(target.read(f"{evaluation_uri}/evaluation.json")) if evaluation_uri else None
    return content if isinstance(content, dict) else {}


def members(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object in somebody else's document; empty where there is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return single numbers of evaluation.json, as test_<metric>; of the accuracy the interval and images as well."""
    found = {name: each for name, each in members(evaluation, METRICS).items() if isinstance(each, dict)}
    values = {name: metric.get("value") for name, metric in found.items()}
    accuracy = found.get("accuracy", {})
    values |= {f"accuracy_{name}": accuracy.get(name) for name in ("lower_bound", "upper_bound", "images")}
    return {f"test_{name}": value for name, value in values.items() if isinstance(value, int | float)}


def details(target: Target, execution_arn: str) -> dict[str, Any]:
    """Return the seconds from an execution's first step to its last, and on this machine its test accuracy."""
    steps = executions.steps(target, execution_arn)
    own = [step for step in steps if "SelectiveExecutionResult" not in step]  # not those that another one lends
    began, ended = [[step[key] for step in own if key in step] for key in ("StartTime", "EndTime")]
    uri = output_of(target, steps, "evaluation") if target.name == "local" else None
    measured = metrics(read_evaluation(target, uri))
    return {
        "seconds": round((max(ended) - min(began)).total_seconds(), 1) if began and ended else None,
        "test_accuracy": measured.get("test_accuracy"),
        **{name: value for name, value in measured.items() if name.startswith("test_accuracy_")},
    }


def known_version(steps: list[dict[str, Any]], evaluation: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the ARN of the version that the model of an execution equals, if that is why CheckIsNew ended it.

    With it goes whether that version was in service when the execution began.
    """
    named = {step["StepName"]: step for step in steps}
    outcomes = [named.get(name, {}).get("Metadata", {}).get("Condition", {}).get("Outcome") for name in CHECKS]
    if outcomes != ["True", "False"]:
        return None, False
    found, model = outputs_of(named.get(INPUTS_STEP, {})), evaluation.get("model_sha256")
    arn = found.get("registered" if found.get("registered_sha256") == model else "approved")
    return arn, arn == found.get("champion")


def nothing_new(model: Mapping[str, str | None], *, is_in_service: bool) -> str:
    """Return the sentence of an execution whose model is registered already."""
    name, _, number = str(model["model_package_arn"]).partition("/")[2].partition("/")
    approval = model["model_approval_status"] or "deleted since"
    status = "" if approval == "Approved" else f" ({approval})"
    sentence = f"Nothing new: the model equals {name} version {number}{status}, so nothing was registered or deployed."
    remedy = f" It was not in service: `run_pipeline.py approve {number}` deploys it."
    return sentence + (remedy if approval == "Approved" and not is_in_service else "")


def registered(target: Target, steps: list[dict[str, Any]], known: str | None) -> dict[str, Any]:
    """Return the version that was registered, or was `known`, and its approval now; None if it was deleted since."""
    arns = (
        [known]
        if known
        else [step["Metadata"]["RegisterModel"]["Arn"] for step in steps if "RegisterModel" in step.get("Metadata", {})]
    )
    approval = None
    with contextlib.suppress(ServiceError):
        approval = model_package(target, arns[-1])["ModelApprovalStatus"] if arns else None
    return {"model_package_arn": arns[-1] if arns else None, "model_approval_status": approval}


def deployed(target: Target, steps: list[dict[str, Any]], known: str | None) -> dict[str, Any] | None:
    """Return the endpoint that a Lambda step named, or the `known` one, as it is now."""
    names = (
        [known]
        if known
        else [outputs_of(step)["endpoint_name"] for step in steps if "endpoint_name" in outputs_of(step)]
    )
    found = endpoint(target, names[-1]) if names else None
    return target.endpoint_view(names[-1], found["EndpointStatus"]) if found else None
