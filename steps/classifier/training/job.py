"""What SageMaker gives a training job: arguments, channels, checkpoints, processes, and a way to end early.

Channels and directories come from the environment (AWS guide, "your-algorithms-training-algo-running-container"), and
each of them can be given as an argument too.
"""

import argparse
import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from classifier.data.training_data import TrainingData, load
from classifier.job.failures import ArgumentParser, StepError, say
from classifier.job.system import whole_file
from classifier.training import hyperparameters as hp

CHANNELS = ("embeddings", "manifest", "weights", "train", "validation")
LAUNCHER_ARGUMENTS = ("--sagemaker_", "--_tuning_objective_metric")  # launchers add them; they are not for the scripts
SECONDS_BETWEEN = 5.0  # at least, of two checkpoints
SHARE_OF_TIME = 0.05  # that writing them may take
Item = TypeVar("Item")


def parse_arguments(description: str | None, *options: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """Return the command line of a training script; arguments that it does not know are said and ignored."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in CHANNELS:
        parser.add_argument(f"--{name}", default=os.environ.get(f"SM_CHANNEL_{name.upper()}"), metavar="DIR")
    for name, default in (("model", "/opt/ml/model"), ("output_data", "/opt/ml/output/data")):
        default = os.environ.get(f"SM_{name.upper()}_DIR", default)
        parser.add_argument(f"--{name.replace('_', '-')}-dir", type=Path, default=default, metavar="DIR")
    for add_arguments in (hp.add_arguments, *options):
        add_arguments(parser)
    arguments, unknown = parser.parse_known_args()
    unknown = [option for option in unknown if option.startswith("--") and not option.startswith(LAUNCHER_ARGUMENTS)]
    if unknown:
        say(f"Ignored arguments: {' '.join(unknown)}")
    return arguments


def channel(arguments: argparse.Namespace, name: str) -> Path:
    """Return the directory of an input channel, which must exist."""
    directory = getattr(arguments, name)
    if not directory:
        needed = f"Training needs the channel {name}, but neither SM_CHANNEL_{name.upper()} nor --{name} is set."
        raise StepError(f"{needed} Add it to the training job's input channels.")
    if not Path(directory).is_dir():
        raise StepError(f"The channel {name} is {directory}, which is no directory. Check the job's input channels.")
    return Path(directory)


def end_as_stopped(reason: str) -> None:
    """Make the job's status Stopped once its script has ended, which SageMaker does for StopTrainingJob alone."""
    if file := os.environ.get("JOB_STOP_FILE"):  # of a runner that is not SageMaker
        Path(file).write_text(reason, encoding="utf-8")
    elif job_name := os.environ.get("TRAINING_JOB_NAME"):
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            boto3.client("sagemaker").stop_training_job(TrainingJobName=job_name)
        except (BotoCoreError, ClientError) as error:
            say(f"StopTrainingJob failed ({' '.join(str(error).split())}): the job ends as Completed.")


@dataclass
class Checkpoint:
    """A file from which an interrupted training goes on; a kill at any moment leaves the last one readable."""

    file: Path
    fingerprint: str  # of all that decides the training's result: a checkpoint of another one is not taken up
    due_at: float = 0.0  # seconds on the monotonic clock

    def load(self) -> dict[str, Any] | None:
        """Return the state that `save` was last given, if it is of this training."""
        if not self.file.is_file():
            return None
        try:
            document: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            if document["fingerprint"] == self.fingerprint:
                return dict(document["state"])
            why = "is of other data or hyperparameters"
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
            why = f"cannot be read ({type(error).__name__})"
        say(f"The checkpoint {self.file} {why}: training starts anew.")
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Write the state. A full disk costs the checkpoint, not the training."""
        began = time.monotonic()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.file, "wb") as stream:
                torch.save({"fingerprint": self.fingerprint, "state": state}, stream)
        except (OSError, RuntimeError) as error:
            say(f"The checkpoint could not be written ({error}); training goes on.")
        ended = time.monotonic()
        self.due_at = ended + max(SECONDS_BETWEEN, (ended - began) / SHARE_OF_TIME)


def checkpoint_directory() -> Path | None:
    """Return what SageMaker copies to S3, and back when the job starts again (AWS guide, "model-checkpoints")."""
    config = Path(os.environ.get("SM_INPUT_CONFIG_DIR", "/opt/ml/input/config")) / "checkpointconfig.json"
    if not config.is_file():  # the job asked for none
        return None
    return Path(json.loads(config.read_text(encoding="utf-8")).get("LocalPath", "/opt/ml/checkpoints"))


@dataclass(frozen=True)
class Processes:
    """This process among those of one training: a single one, or one for each GPU of each instance."""

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
            say(line)

    def gather(self, own: Item) -> list[Item]:
        """Return what each process passes, in each, in the order of the ranks."""
        received = [own] * self.count
        if self.count > 1:
            dist.all_gather_object(received, own)
        return received

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over all processes, in each."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun's environment variables name (torch docs, "torchrun"); one where there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    processes = Processes(*(int(os.environ[name]) for name in names))
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def restart_under_torchrun() -> None:
    """Become torchrun, if the training has several processes and is not one of them.

    In AWS's images the sagemaker-training toolkit starts torchrun, with these options; elsewhere the script itself.
    """
    hosts = json.loads(os.environ.get("SM_HOSTS") or "[]") or ["algo-1"]
    each = max(1, int(os.environ.get("SM_NUM_GPUS") or 0))
    if "WORLD_SIZE" in os.environ or len(hosts) * each == 1:
        return
    node = hosts.index(os.environ.get("SM_CURRENT_HOST", hosts[0]))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(hosts)}", f"--node-rank={node}"]
    command += [f"--nproc-per-node={each}", f"--master-addr={hosts[0]}", "--master-port=7777"]
    command += ["--shutdown-timeout=100"]  # seconds; SageMaker gives a stopped job two minutes
    os.execv(sys.executable, [*command, *sys.argv])


def open_data(arguments: argparse.Namespace, processes: Processes = ALONE) -> TrainingData:
    """Open both channels of data, and say what is in them."""
    # One thread unless told otherwise: a head is so small that trials side by side only hinder each other with more.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))
    data = load(channel(arguments, "embeddings"), channel(arguments, "manifest"))
    processes.say(
        f"Training on {len(data.train)} images of {len(data.classes)} classes, "
        f"{data.train.embeddings.shape[1]} views each; validating on {len(data.validation)}"
    )
    return data
