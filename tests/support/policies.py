"""IAM statements, as the template writes them and as an account holds them."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Statement:
    """One statement of a policy in the template; `where` is the resource that it belongs to."""

    where: str
    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    principal: Any
    condition: Mapping[str, Any]


def template_statements(template: Mapping[str, Any]) -> list[Statement]:
    """Every statement of every policy document, also those behind a condition."""
    return [
        Statement(
            where=name,
            sid=statement.get("Sid", ""),
            effect=statement["Effect"],
            actions=texts(statement["Action"]),
            resources=texts(statement.get("Resource", [])),
            principal=statement.get("Principal"),
            condition=statement.get("Condition", {}),
        )
        for name, resource in template["Resources"].items()
        for statement in found_statements(resource)
    ]


def found_statements(value: Any) -> Iterator[dict[str, Any]]:
    """What looks like a statement, at any depth."""
    if isinstance(value, dict):
        if "Effect" in value and "Action" in value:
            yield value
        for member in value.values():
            yield from found_statements(member)
    elif isinstance(value, list):
        for member in value:
            yield from found_statements(member)


def texts(value: Any) -> tuple[str, ...]:
    """The strings of an action or a resource; what a function makes counts as its text, a reference as its name."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(text for member in value for text in texts(member))
    ((function, argument),) = value.items()
    written = {
        "Fn::Sub": lambda: texts(argument[0] if isinstance(argument, list) else argument),
        "Fn::If": lambda: texts(argument[1:]),
        "Fn::GetAtt": lambda: (".".join(argument),),
        "Ref": lambda: (argument,),
    }
    return written[function]()


def statements_of(client: Any, role_arn: str) -> list[dict[str, Any]]:
    """Every statement of a role."""
    name, iam = role_arn.rpartition("/")[2], client("iam")
    documents = [
        iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    return [statement for document in documents for statement in document["Statement"]]


def allows(
    statements: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, str] | None = None
) -> bool:
    """Whether statements, as IAM holds them, allow a request: one allows it and none denies it."""
    effects = {
        item["Effect"] for item in statements if applies(item, action, resource, {**ORDINARY, **(context or {})})
    }
    return effects == {"Allow"}


def applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """Whether a statement is about a request with these condition keys; that of a resource, about its principal."""
    return (
        any(matches(action.lower(), pattern.lower()) for pattern in as_list(statement["Action"]))
        and any(matches(resource, pattern) for pattern in as_list(statement["Resource"]))
        and is_principal(statement.get("Principal", "*"), context.get("aws:PrincipalArn", ""))
        and all(
            CONDITIONS[operator](context.get(key), as_list(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def is_principal(principal: Any, arn: str) -> bool:
    """Whether a resource's statement is about a principal: everybody, a service, its account, or itself."""
    if isinstance(principal, dict) and "Service" in principal:
        return True
    accepted = as_list(principal["AWS"]) if isinstance(principal, dict) else [principal]
    account = arn.split(":")[4] if arn else "*"
    return bool({"*", arn, account, f"arn:aws:iam::{account}:root"} & set(accepted))


def matches(text: str, pattern: str) -> bool:
    """IAM's `*` and `?`; other characters stand for themselves."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def as_list(value: Any) -> list[str]:
    """IAM takes one where it takes several."""
    return [str(value)] if isinstance(value, str | bool) else list(value)


def like(given: str | None, values: list[str]) -> bool:
    return given is not None and any(matches(given, value) for value in values)


CONDITIONS = {  # a key that the request lacks fulfils none but Null
    **dict.fromkeys(("StringEquals", "ArnEquals", "Bool"), lambda given, values: given in values),
    **dict.fromkeys(("StringLike", "ArnLike"), like),
    "Null": lambda given, values: str(given is None).lower() in values,
}
ORDINARY = {  # what requests of the product hold
    "aws:SecureTransport": "true",
    "iam:PassedToService": "sagemaker.amazonaws.com",
    "iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com",
    "application-autoscaling:service-namespace": "sagemaker",
    "cloudwatch:namespace": "/aws/sagemaker/TrainingJobs",
    "kms:GrantIsForAWSResource": "true",
}
