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


def allows(statements: Iterable[Mapping[str, Any]], action: str, resource: str) -> bool:
    """Whether a role's statements, as IAM holds them, allow an action on a resource; conditions are taken to hold."""
    return any(
        statement["Effect"] == "Allow"
        and action in as_list(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"]))
        for statement in statements
    )


def as_list(value: Any) -> list[str]:
    """IAM takes one where it takes several."""
    return [value] if isinstance(value, str) else list(value)
