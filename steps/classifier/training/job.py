"""What the two training scripts share: arguments, channels, and a head with its loss.

Hyperparameters come as arguments; channels and output directories come from the environment that SageMaker sets (AWS
guide, "your-algorithms-training-algo-running-container"), and each channel can be given as an argument too.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from classifier.data.training_data import TrainingData, load
from classifier.job.failures import ArgumentParser, StepError, say
from classifier.model.head import ClassifierHead
from classifier.training import hyperparameters as hp
from classifier.training.class_balance import BalancedCrossEntropy, class_weights
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters

CHANNELS = ("embeddings", "manifest", "weights", "train", "validation")
LAUNCHER_ARGUMENTS = ("--sagemaker_", "--_tuning_objective_metric")  # launchers add them; they are not for the scripts


def opened_data(arguments: argparse.Namespace, tell: Callable[[str], None] = say) -> TrainingData:
    """Both channels of data, and a line that says what is in them."""
    # One thread unless told otherwise: a head is so small that trials side by side only hinder each other with more.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))
    data = load(channel(arguments, "embeddings"), channel(arguments, "manifest"))
    tell(
        f"Training on {len(data.train)} images of {len(data.classes)} classes, "
        f"{data.train.embeddings.shape[1]} views each; validating on {len(data.validation)}"
    )
    return data


def head_training(data: TrainingData, hyperparameters: Hyperparameters) -> HeadTraining:
    """The stage that every training begins with, and a trial is."""
    return HeadTraining(*new_head(data, hyperparameters), data, hyperparameters)


def new_head(data: TrainingData, hyperparameters: Hyperparameters) -> tuple[ClassifierHead, torch.nn.Module]:
    """An untrained head that knows the features' scale, and its loss.

    The seed is set here, so that a final training repeats its trial to the last digit.
    """
    torch.manual_seed(hyperparameters.seed)
    head = untrained_head(data, hyperparameters)
    head.standardise(data.train.embeddings)
    return head, loss_of(data, hyperparameters)


def loss_of(data: TrainingData, hyperparameters: Hyperparameters) -> torch.nn.Module:
    """(N, C) logits and (N,) labels or (N, C) probabilities -> scalar loss."""
    if not hyperparameters.class_balance:
        return torch.nn.CrossEntropyLoss(label_smoothing=hyperparameters.label_smoothing)
    weights = class_weights(data.train.labels, len(data.classes), hyperparameters.class_balance)
    return BalancedCrossEntropy(weights, hyperparameters.label_smoothing)


def untrained_head(data: TrainingData, hyperparameters: Hyperparameters) -> ClassifierHead:
    """The head that the hyperparameters describe."""
    return ClassifierHead(
        data.feature_dim,
        len(data.classes),
        hidden_units=hyperparameters.hidden_units,
        dropout=hyperparameters.dropout,
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    """A document for people as well."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_dir_of(arguments: argparse.Namespace) -> Path:
    """Where the model goes; made if it is not there."""
    model_dir = Path(arguments.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    return model_dir


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
