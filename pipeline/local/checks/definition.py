"""What the local target says of a definition before it runs: why it refuses it, and what it ignores."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from pipeline.definition.check import argument_differences, check, member_differences
from pipeline.definition.schemas import UNKNOWN
from pipeline.definition.steps import STEP_TYPES, Definition, Step, at, members, objects
from pipeline.local.checks.requests import converted
from pipeline.local.checks.steps import NEEDS, REFUSED, RULES, lacking, path_problems
from pipeline.local.store.answers import function_name
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, StorageError

DRIVERS = {"sm_drivers": "sm_train.sh", "sagemaker_remote_function_bootstrap": "job_driver.sh"}  # the SDK's, by channel
MPI = re.compile(rb"mpi_driver\.py|\bmpirun\b")
IGNORED = {  # a member of a request -> what one machine and one Python environment do not give
    **dict.fromkeys(("InstanceType", "SupportedRealtimeInferenceInstanceTypes"), "instance types"),
    "VolumeSizeInGB": "volume sizes",
    "RoleArn": "roles",
    "VpcConfig": "VPCs",
    "EnableInterContainerTrafficEncryption": "traffic encryption",
    **dict.fromkeys(("KmsKeyId", "VolumeKmsKeyId"), "KMS keys"),
    "EnableManagedSpotTraining": "spot capacity",
    **dict.fromkeys(("TrainingImage", "ImageUri", "Image"), "images"),
}


def refusals(content: Mapping[str, Any], state: State | None = None) -> list[str]:
    """Return why a definition cannot run here, one sentence each; with a state, also what is not there now."""
    return [*kept_refusals(json.dumps(content)), *(absent(content, state) if state else ())]


@lru_cache(maxsize=4)
def kept_refusals(text: str) -> tuple[str, ...]:
    """Return why a definition cannot run here whatever the home holds; kept, since each start asks three times."""
    content = json.loads(text)
    problems = check(content, service=False)
    if not isinstance(content, dict) or (definition := Definition(content)).too_deep:
        return tuple(problems)
    for step in definition.all_steps:
        problems += [f"Step '{step.name}'{problem}" for problem in step_problems(definition, step)]
    return tuple(dict.fromkeys(problems))


def step_problems(definition: Definition, step: Step) -> Iterator[str]:
    """Yield what this machine cannot do for a step, or cannot read, after the step's name."""
    step_type = STEP_TYPES.get(step.type)
    if step_type is None:
        return
    if step.type in REFUSED:
        yield f" is a step of type {step.type}, which does not run locally: {REFUSED[step.type]}."
        return
    # a run reads CacheConfig and RetryPolicies of whatever step has them
    found = [*member_differences(definition, step), *member_differences(definition, step, "AnyStep")]
    wrong = [text for kind, text in found if kind != "unknown"]
    if step_type.creates:
        _, unreadable = converted(step_type.creates, step.arguments)
        is_asked = not step_type.job_kind and not unreadable  # of the API, which holds it to the service's model
        wrong += [text for _, text in argument_differences(definition, step)] if is_asked else unreadable
    yield from (f": {text}" for text in wrong)
    problems = [*path_problems(step), *lacking(step.arguments, NEEDS.get(step.type, ()))]
    if step.type in RULES and not wrong:
        problems += RULES[step.type](step.arguments)
    yield from (f" {problem}" for problem in problems)


def absent(content: Mapping[str, Any], state: State) -> Iterator[str]:
    """Yield the Lambda functions that are not here, and the jobs whose stored driver starts MPI."""
    for step in Definition(content).all_steps:
        function_arn = step.definition.get("FunctionArn")
        name = function_name(function_arn) if step.type == "Lambda" and isinstance(function_arn, str) else None
        if name is not None and state.get("Function", name) is None:
            yield (
                f"Step {step.name!r} calls the Lambda function {name!r}, which is not known here; "
                f"give it with --lambda {name}=FILE.py:HANDLER."
            )
        for problem in driver_problems(step.arguments, state) if step.type == "Training" else ():
            yield f"Step {step.name!r} {problem}"


def driver_problems(arguments: Mapping[str, Any], state: State) -> Iterator[str]:
    """Yield that the stored driver of a training job starts MPI, after the job's name."""
    for channel in objects(arguments.get("InputDataConfig")):
        script, uri = DRIVERS.get(str(channel.get("ChannelName"))), at(channel, "DataSource.S3DataSource.S3Uri")
        with contextlib.suppress(StorageError, OSError):  # it may not be stored yet
            if script and isinstance(uri, str) and MPI.search(Storage(state).read(f"{uri.rstrip('/')}/{script}")):
                yield "is distributed by MPI, which is not run here; accepted is Torchrun."


def job_problems(step_type: str, request: Mapping[str, Any], state: State) -> Iterator[str]:
    """Yield what this machine cannot do of the request of a job that is no step's, after the job's name."""
    yield from lacking(request, NEEDS[step_type])
    yield from RULES[step_type](request)
    if step_type == "Training":
        yield from driver_problems(request, state)
    if step_type == "Transform" and state.get("Model", request["ModelName"]) is None:
        yield f"needs the model {request['ModelName']!r}, which there is not: make it by CreateModel."


def remarks(content: Mapping[str, Any]) -> list[str]:
    """Return what does not stop a run, a sentence each: what is ignored here, and members that nobody knows.

    Such a member is misspelt, or newer than the installed botocore.
    """
    names: set[str] = set()
    for step in Definition(content).all_steps:
        found = list(members(step.arguments))
        names |= {IGNORED[key] for key, value in found if key in IGNORED and value}
        counts = [value for key, value in found if key == "InstanceCount"]
        isolated = any(key == "EnableNetworkIsolation" and value for key, value in found)
        several = any(isinstance(count, int) and count > 1 for count in counts)
        also = {
            "instance counts of transform jobs": step.type == "Transform" and any(count != 1 for count in counts),
            "instance counts of endpoints": any(key == "InitialInstanceCount" and value != 1 for key, value in found),
            "network isolation of models": isolated and step.type == "Model",
            "network isolation of jobs with several hosts": isolated and several,
        }
        names |= {name for name, holds in also.items() if holds}
    *most, last = sorted(names) or [""]
    ignored = f"{', '.join(most)} and {last}" if most else last
    where = "Local target: every job runs on this machine, in this Python environment; ignored are"
    unknown = " ".join([problem for problem in check(content) if UNKNOWN in problem][:3])
    said = "Ignored, and refused by SageMaker unless it is newer than botocore here:"
    return [*([f"{where} {ignored}."] if names else ()), *([f"{said} {unknown}"] if unknown else ())]
