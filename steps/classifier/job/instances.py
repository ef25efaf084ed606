"""Instances of one job: who they are, and who does what.

/opt/ml/config/resourceconfig.json names them, as the AWS guide has it ("build-your-own-processing-container").
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from classifier.job.failures import StepError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Instance:
    """One of `count` instances."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this instance does what is done once."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item; all instances together have each item once."""
        return list(items[self.rank :: self.count])


def read_instance(resource_config: Path | None) -> Instance:
    """Which instance this is; the only one where no file says otherwise."""
    if resource_config is None or not resource_config.is_file():
        return Instance()
    try:
        described = json.loads(resource_config.read_text(encoding="utf-8"))
        hosts = sorted(described["hosts"])
        return Instance(hosts.index(described["current_host"]), len(hosts))
    except (ValueError, KeyError, TypeError) as error:
        raise StepError(
            f"{resource_config} must name current_host, and that among hosts, but does not ({error!r})."
        ) from error
