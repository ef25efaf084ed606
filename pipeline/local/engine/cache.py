"""The step cache: a step whose code, arguments and inputs are unchanged is not run again.

A key is made of the members that SageMaker's own key is made of ("Caching pipeline steps" in the guide, see
`STEP_TYPES`): nothing about instances, outputs or roles. There are two keys of a step:

- by bytes, the default: what lies under an S3 URI counts. A data set that was changed in place is a miss, a repeated
  upload of the same bytes is not, and a hit needs the outputs of the earlier run to be there, untouched;
- as on AWS: the URI counts, whatever lies under it.

A step without CacheConfig has none, nor has one of a type that the service does not cache.
"""

import hashlib
import json
import re
from typing import Any

from pipeline.definition.steps import STEP_TYPES
from pipeline.local.jobs.functions import code_digest, function_named
from pipeline.local.jobs.processing import input_uri, updated_uris
from pipeline.local.jobs.runtime import Runtime, StepCall, StepResult, now
from pipeline.local.store.state import Document

BYTES, AS_ON_AWS, OFF = "bytes", "as-on-aws", "off"
Keys = dict[str, str]  # BYTES or AS_ON_AWS -> key
WRITTEN = ("CheckpointConfig", "DebugHookConfig", "UpdatedInputs")  # what their URIs hold is the job's own doing
TRIAL_MEMBERS = ("AlgorithmSpecification", "HyperParameterRanges", "InputDataConfig", "StaticHyperParameters",
                 "TuningObjective")  # of a search's TrainingJobDefinition  # fmt: skip
DATE_SECONDS = {"Y": 31536000, "M": 2592000, "W": 604800, "D": 86400}
TIME_SECONDS = {"H": 3600, "M": 60, "S": 1}


def look_up(call: StepCall, pipeline_name: str, *, runtime: Runtime, mode: str) -> tuple[Keys, Document | None]:
    """Return a step's cache keys, and what the record of an equal and young enough step holds, if there is one."""
    keys = cache_keys(call, pipeline_name, runtime=runtime, mode=mode)
    document = runtime.state.get("CachedStep", keys[mode]) if mode in keys else None
    if document is None:
        return keys, None
    expires = call.definition["CacheConfig"].get("ExpireAfter")
    is_old = expires is not None and now() - document["created"] > seconds_of(expires)
    outputs: dict[str, str] = document["outputs"]
    if is_old or (mode == BYTES and any(runtime.storage.digest(uri) != found for uri, found in outputs.items())):
        return keys, None
    return keys, document["record"]


def cache_keys(call: StepCall, pipeline_name: str, *, runtime: Runtime, mode: str) -> Keys:
    """The keys of a step, none if its CacheConfig does not ask for caching; with AS_ON_AWS no input is read."""
    step_type = call.definition["Type"]
    if not (call.definition.get("CacheConfig") or {}).get("Enabled") or STEP_TYPES[step_type].cache_key is None:
        return {}
    beginning = [pipeline_name, call.name, step_type]
    keys = {AS_ON_AWS: digest([AS_ON_AWS, *beginning, service_document(call)])}
    if mode != AS_ON_AWS:
        document = bytes_document(call, runtime)
        read = {name: value if name in WRITTEN else with_digests(value, runtime) for name, value in document.items()}
        keys[BYTES] = digest([*beginning, read])
    return keys


def seconds_of(duration: str) -> int:
    """The seconds of an ISO 8601 duration (P1DT12H) or a short form of the service (30d, T16m)."""
    days, _, times = duration.upper().partition("T")
    parts = ((days, DATE_SECONDS), (times, TIME_SECONDS))
    return sum(int(n) * units[unit] for text, units in parts for n, unit in re.findall(r"(\d+)([A-Z])", text))


def digest(content: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def service_document(call: StepCall) -> Document:
    """The members of the service's key; of a Lambda step, whose key the guide does not give, event and function."""
    if call.definition["Type"] == "Lambda":
        return {"Event": call.arguments, "FunctionArn": call.definition["FunctionArn"]}
    document = {name: call.arguments.get(name) for name in STEP_TYPES[call.definition["Type"]].cache_key or ()}
    if template := document.get("TrainingJobDefinition"):
        document["TrainingJobDefinition"] = {name: template.get(name) for name in TRIAL_MEMBERS}
    return document


def bytes_document(call: StepCall, runtime: Runtime) -> Document:
    """The service's members, and what else makes a difference to the result.

    An input that a Processing job adds to, such as a cache of its own, counts by its URI: every run changes it.
    """
    document = service_document(call)
    if call.definition["Type"] == "Lambda":
        function = function_named(runtime.state, call.definition["FunctionArn"], call.execution_id)
        return {"Event": call.arguments, "Code": code_digest(function), "Handler": function["Handler"]}
    if template := call.arguments.get("TrainingJobDefinition"):
        document["TrainingJobDefinition"]["Environment"] = template.get("Environment")
    if inputs := document.get("ProcessingInputs"):
        updated = updated_uris(call.arguments)
        document["ProcessingInputs"] = [given for given in inputs if input_uri(given) not in updated]
        document["UpdatedInputs"] = [given for given in inputs if input_uri(given) in updated]
    return document


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
        found = runtime.storage.digest(value)
        return value if found == "absent" else f"sha256:{found}"
    return value


def remember(keys: Keys, result: StepResult, execution_arn: str, runtime: Runtime) -> None:
    """Keep a finished step's result under its keys."""
    if not keys:
        return
    source = {"SourcePipelineExecutionArn": execution_arn}
    record = {"Metadata": result.metadata, "Properties": result.properties, "CacheHitResult": source}
    outputs = {uri: runtime.storage.digest(uri) for uri in result.outputs}
    document = {"record": record, "outputs": outputs, "created": now()}
    for key in keys.values():
        runtime.state.put("CachedStep", key, document)
