"""What the two training scripts share: arguments, channels, outputs, and how a job ends early.

Hyperparameters come as arguments; channels and output directories come from the environment that SageMaker sets (AWS
guide, "your-algorithms-training-algo-running-container"), and each channel can be given as an argument too.
"""

import argparse
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from classifier.data.training_data import TrainingData, load
from classifier.job.failures import ArgumentParser, StepError, say
from classifier.training import hyperparameters as hp
from classifier.training.loop import Watcher

CHANNELS = ("embeddings", "manifest", "weights", "train", "validation")
LAUNCHER_ARGUMENTS = ("--sagemaker_", "--_tuning_objective_metric")  # launchers add them; they are not for the scripts
REASON_FILE = "JOB_STOP_FILE"  # environment variable: the file in which a runner that is not SageMaker expects a reason


def parse_arguments(
    description: str | None, add_own: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> argparse.Namespace:
    """The command line of a training script; arguments that it does not know are said and ignored."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hp.add_arguments(parser)
    for name in CHANNELS:
        parser.add_argument(f"--{name}", default=os.environ.get(f"SM_CHANNEL_{name.upper()}"), metavar="DIR")
    parser.add_argument("--model-dir", default=os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
    add_own(parser)
    arguments, unknown = parser.parse_known_args()
    unknown = [option for option in unknown if option.startswith("--") and not option.startswith(LAUNCHER_ARGUMENTS)]
    if unknown:
        say(f"Ignored arguments: {' '.join(unknown)}")
    return arguments


def channel(arguments: argparse.Namespace, name: str) -> Path:
    """The directory of an input channel, which must exist."""
    directory = getattr(arguments, name)
    if not directory:
        raise StepError(
            f"Training needs the channel {name}, but neither SM_CHANNEL_{name.upper()} nor --{name} is set. "
            f"Add it to the training job's input channels."
        )
    if not Path(directory).is_dir():
        raise StepError(f"The channel {name} is {directory}, which is no directory. Check the job's input channels.")
    return Path(directory)


def open_data(arguments: argparse.Namespace, tell: Callable[[str], None] = say) -> TrainingData:
    """Both channels of data, and a line that says what is in them."""
    # One thread unless told otherwise: a head is so small that trials side by side only hinder each other with more.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))
    data = load(channel(arguments, "embeddings"), channel(arguments, "manifest"))
    tell(
        f"Training on {len(data.train)} images of {len(data.classes)} classes, "
        f"{data.train.embeddings.shape[1]} views each; validating on {len(data.validation)}"
    )
    return data


def make_model_dir(arguments: argparse.Namespace) -> Path:
    """Where the model goes."""
    model_dir = Path(arguments.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    return model_dir


def write_json(path: Path, document: dict[str, Any]) -> None:
    """A document for people as well."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def stopped_by_sigterm(watcher: Watcher) -> Iterator[Watcher]:
    """SIGTERM (StopTrainingJob, the end of MaxRuntime, spot capacity taken back) ends the training after its step."""

    def on_signal(number: int, frame: object) -> None:
        watcher.stop_requested = "The job was asked to stop (SIGTERM)."

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield watcher
    finally:
        signal.signal(signal.SIGTERM, before)


def end_as_stopped(reason: str) -> None:
    """Make the job's status Stopped once its script has ended.

    SageMaker knows that status only for a job that StopTrainingJob ended (what is in /opt/ml/model is kept then), so a
    script that a rule stops asks for that itself. Without permission or network the job ends Completed, and says why.
    """
    if file := os.environ.get(REASON_FILE):
        Path(file).write_text(reason, encoding="utf-8")
    elif job_name := os.environ.get("TRAINING_JOB_NAME"):
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            boto3.client("sagemaker").stop_training_job(TrainingJobName=job_name)
        except (BotoCoreError, ClientError) as error:
            say(f"StopTrainingJob failed ({' '.join(str(error).split())}): the job ends as Completed.")
