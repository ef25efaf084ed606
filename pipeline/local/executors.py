"""One coroutine a step type: runs a step whose expressions are resolved. Condition and Fail steps are the runner's."""

from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.local import models, registry
from pipeline.local.answers import RequestError
from pipeline.local.function_outputs import OutputError, typed_outputs
from pipeline.local.functions import FunctionError, function_named, invoke
from pipeline.local.processing import run_processing
from pipeline.local.runtime import Runtime, StepCall, StepFailure, StepResult, arn
from pipeline.local.training import run_training
from pipeline.local.transform import run_transform
from pipeline.local.tuning import run_tuning

Executor = Callable[[StepCall, Runtime], Awaitable[StepResult]]


async def run_model(call: StepCall, runtime: Runtime) -> StepResult:
    """CreateModel under the service's kind of name."""
    try:
        models.create_model(runtime.state, {**call.arguments, "ModelName": call.job_name})
    except RequestError as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    document = models.describe_model(runtime.state, {"ModelName": call.job_name})
    return StepResult(document, {"Model": {"Arn": arn("model", call.job_name)}})


async def run_register_model(call: StepCall, runtime: Runtime) -> StepResult:
    """CreateModelPackage; an equal request to the newest version is answered with that version."""
    request = call.arguments
    known = registry.same_model_package(runtime.state, request) if runtime.use_cache else None
    if known:
        return StepResult(known, {"RegisterModel": {"Arn": known["ModelPackageArn"]}}, reused=True)
    try:
        answer = registry.create_model_package(runtime.state, request)
    except RequestError as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    package_arn = answer["ModelPackageArn"]
    document = registry.describe_model_package(runtime.state, {"ModelPackageName": package_arn})
    return StepResult(document, {"RegisterModel": {"Arn": package_arn}})


async def run_lambda(call: StepCall, runtime: Runtime) -> StepResult:
    """Calls the handler; its outputs are those that the step declares.

    Raises:
        StepFailure: the handler raised, or left out a declared output.
    """
    function = function_named(runtime.state, call.definition["FunctionArn"], call.execution_id)
    metadata: dict[str, Any] = {"Lambda": {"Arn": call.definition["FunctionArn"]}}
    try:
        answer = await invoke(runtime.state, function, call.arguments, job_name=call.job_name)
    except FunctionError as problem:
        raise StepFailure(str(problem), metadata=metadata) from problem
    try:
        outputs = typed_outputs(call.definition.get("OutputParameters") or [], answer)
    except OutputError as problem:
        raise StepFailure(str(problem), metadata=metadata) from problem
    metadata["Lambda"]["OutputParameters"] = [{"Name": n, "Value": str(v)} for n, v in outputs.items()]
    return StepResult({"OutputParameters": outputs, "Outputs": outputs}, metadata)


EXECUTORS: dict[str, Executor] = {
    "Processing": run_processing,
    "Training": run_training,
    "Tuning": run_tuning,
    "Transform": run_transform,
    "Model": run_model,
    "RegisterModel": run_register_model,
    "Lambda": run_lambda,
}
