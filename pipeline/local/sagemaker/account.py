"""What an account has beside SageMaker: identity and roles, Lambda functions, and a rule of EventBridge.

The account belongs to whoever runs it: the caller is a session of its one role, every role that somebody names is
there, SageMaker and Lambda may assume it, and nothing is denied to it. Functions are made of an archive of Python code,
as the SDK's LambdaStep makes them. The rule calls a function when a model version is approved.
"""

import base64
import hashlib
import io
import json
import secrets
import zipfile
from datetime import UTC, datetime
from urllib.parse import quote

import orjson

from pipeline.local.jobs import functions
from pipeline.local.jobs.runtime import ACCOUNT, REGION, now
from pipeline.local.sagemaker.api import LocalApi
from pipeline.local.sagemaker.http import located
from pipeline.local.store.answers import HttpRequest, Reply, RequestError, chosen, function_name
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

SERVICES = [f"{service}.amazonaws.com" for service in ("sagemaker", "lambda", "scheduler")]
STATEMENT = {"Effect": "Allow", "Principal": {"Service": SERVICES}, "Action": "sts:AssumeRole"}
TRUST = {"Version": "2012-10-17", "Statement": [STATEMENT]}
DETAIL = """
    ModelPackageGroupName ModelPackageVersion ModelPackageArn CreationTime LastModifiedTime InferenceSpecification
    ModelPackageStatus ModelPackageStatusDetails ModelApprovalStatus ModelMetrics
"""  # of a model package, in an event


def get_caller_identity(state: State, request: Document) -> Document:
    """GetCallerIdentity: whoever signs is here a session of the account's one role."""
    caller = f"arn:aws:sts::{ACCOUNT}:assumed-role/local-pipeline/local"
    return {"Arn": caller, "UserId": "AROALOCAL:local", "Account": ACCOUNT}


def get_role(state: State, request: Document) -> Document:
    """GetRole: here every role that somebody names; SageMaker, Lambda and the Scheduler may assume it."""
    role = {
        "Path": "/",
        "RoleName": request["RoleName"],
        "RoleId": "AROALOCAL",
        "Arn": f"arn:aws:iam::{ACCOUNT}:role/{request['RoleName']}",
        "CreateDate": "2020-12-01T00:00:00Z",
        "AssumeRolePolicyDocument": quote(json.dumps(TRUST)),
    }
    return {"Role": role}


def simulate_principal_policy(state: State, request: Document) -> Document:
    """SimulatePrincipalPolicy: everything is allowed to everybody here."""
    allowed = [{"EvalActionName": action, "EvalDecision": "allowed"} for action in request["ActionNames"]]
    return {"IsTruncated": "false", "EvaluationResults": {"member": allowed}}  # as the query protocol has lists


def invoke(state: State, request: HttpRequest) -> Reply:
    """Invoke: here one with InvocationType Event is answered when the function has ended, too."""
    try:
        event = orjson.loads(request.body or b"null")
    except orjson.JSONDecodeError as problem:
        raise RequestError("InvalidRequestContentException", f"The payload is not JSON: {problem}") from problem
    function = functions.function_named(state, located(request, "lambda")["FunctionName"])
    kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
    if kind == "DryRun":
        return Reply(204, {}, b"")
    more = {"Content-Type": "application/json", "X-Amz-Executed-Version": "$LATEST"}
    try:
        reply = Reply.json(functions.invoke_now(state, LocalApi(state), function, event), 200, more)
    except functions.FunctionError as problem:
        error_type, _, message = str(problem).rpartition(": ")
        content = {"errorMessage": message or str(problem), "errorType": error_type or "Unhandled"}
        reply = Reply.json(content, 200, {**more, "X-Amz-Function-Error": "Unhandled"})
    return Reply(202, {}, b"") if kind == "Event" else reply


def create_function(state: State, request: Document) -> Document:
    """CreateFunction: here of Python code in a .zip archive, without layers."""
    name = function_name(request["FunctionName"])
    if state.get("Function", name):
        raise RequestError("ResourceConflictException", f"Function already exist: {name}", 409)
    if not str(request.get("Runtime", "python")).startswith("python") or request.get("Layers"):
        raise refused(f"Function {name!r} needs a runtime or layers that are not here; Python without layers runs.")
    variables = request.get("Environment", {}).get("Variables", {})
    made = {"FunctionName": name, "Environment": variables, "Timeout": 3, **chosen(request, "Handler", "Timeout")}
    return store(state, made, request["Code"])


def update_function_code(state: State, request: Document) -> Document:
    """UpdateFunctionCode."""
    return store(state, functions.function_named(state, request["FunctionName"]), request)


def store(state: State, document: Document, code: Document) -> Document:
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
    return get_function_configuration(state, document)


def refused(message: str) -> RequestError:
    """InvalidParameterValueException."""
    return RequestError("InvalidParameterValueException", message)


def get_function(state: State, request: Document) -> Document:
    """GetFunction."""
    return {"Configuration": get_function_configuration(state, request)}


def get_function_configuration(state: State, request: Document) -> Document:
    """GetFunctionConfiguration."""
    document = functions.function_named(state, request["FunctionName"])
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


def delete_function(state: State, request: Document) -> Document:
    """DeleteFunction; its code stays for executions that have begun with it."""
    state.delete("Function", functions.function_named(state, request["FunctionName"])["FunctionName"])
    return {}


def deliver_approval(state: State, package: Document) -> None:
    """Call the function that the rule of a package's group names with a state change event, if there is a rule.

    A function that fails is an error: on AWS nobody would hear of it, but here somebody waits for what it does.
    """
    rule = state.get("Rule", package["ModelPackageGroupName"].lower())
    if rule is None:
        return
    event = {
        "version": "0",
        "id": secrets.token_hex(16),
        "source": "aws.sagemaker",
        "detail-type": "SageMaker Model Package State Change",
        "account": ACCOUNT,
        "region": REGION,
        "time": datetime.fromtimestamp(now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resources": [package["ModelPackageArn"]],
        "detail": chosen(package, *DETAIL.split()),
    }
    name = rule["FunctionName"]
    try:
        functions.invoke_now(state, LocalApi(state), functions.function_named(state, name), event)
    except RequestError as problem:
        said = f"The version is {package['ModelApprovalStatus']} now, but function {name!r}, which heard of it, failed"
        raise RequestError("EventDeliveryFailed", f"{said}: {problem}") from problem  # no code of the service
