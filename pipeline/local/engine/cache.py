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

from pipeline.definition.runnable import duration_seconds
from pipeline.local.jobs.functions import code_digest, function_named
from pipeline.local.jobs.processing import input_uri, updated_uris
from pipeline.local.jobs.runtime import Runtime, StepCall, StepResult, now
from pipeline.local.store.state import Document

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
WRITTEN = ("CheckpointConfig", "DebugHookConfig", "UpdatedInputs")  # what their URIs hold is the job's own doing
TRIAL_MEMBERS = (
    "AlgorithmSpecification",
    "HyperParameterRanges",
    "InputDataConfig",
    "StaticHyperParameters",
    "TuningObjective",
    "Environment",
)


def cache_key(call: StepCall, pipeline_name: str, runtime: Runtime) -> str | None:
    """The key of a step; None when its CacheConfig does not ask for caching."""
    step_type = call.definition["Type"]
    config = call.definition.get("CacheConfig") or {}
    if not config.get("Enabled") or step_type not in KEY_MEMBERS:
        return None
    relevant = KEY_DOCUMENTS.get(step_type, plain_document)(call, runtime)
    read = {name: value if name in WRITTEN else with_digests(value, runtime) for name, value in relevant.items()}
    content = json.dumps([pipeline_name, call.name, step_type, read], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def plain_document(call: StepCall, runtime: Runtime) -> Document:
    """The members that count."""
    return {name: call.arguments.get(name) for name in KEY_MEMBERS[call.definition["Type"]]}


def processing_document(call: StepCall, runtime: Runtime) -> Document:
    """An input that the job adds to, such as a cache of its own, counts by its URI: every run changes it."""
    updated = updated_uris(call.arguments)
    inputs = call.arguments.get("ProcessingInputs") or []
    return {
        **plain_document(call, runtime),
        "ProcessingInputs": [given for given in inputs if input_uri(given) not in updated],
        "UpdatedInputs": [given for given in inputs if input_uri(given) in updated],
    }


def tuning_document(call: StepCall, runtime: Runtime) -> Document:
    """The search, and of its training jobs what makes them what they are."""
    template = call.arguments.get("TrainingJobDefinition", {})
    return {**plain_document(call, runtime), "TrainingJobDefinition": {n: template.get(n) for n in TRIAL_MEMBERS}}


def lambda_document(call: StepCall, runtime: Runtime) -> Document:
    """The event and the function's code."""
    function = function_named(runtime.state, call.definition["FunctionArn"], call.execution_id)
    return {"Event": call.arguments, "Code": code_digest(function), "Handler": function["Handler"]}


KEY_DOCUMENTS = {"Processing": processing_document, "Tuning": tuning_document, "Lambda": lambda_document}


def with_digests(value: Any, runtime: Runtime) -> Any:
    """A JSON value in which each S3 URI that holds something is replaced by the digest of what it holds."""
    if isinstance(value, dict):
        listed = {}
        if value.get("S3DataType") == "ManifestFile" and runtime.storage.exists(value["S3Uri"]):
            listed = {"S3Uri": runtime.storage.digest(value["S3Uri"], is_manifest=True)}
        return {name: with_digests(member, runtime) for name, member in value.items()} | listed
    if isinstance(value, list):
        return [with_digests(member, runtime) for member in value]
    if isinstance(value, str) and re.fullmatch(r"s3://[^/\n]+/.+", value):
        digest = runtime.storage.digest(value)
        return value if digest == "absent" else f"sha256:{digest}"
    return value


def remembered(key: str, call: StepCall, runtime: Runtime) -> tuple[StepResult, str] | None:
    """The result of an equal step that is young enough, and the execution that it ran in."""
    document = runtime.state.cached(key)
    if document is None:
        return None
    expires = duration_seconds(call.definition["CacheConfig"].get("ExpireAfter"))
    if expires is not None and now() - document["created"] > expires:
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
