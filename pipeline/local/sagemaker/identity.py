"""STS and IAM as far as SDKs ask before they start anything: who calls, and whether a role may do what it is for.

The local account belongs to whoever runs it: the caller is a session of its one role, every role that somebody names is
there, SageMaker and Lambda may assume it, and nothing is denied to it.
"""

import json
from typing import Any
from urllib.parse import parse_qsl, quote

from pipeline.local.jobs.runtime import ACCOUNT
from pipeline.local.sagemaker.s3 import xml
from pipeline.local.store.answers import HttpRequest, Reply, RequestError
from pipeline.local.store.state import State

SERVICES = [f"{service}.amazonaws.com" for service in ("sagemaker", "lambda", "scheduler")]
STATEMENT = {"Effect": "Allow", "Principal": {"Service": SERVICES}, "Action": "sts:AssumeRole"}
TRUST = {"Version": "2012-10-17", "Statement": [STATEMENT]}


def results(values: dict[str, str]) -> dict[str, Any]:
    """Operation -> what it answers to a request."""
    name = values.get("RoleName")
    actions = [value for member, value in values.items() if member.startswith("ActionNames.member.")]
    role = {
        "Path": "/",
        "RoleName": name,
        "RoleId": "AROALOCAL",
        "Arn": f"arn:aws:iam::{ACCOUNT}:role/{name}",
        "CreateDate": "2020-12-01T00:00:00Z",
        "AssumeRolePolicyDocument": quote(json.dumps(TRUST)),
    }
    caller = f"arn:aws:sts::{ACCOUNT}:assumed-role/local-pipeline/local"
    decisions = [{"EvalActionName": action, "EvalDecision": "allowed"} for action in actions]
    return {
        "GetCallerIdentity": {"Arn": caller, "UserId": "AROALOCAL:local", "Account": ACCOUNT},
        "GetRole": {"Role": role},
        "SimulatePrincipalPolicy": {"IsTruncated": "false", "EvaluationResults": {"member": decisions}},
    }


def answer(state: State, request: HttpRequest) -> Reply:
    """Answer a request of the query protocol, or raise a RequestError."""
    name, answers = request.operation, results(dict(parse_qsl(request.body.decode())))
    if name not in answers:
        raise RequestError("InvalidAction", f"The local target does not answer {request.service}:{name}.")
    return xml(f"{name}Response", {f"{name}Result": answers[name], "ResponseMetadata": {"RequestId": "local"}})


def error(problem: RequestError) -> Reply:
    """An error document of the query protocol."""
    return xml("ErrorResponse", {"Error": {"Code": problem.code, "Message": str(problem)}}, problem.status)
