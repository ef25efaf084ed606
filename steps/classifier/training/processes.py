"""The processes of one training: a single one, or those that torchrun started on one or more hosts.

Each takes its share of every batch; sums and state cross over torch.distributed (gloo between CPUs, NCCL between GPUs).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from classifier.job import failures

BACKENDS = "cpu:gloo,cuda:nccl"
Items = TypeVar("Items", bound=Sequence[Any])


@dataclass(frozen=True)
class Processes:
    """This process among those of the training."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of this host: its GPU

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, keeps checkpoints and writes the model."""
        return self.rank == 0

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.leads:
            failures.say(line)

    def share(self, items: Items, multiple: int = 1) -> Items:
        """This process's consecutive items; each process gets a multiple of `multiple`, but for the last that has any.

        The shares together are the items, in the order of the ranks.
        """
        groups = -(-len(items) // multiple)
        start, end = (multiple * (groups * rank // self.count) for rank in (self.rank, self.rank + 1))
        part: Any = items[start:end]
        return part  # type: ignore[no-any-return]

    def spread(self, items: Items, multiple: int) -> tuple[Items, int]:
        """This process's items of a batch, and how many processes have the same: where there are too few for all, each
        gets every item, since none may go without."""
        if len(items) < multiple * self.count:
            return items, self.count
        return self.share(items, multiple), 1

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes, in each."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def told(self, value: Any) -> Any:
        """What the first process passes, in each."""
        if self.count == 1:
            return value
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all processes in the order of the ranks, in each; n may differ."""
        if self.count == 1:
            return rows
        counts = self.sum([float(len(rows)) if rank == self.rank else 0.0 for rank in range(self.count)])
        largest = int(max(counts))
        padded = torch.zeros(largest, *rows.shape[1:], dtype=rows.dtype)
        padded[: len(rows)] = rows.cpu()
        received = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(received, padded)
        return torch.cat([part[: int(count)] for part, count in zip(received, counts, strict=True)])


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun's environment variables name (torch docs, "torchrun"); one where there are none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(BACKENDS if on_gpu else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count, local_rank)
    finally:
        dist.destroy_process_group()
