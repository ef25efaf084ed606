"""Where a pipeline runs: this machine (local_target.py) or AWS (aws_target.py), by the same boto3 requests."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.aws.errors import explain, is_transient
from pipeline.compile.placement import Placement
from pipeline.errors import PassingError, PipelineError, ServiceError

if TYPE_CHECKING:
    from pipeline.config.config import Config

POLL_SECONDS = {"local": 0.05, "aws": 5.0}
AT_ONCE = 8  # requests; below the ten connections that a client keeps
Result = TypeVar("Result")


class Target(Protocol):
    """What the commands need of a target."""

    name: str
    placement: Placement
    tags: Mapping[str, str]
    reports: Path | None  # where training reports are kept; None: they are made on demand

    def client(self, service: str) -> Any:
        """A boto3 client."""

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken; whether it was stored."""

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Store every visible file below a folder, or one file, unless something is there; whether it was stored."""

    def put_files(self, places: Iterable[tuple[Path, str]]) -> None:
        """Store files, each under a URI that is free."""

    def read(self, uri: str) -> bytes:
        """An object."""

    def model_role(self, config: "Config") -> str:
        """The role that models are served with."""

    def set_up(self, config: "Config") -> None:
        """What has to exist beside the pipeline."""

    def alone(self) -> AbstractContextManager[object]:
        """A block in which no other process changes pipelines and functions, where that can be had."""

    def where(self, uri: str) -> str:
        """How a person opens an object."""

    def log_of(self, job_group: str, job_name: str) -> str:
        """Where a person finds a job's log."""

    def last_lines(self, log: str, count: int) -> list[str]:
        """The end of a log that `log_of` or `function_log` has named; empty when it cannot be read."""

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """Where a person finds the log of a Lambda step."""

    def endpoint_view(self, name: str, status: str) -> dict[str, str | None]:
        """The endpoint's name, status, url and note: what a person is told of one that DescribeEndpoint calls so."""


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


def objects(target: Target, uri: str) -> dict[str, int]:
    """Return the keys below a prefix, without it, in their order, and their sizes in bytes."""
    bucket, prefix = split_uri(f"{uri.rstrip('/')}/")
    with service_errors(f"list {uri}"):
        pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [item for page in pages for item in page.get("Contents", [])]
    sizes = {str(item["Key"]).removeprefix(prefix): int(item["Size"]) for item in found}
    return {key: size for key, size in sizes.items() if key and not key.endswith("/")}


def copy_objects(target: Target, source: str, destination: str, keys: Iterable[str]) -> None:
    """Copy objects of one prefix to another, some at the same time, without their tags, which takes a permission."""
    (from_bucket, from_prefix), (bucket, prefix) = (split_uri(f"{uri.rstrip('/')}/") for uri in (source, destination))
    client = target.client("s3")  # made once, then shared

    def copy(key: str) -> None:
        origin = {"Bucket": from_bucket, "Key": f"{from_prefix}{key}"}
        client.copy_object(Bucket=bucket, Key=f"{prefix}{key}", CopySource=origin, TaggingDirective="REPLACE")

    with service_errors(f"copy {source} to {destination}"):
        for _ in in_threads(copy, keys):
            pass


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
