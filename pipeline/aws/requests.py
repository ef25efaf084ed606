"""Requests about what may not be there, and how long to wait for a change."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from botocore.exceptions import ClientError

from pipeline.aws.errors import is_missing

WAITER = {"Delay": 2, "MaxAttempts": 1800}  # seconds, and times: an hour


def describe(operation: Callable[..., Any], **request: Any) -> dict[str, Any] | None:
    """Return what a Describe or Get operation answers, or None if there is no such resource."""
    try:
        answer: dict[str, Any] = operation(**request)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return answer


def put_object(s3: Any, bucket: str, key: str, content: bytes) -> Literal["", "stored", "replaced"]:
    """Store an object unless it is there with this content; return what was done: other content is replaced."""
    found = describe(s3.head_object, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if found and is_content(found, content):
        return ""
    s3.put_object(Bucket=bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256")
    return "replaced" if found else "stored"


def is_content(found: Mapping[str, Any], content: bytes) -> bool:
    """Whether HeadObject, asked for checksums, has answered about this content.

    An object that was stored without a SHA-256 has its MD5 as ETag, if it is one part and no KMS key encrypts it.
    """
    if checksum := found.get("ChecksumSHA256"):
        return bool(checksum == base64.b64encode(hashlib.sha256(content).digest()).decode())
    return bool(found.get("ETag", "").strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest())


def items(client: Any, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yield what a List or Describe operation answers, all pages."""
    pages = client.get_paginator(operation).paginate(**request)
    keys = getattr(pages, "result_keys", [])  # the local target's pages have none, but one list each
    for page in pages:
        name = keys[0].expression if keys else next((name for name in page if isinstance(page[name], list)), "")
        yield from page.get(name, [])


def list_all(client: Any, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yield the same, or nothing if what the operation asks about is missing."""
    try:
        yield from items(client, operation, **request)
    except ClientError as error:
        if not is_missing(error):
            raise
