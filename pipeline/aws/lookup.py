"""Asking AWS for a thing that may not be there."""

from typing import Any

from botocore.exceptions import ClientError

MISSING = ("not find", "does not exist", "not found", "cannot be found")
MISSING_CODES = ("ResourceNotFound", "ResourceNotFoundException", "NoSuchBucket", "RepositoryNotFoundException", "404")


def listed(sagemaker: Any, operation: str, member: str, key: str, prefix: str) -> list[str]:
    """Names that begin with the prefix."""
    pages = sagemaker.get_paginator(operation).paginate(NameContains=prefix)
    return [item[key] for page in pages for item in page[member] if item[key].startswith(prefix)]


def exists(describe: Any, **request: Any) -> bool:
    """Whether there is such a thing."""
    return answer(describe, **request) is not None


def answer(describe: Any, **request: Any) -> dict[str, Any] | None:
    """The description, or None if there is no such thing."""
    try:
        found: dict[str, Any] = describe(**request)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return found


def is_missing(error: ClientError) -> bool:
    """Whether the service says that there is no such thing; SageMaker says so in a ValidationException's text."""
    said = error.response["Error"]
    return said["Code"] in MISSING_CODES or any(words in said.get("Message", "").lower() for words in MISSING)
