"""Tags, kept for whatever resource is named; nothing here depends on them."""

from pipeline.local.store.answers import paged
from pipeline.local.store.state import Document, State


def add_tags(state: State, request: Document) -> Document:
    """AddTags: the new ones replace those of the same key; all of them."""
    arn = request["ResourceArn"]
    with state.transaction():
        tags = {**tags_of(state, arn), **{tag["Key"]: tag["Value"] for tag in request["Tags"]}}
        state.put("Tags", arn, tags)
    return {"Tags": as_list(tags)}


def list_tags(state: State, request: Document) -> Document:
    """ListTags."""
    return paged("Tags", as_list(tags_of(state, request["ResourceArn"])), request)


def delete_tags(state: State, request: Document) -> Document:
    """DeleteTags."""
    arn = request["ResourceArn"]
    with state.transaction():
        kept = {key: value for key, value in tags_of(state, arn).items() if key not in request["TagKeys"]}
        state.put("Tags", arn, kept)
    return {}


def tags_of(state: State, arn: str) -> dict[str, str]:
    """Key -> value."""
    return state.get("Tags", arn) or {}


def as_list(tags: dict[str, str]) -> list[dict[str, str]]:
    """As answers carry them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
