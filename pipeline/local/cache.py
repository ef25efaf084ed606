"""The step cache: a step whose code, arguments and input bytes are unchanged is not run again.

A key is made of the members that SageMaker's own key is made of ("Caching pipeline steps" in the guide): nothing about
instances, outputs or roles. Unlike the service, the bytes behind every S3 URI count rather than the URI: a data set
that was changed in place is a miss, a repeated upload of the same bytes is not. A hit also needs the outputs of the
earlier run to be still there, untouched.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.local.functions import code_digest, function_named
from pipeline.local.runtime import Runtime, StepCall, StepResult, now
from pipeline.local.state import Document

KEY_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "Processing": ("AppSpecification", "Environment", "ProcessingInputs"),
    "Training": (
        "AlgorithmSpecification",
        "CheckpointConfig",
        "DebugHookConfig",
        "DebugRuleConfigurations",
        "Environment",
        "HyperParameters",
        "InputDataConfig",
    ),
    "Tuning": ("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
    "Transform": ("DataProcessing", "Environment", "ModelName", "TransformInput"),
    "Lambda": (),
}
TRIAL_MEMBERS = (
    "AlgorithmSpecification",
    "HyperParameterRanges",
    "InputDataConfig",
    "StaticHyperParameters",
    "TuningObjective",
    "Environment",
)
UNIT_SECONDS = {"Y": 31536000, "W": 604800, "D": 86400, "H": 3600, "S": 1}


def cache_key(call: StepCall, pipeline_name: str, runtime: Runtime) -> str | None:
    """The key of a step; None when its CacheConfig does not ask for caching."""
    step_type = call.definition["Type"]
    config = call.definition.get("CacheConfig") or {}
    if not config.get("Enabled") or step_type not in KEY_MEMBERS:
        return None
    relevant = KEY_DOCUMENTS.get(step_type, plain_document)(call, runtime)
    content = json.dumps([pipeline_name, call.name, step_type, with_digests(relevant, runtime)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def plain_document(call: StepCall, runtime: Runtime) -> Document:
    """The members that count."""
    return {name: call.arguments.get(name) for name in KEY_MEMBERS[call.definition["Type"]]}


def tuning_document(call: StepCall, runtime: Runtime) -> Document:
    """The search, and of its training jobs what makes them what they are."""
    template = call.arguments.get("TrainingJobDefinition", {})
    return {**plain_document(call, runtime), "TrainingJobDefinition": {n: template.get(n) for n in TRIAL_MEMBERS}}


def lambda_document(call: StepCall, runtime: Runtime) -> Document:
    """The event and the function's code."""
    function = function_named(runtime.state, call.definition["FunctionArn"])
    return {"Event": call.arguments, "Code": code_digest(function), "Handler": function["Handler"]}


KEY_DOCUMENTS = {"Tuning": tuning_document, "Lambda": lambda_document}


def with_digests(value: Any, runtime: Runtime) -> Any:
    """A JSON value in which each S3 URI that holds something is replaced by the digest of what it holds."""
    if isinstance(value, dict):
        return {name: with_digests(member, runtime) for name, member in value.items()}
    if isinstance(value, list):
        return [with_digests(member, runtime) for member in value]
    if isinstance(value, str) and re.fullmatch(r"s3://[^/\s]+/\S+", value) and runtime.storage.exists(value):
        return f"sha256:{runtime.storage.digest(value)}"
    return value


def remembered(key: str, call: StepCall, runtime: Runtime) -> tuple[StepResult, str] | None:
    """The result of an equal step that is young enough, and the execution that it ran in."""
    document = runtime.state.cached(key)
    if document is None:
        return None
    expires = call.definition["CacheConfig"].get("ExpireAfter")
    if expires and now() - document["created"] > seconds(expires):
        return None
    if any(runtime.storage.digest(uri) != digest for uri, digest in document["outputs"].items()):
        return None
    result = StepResult(document["properties"], document["metadata"], list(document["outputs"]), reused=True)
    return result, document["execution"]


def remember(key: str, result: StepResult, execution_arn: str, runtime: Runtime) -> None:
    """Keep a finished step's result under its key."""
    document = {
        "properties": result.properties,
        "metadata": result.metadata,
        "outputs": {uri: runtime.storage.digest(uri) for uri in result.outputs},
        "execution": execution_arn,
    }
    runtime.state.put_cached(key, document)


def seconds(duration: str) -> float:
    """An ISO 8601 duration (P30D, PT2H, P1DT12H), and the service's documented short forms 30d and T16m.

    Raises:
        ValueError: it is neither.
    """
    text = duration.upper()
    match = re.fullmatch(r"P?((?:\d+[YMWD])*)(?:T((?:\d+[HMS])+))?", text)
    if not match or not any(match.groups()):
        raise ValueError(f"{duration!r} is not an ISO 8601 duration such as P30D or PT2H.")
    days = re.findall(r"(\d+)([YMWD])", match[1] or "")
    times = re.findall(r"(\d+)([HMS])", match[2] or "")
    long = sum(int(n) * (2592000 if unit == "M" else UNIT_SECONDS[unit]) for n, unit in days)
    return long + sum(int(n) * (60 if unit == "M" else UNIT_SECONDS[unit]) for n, unit in times)
