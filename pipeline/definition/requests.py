"""A step's resolved Arguments as the request that they become: text where the API has text, and no nulls.

SDK v3 puts `{"Get": "Parameters.Epochs"}` as it is among the hyperparameters, and the service makes "3" of it.
"""

from typing import Any

from pipeline.definition.expressions import text_of

TEXT_MEMBERS = (
    "HyperParameters",
    "StaticHyperParameters",
    "Environment",
    "CustomerMetadataProperties",
    "ContainerEntrypoint",
    "ContainerArguments",
)


def as_request(value: Any) -> Any:
    """The same request; numbers and booleans in maps and lists of text are text, and null members are left out.

    Raises:
        ExpressionError: something there has no text form.
    """
    if isinstance(value, dict):
        members = {name: member for name, member in value.items() if member is not None}
        return {n: texts(member) if n in TEXT_MEMBERS else as_request(member) for n, member in members.items()}
    return [as_request(member) for member in value] if isinstance(value, list) else value


def texts(value: Any) -> Any:
    """A map or list of text."""
    if isinstance(value, dict):
        return {name: text_of(member) for name, member in value.items()}
    return [text_of(member) for member in value] if isinstance(value, list) else value
