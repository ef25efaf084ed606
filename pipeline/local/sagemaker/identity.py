"""STS and IAM as far as SDKs ask before they start anything: who calls, and whether a role may do what it is for.

The local account belongs to whoever runs it: the caller is a session of its one role, every role that somebody names is
there, SageMaker and Lambda may assume it, and nothing is denied to it.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote

from pipeline.local.jobs.runtime import ACCOUNT
from pipeline.local.sagemaker.s3_request import xml
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import State

ROLE = "local-pipeline"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": ["sagemaker.amazonaws.com", "lambda.amazonaws.com", "scheduler.amazonaws.com"]},
            "Action": "sts:AssumeRole",
        }
    ],
}
Values = dict[str, list[str]]


def get_caller_identity(values: Values) -> dict[str, Any]:
    """GetCallerIdentity."""
    arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/local"
    return {"Arn": arn, "UserId": "AROALOCAL:local", "Account": ACCOUNT}


def get_role(values: Values) -> dict[str, Any]:
    """GetRole."""
    (name,) = values["RoleName"]
    role = {
        "Path": "/",
        "RoleName": name,
        "RoleId": "AROALOCAL",
        "Arn": f"arn:aws:iam::{ACCOUNT}:role/{name}",
        "CreateDate": "2020-12-01T00:00:00Z",
        "AssumeRolePolicyDocument": quote(json.dumps(TRUST)),
    }
    return {"Role": role}


def simulate_principal_policy(values: Values) -> dict[str, Any]:
    """SimulatePrincipalPolicy: every action is allowed."""
    actions = [value for name, found in values.items() if name.startswith("ActionNames.member.") for value in found]
    results = [{"EvalActionName": action, "EvalDecision": "allowed"} for action in actions]
    return {"IsTruncated": "false", "EvaluationResults": {"member": results}}


OPERATIONS: dict[str, Callable[[Values], dict[str, Any]]] = {
    "GetCallerIdentity": get_caller_identity,
    "GetRole": get_role,
    "SimulatePrincipalPolicy": simulate_principal_policy,
}


def answer_identity(state: State, request: HttpRequest) -> Reply:
    """Answer a request of the query protocol.

    Raises:
        RequestError: it is refused.
    """
    name = request.operation
    if name not in OPERATIONS:
        raise RequestError("InvalidAction", f"The local target does not answer {request.service}:{name}.")
    result = OPERATIONS[name](parse_qs(request.body.decode()))
    return xml(f"{name}Response", {f"{name}Result": result, "ResponseMetadata": {"RequestId": "local"}})


def error(problem: RequestError) -> Reply:
    """An error document of the query protocol."""
    return xml("ErrorResponse", {"Error": {"Code": problem.code, "Message": str(problem)}}, problem.status)
