"""The processes of one training: a single one, or those that torchrun starts, one for each GPU of each instance.

SageMaker's `torch_distributed` distribution starts torchrun in its framework images (sagemaker-training toolkit,
`SM_HP_SAGEMAKER_TORCH_DISTRIBUTED_ENABLED`); in an image of one's own the toolkit starts the script once an instance,
and the script becomes torchrun, with the toolkit's command line.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from classifier.job import failures

PORT = 7777  # the toolkit's
SHUTDOWN_SECONDS = 100  # SageMaker gives a stopped job two minutes


@dataclass(frozen=True)
class Processes:
    """This process among those of the training."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # among those of this host: its GPU
    local_count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks, keeps checkpoints and writes the model."""
        return self.rank == 0

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.leads:
            failures.say(line)

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes, in each."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def broadcast(self, value: Any) -> Any:
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
        received: list[Tensor] = [rows] * self.count
        dist.all_gather_object(received, rows)
        return torch.cat(received)


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun's environment variables name (torch docs, "torchrun"); one where there are none."""
    count, rank, local_rank, local_count = (
        int(os.environ.get(name, default))
        for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(rank, count, local_rank, local_count)
    finally:
        dist.destroy_process_group()


def restart_under_torchrun() -> None:
    """Become torchrun, if this training has several processes."""
    if command := torchrun_command(os.environ, sys.argv):
        os.execv(command[0], command)


def torchrun_command(environment: Mapping[str, str], script: list[str]) -> list[str] | None:
    """The command that starts `script` in several processes; None where one is enough, or torchrun has started it.

    Args:
        environment: SM_HOSTS (a JSON list), SM_CURRENT_HOST and SM_NUM_GPUS as the toolkit sets them.
    """
    hosts = json.loads(environment.get("SM_HOSTS") or "[]") or ["algo-1"]
    each = max(1, int(environment.get("SM_NUM_GPUS") or 0))
    if "WORLD_SIZE" in environment or len(hosts) * each == 1:
        return None
    options = {
        "--nnodes": len(hosts),
        "--node-rank": hosts.index(environment.get("SM_CURRENT_HOST", hosts[0])),
        "--nproc-per-node": each,
        "--master-addr": hosts[0],
        "--master-port": PORT,
        "--shutdown-timeout": SHUTDOWN_SECONDS,
    }
    words = [f"{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "torch.distributed.run", *words, *script]
