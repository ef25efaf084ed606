"""AWS Lambda: functions made of an archive of Python code, as the SDK's LambdaStep makes them, and their invocation."""

import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.local.jobs import functions
from pipeline.local.jobs.runtime import ACCOUNT, REGION
from pipeline.local.sagemaker.api import LocalApi, unanswered
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage


def answer(state: State, request: HttpRequest) -> Reply:
    """Answer one request, or raise a RequestError; the function's name is in the path."""
    if request.operation not in OPERATIONS:
        raise unanswered("lambda", request.operation)
    match = re.search(r"/functions/([^/]+)", urlsplit(request.url).path)
    return OPERATIONS[request.operation](state, functions.function_name(unquote(match[1])) if match else "", request)


def invoke(state: State, name: str, request: HttpRequest) -> Reply:
    """Invoke; one with InvocationType Event is answered when the function has ended, too."""
    function = functions.function_named(state, name)
    kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
    if kind == "DryRun":
        return Reply(204, {}, b"")
    try:
        reply = Reply.json(functions.invoke_now(state, LocalApi(state), function, json.loads(request.body or b"null")))
    except functions.FunctionError as problem:
        error_type, _, message = str(problem).rpartition(": ")
        content = {"errorMessage": message or str(problem), "errorType": error_type or "Unhandled"}
        reply = Reply.json(content, 200, {"X-Amz-Function-Error": "Unhandled"})
    return Reply(202, {}, b"") if kind == "Event" else reply


def create_function(state: State, name: str, request: HttpRequest) -> Reply:
    """CreateFunction, of Python code in a .zip archive."""
    content = json.loads(request.body)
    name = content["FunctionName"]
    if state.get("Function", name):
        raise RequestError("ResourceConflictException", f"Function already exist: {name}", 409)
    if not str(content.get("Runtime", "python")).startswith("python") or content.get("Layers"):
        raise refused(f"Function {name!r} needs a runtime or layers that are not here; Python without layers runs.")
    document = {
        "FunctionName": name,
        "Handler": content["Handler"],
        "Environment": content.get("Environment", {}).get("Variables", {}),
        "Timeout": content.get("Timeout", 3),
    }
    return store(state, document, content["Code"], status=201)


def update_function_code(state: State, name: str, request: HttpRequest) -> Reply:
    """UpdateFunctionCode."""
    return store(state, functions.function_named(state, name), json.loads(request.body))


def store(state: State, document: Document, code: Document, status: int = 200) -> Reply:
    """Unpack a function's code and make it known, or refuse code that holds no handler."""
    if "ImageUri" in code:
        raise refused("The code of a function must be a .zip archive: images are not run here.")
    place = f"s3://{code.get('S3Bucket')}/{code.get('S3Key')}"
    packed = base64.b64decode(code["ZipFile"]) if "ZipFile" in code else Storage(state).read(place)
    name, digest = document["FunctionName"], hashlib.sha256(packed).hexdigest()
    folder = state.home / "functions" / f"{name}-{digest[:16]}"
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as problem:
        raise refused("Could not unzip uploaded file. Please check your file, then try to upload again.") from problem
    module, _, function = document["Handler"].replace("/", ".").rpartition(".")
    script = folder.joinpath(*module.split("."))
    if not module or not (script.with_suffix(".py").is_file() or (script / "__init__.py").is_file()):
        raise refused(f"Unable to import module {module!r}: the code of {name!r} has none.")
    state.put("Function", name, {**document, "Handler": f"{module}.{function}", "Folder": str(folder)})
    return Reply.json(described(document), status)


def refused(message: str) -> RequestError:
    """InvalidParameterValueException."""
    return RequestError("InvalidParameterValueException", message)


def get_function(state: State, name: str, request: HttpRequest) -> Reply:
    """GetFunction and GetFunctionConfiguration, whose client reads but its part of the answer."""
    configuration = described(functions.function_named(state, name))
    return Reply.json({"Configuration": configuration, **configuration})


def delete_function(state: State, name: str, request: HttpRequest) -> Reply:
    """DeleteFunction; its code stays for executions that have begun with it."""
    functions.function_named(state, name)
    state.delete("Function", name)
    return Reply(204, {}, b"")


def described(document: Document) -> dict[str, Any]:
    """FunctionConfiguration."""
    return {
        "FunctionName": document["FunctionName"],
        "FunctionArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{document['FunctionName']}",
        "Handler": document["Handler"],
        "Environment": {"Variables": document["Environment"]},
        "Timeout": document.get("Timeout", int(functions.STEP_TIMEOUT_SECONDS)),
        "Version": "$LATEST",
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }


OPERATIONS: dict[str, Callable[[State, str, HttpRequest], Reply]] = {
    "Invoke": invoke,
    "CreateFunction": create_function,
    "UpdateFunctionCode": update_function_code,
    "GetFunction": get_function,
    "GetFunctionConfiguration": get_function,
    "DeleteFunction": delete_function,
}
