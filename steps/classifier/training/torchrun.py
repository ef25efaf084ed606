"""Starts a training again under torchrun, one process for each GPU of each instance.

SageMaker's `torch_distributed` distribution does this in its framework images (sagemaker-training toolkit,
`SM_HP_SAGEMAKER_TORCH_DISTRIBUTED_ENABLED`); in an image of one's own the toolkit starts the script once an instance.
The command line is the one that the toolkit uses there.
"""

import json
import os
import sys
from collections.abc import Mapping

PORT = 7777  # the toolkit's
SHUTDOWN_SECONDS = 100  # SageMaker gives a stopped job two minutes


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


def restart_under_torchrun() -> None:
    """Become torchrun, if this training has several processes."""
    if command := torchrun_command(os.environ, sys.argv):
        os.execv(command[0], command)
