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

from pipeline.errors import UsageError
from pipeline.local.jobs import functions
from pipeline.local.jobs.runtime import ACCOUNT, REGION
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage


def answer(state: State, request: HttpRequest) -> Reply:
    """Answer one request; the function's name is in the path."""
    if request.operation not in OPERATIONS:
        raise refused(f"The local target does not answer lambda:{request.operation}.")
    match = re.search(r"/functions/([^/]+)", urlsplit(request.url).path)
    return OPERATIONS[request.operation](state, functions.function_name(unquote(match[1])) if match else "", request)


def refused(message: str) -> RequestError:
    """InvalidParameterValueException."""
    return RequestError("InvalidParameterValueException", message)


def invoke(state: State, name: str, request: HttpRequest) -> Reply:
    """Invoke; one with InvocationType Event is answered when the function has ended, too."""
    function = functions.function_named(state, name)
    kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
    if kind == "DryRun":
        return Reply(204, {}, b"")
    try:
        result = functions.invoke_now(state, LocalApi(state), function, json.loads(request.body or b"null"))
    except functions.FunctionError as problem:
        if kind == "Event":
            return Reply(202, {}, b"")
        error_type, _, message = str(problem).rpartition(": ")
        content = {"errorMessage": message or str(problem), "errorType": error_type or "Unhandled"}
        return Reply.json(content, 200, {"X-Amz-Function-Error": "Unhandled"})
    return Reply.json(result) if kind != "Event" else Reply(202, {}, b"")


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
    """Unpack a function's code and make it known."""
    if "ImageUri" in code:
        raise refused("The code of a function must be a .zip archive: images are not run here.")
    packed = base64.b64decode(code["ZipFile"]) if "ZipFile" in code else read_archive(state, code)
    digest = hashlib.sha256(packed).hexdigest()
    folder = state.home / "functions" / f"{document['FunctionName']}-{digest[:16]}"
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder)
    except zipfile.BadZipFile as problem:
        raise refused("Could not unzip uploaded file. Please check your file, then try to upload again.") from problem
    try:
        functions.put_package(state, document, folder)
    except UsageError as problem:
        raise refused(str(problem)) from problem
    return Reply.json(described(document), status)


def read_archive(state: State, code: Document) -> bytes:
    """The archive that a request names by its place in S3."""
    return Storage(state).read(f"s3://{code['S3Bucket']}/{code['S3Key']}")


def get_function(state: State, name: str, request: HttpRequest) -> Reply:
    """GetFunction."""
    return Reply.json({"Configuration": described(functions.function_named(state, name))})


def get_function_configuration(state: State, name: str, request: HttpRequest) -> Reply:
    """GetFunctionConfiguration."""
    return Reply.json(described(functions.function_named(state, name)))


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
    "GetFunctionConfiguration": get_function_configuration,
    "DeleteFunction": delete_function,
}
