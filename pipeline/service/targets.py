"""Where a pipeline runs: this machine (local_target.py) or AWS (aws_target.py), by the same boto3 requests."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.aws.errors import explain, is_transient
from pipeline.aws.requests import items
from pipeline.errors import PassingError, PipelineError, ServiceError

if TYPE_CHECKING:
    from pipeline.service.aws_target import AwsTarget
    from pipeline.service.local_target import LocalTarget

Target: TypeAlias = "LocalTarget | AwsTarget"  # the same methods, described in LocalTarget
POLL_SECONDS = {"local": 0.05, "aws": 5.0}
AT_ONCE = 8  # requests; below the ten connections that a client keeps
Result = TypeVar("Result")


@contextmanager
def service_errors(action: str) -> Iterator[None]:
    """Raise a ServiceError of one sentence for a request that is refused or not answered.

    It is a PassingError if the same request may be answered later.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as problem:
        kind = PassingError if is_transient(problem) else ServiceError
        raise kind(f"Could not {action}: {explain(problem)}") from problem


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an S3 URI; a ServiceError if it is none."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ServiceError(f"{uri!r} is not an S3 URI.")
    return bucket, key


def ask(target: Target, action: str, operation: str, **request: Any) -> dict[str, Any]:
    """Return SageMaker's answer to a request."""
    with service_errors(action):
        answer: dict[str, Any] = getattr(target.client("sagemaker"), operation)(**request)
    return answer


def ask_all(target: Target, action: str, operation: str, **request: Any) -> list[dict[str, Any]]:
    """Return what a List request of SageMaker answers, all pages."""
    with service_errors(action):
        return list(items(target.client("sagemaker"), operation, **request))


def objects(target: Target, uri: str) -> dict[str, int]:
    """Return the keys below a prefix, without it, in their order, and their sizes in bytes."""
    bucket, prefix = split_uri(f"{uri.rstrip('/')}/")
    with service_errors(f"list {uri}"):
        found = list(items(target.client("s3"), "list_objects_v2", Bucket=bucket, Prefix=prefix))
    return {item["Key"].removeprefix(prefix): item["Size"] for item in found if not item["Key"].endswith("/")}


def copy_objects(target: Target, source: str, destination: str, keys: Iterable[str]) -> None:
    """Copy objects of one prefix to another, some at the same time, without their tags, which takes a permission."""
    (from_bucket, from_prefix), (bucket, prefix) = (split_uri(f"{uri.rstrip('/')}/") for uri in (source, destination))
    client = target.client("s3")  # made once, then shared

    def copy(key: str) -> None:
        origin = {"Bucket": from_bucket, "Key": f"{from_prefix}{key}"}
        client.copy_object(Bucket=bucket, Key=f"{prefix}{key}", CopySource=origin, TaggingDirective="REPLACE")

    with service_errors(f"copy {source} to {destination}"):
        list(in_threads(copy, keys))


def in_threads(function: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
    """Yield the results in the order of the items, AT_ONCE of them at work; whoever stops listening ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def memory_uri(target: Target, pipeline_name: str) -> str:
    """Return where is kept which data a pipeline used last."""
    return target.placement.uri(pipeline_name, "data", "source.json")


def remembered(target: Target, pipeline_name: str) -> dict[str, str]:
    """Return source, URI and the configured source of the data that a pipeline used last; empty if it is not known."""
    with suppress(PipelineError, ValueError, KeyError):
        if target.holds(memory_uri(target, pipeline_name)):
            last = json.loads(target.read(memory_uri(target, pipeline_name)))
            return {key: str(last[key]) for key in ("source", "uri", "configured")}
    return {}
