"""One coroutine a step type: runs a step whose expressions are resolved. Condition and Fail steps are the runner's."""

import asyncio
from collections.abc import Awaitable, Callable

from pipeline.definition.steps import STEP_TYPES
from pipeline.local.jobs.functions import run_lambda
from pipeline.local.jobs.processing import run_processing
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult
from pipeline.local.jobs.training import run_training
from pipeline.local.jobs.transform import run_transform
from pipeline.local.jobs.tuning import run_tuning
from pipeline.local.store.answers import RequestError

IN_MOTION = ("Creating", "Updating")
POLL_SECONDS = 0.05


async def run_request(call: StepCall, runtime: Runtime) -> StepResult:
    """A step that is one request: Model, RegisterModel or EndpointConfig. Its properties are described."""
    step_type = STEP_TYPES[call.definition["Type"]]
    named = {"ModelName": call.job_name} if step_type.name == "Model" else {}
    try:
        answer = runtime.api.call("sagemaker", str(step_type.creates), {**call.arguments, **named})
        (resource_arn,) = answer.values()
        name = resource_arn if step_type.name == "RegisterModel" else resource_arn.rpartition("/")[2]
        properties = runtime.api.call("sagemaker", step_type.reads[0], {f"{step_type.resource}Name": name})
    except RequestError as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    return StepResult(properties, {str(step_type.metadata): {"Arn": resource_arn}})


async def run_endpoint(call: StepCall, runtime: Runtime) -> StepResult:
    """An Endpoint step: creates the endpoint, or updates the one of that name, and waits until it is in service.

    Source: EndpointStep of the SDK, "the pipeline chooses create-vs-update based on endpoint existence".
    """
    name, request = call.arguments["EndpointName"], call.arguments
    try:
        known = await asyncio.to_thread(runtime.api.call, "sagemaker", "ListEndpoints", {"NameContains": name})
        exists = any(found["EndpointName"] == name for found in known["Endpoints"])
        if exists:
            request = {member: value for member, value in request.items() if member != "Tags"}
        operation = "UpdateEndpoint" if exists else "CreateEndpoint"
        (endpoint_arn,) = (await asyncio.to_thread(runtime.api.call, "sagemaker", operation, request)).values()
        while True:
            found = await asyncio.to_thread(runtime.api.call, "sagemaker", "DescribeEndpoint", {"EndpointName": name})
            if found["EndpointStatus"] not in IN_MOTION:
                break
            await asyncio.sleep(POLL_SECONDS)
    except RequestError as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    metadata = {"Endpoint": {"Arn": endpoint_arn}}
    if found["EndpointStatus"] != "InService" or "FailureReason" in found:
        raise StepFailure(f"ClientError: {found.get('FailureReason')}", metadata=metadata)
    return StepResult(found, metadata)


EXECUTORS: dict[str, Callable[[StepCall, Runtime], Awaitable[StepResult]]] = {
    "Processing": run_processing,
    "Training": run_training,
    "Tuning": run_tuning,
    "Transform": run_transform,
    "Model": run_request,
    "RegisterModel": run_request,
    "EndpointConfig": run_request,
    "Endpoint": run_endpoint,
    "Lambda": run_lambda,
}
