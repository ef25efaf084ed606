"""Where a pipeline runs: this machine, or AWS. Both give boto3 clients and a place for artifacts; nothing else differs.

The two are `pipeline.service.local_target` and `pipeline.service.aws_target`.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.compile.placement import Placement

if TYPE_CHECKING:
    from pipeline.config.config import Config

POLL_SECONDS = {"local": 0.05, "aws": 5.0}


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

    def example(self, uri: str) -> str | None:
        """The path by which a person can open an object, if it is on this machine."""

    def log_of(self, job_group: str, job_name: str) -> str:
        """Where a person finds a job's log."""

    def last_lines(self, log: str, count: int) -> list[str]:
        """The end of a log that `log_of` or `function_log` has named; empty when it cannot be read."""

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """Where a person finds the log of a Lambda step."""

    def endpoint_view(self, name: str, status: str) -> dict[str, str | None]:
        """The endpoint's name, status, url and note: what a person is told of one that DescribeEndpoint calls so."""
