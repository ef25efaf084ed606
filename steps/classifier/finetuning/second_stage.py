"""Fine-tuning after the head's training: what it reads, and how it is begun."""

import os
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from classifier.data.images import Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import REMEDY, TrainingData
from classifier.finetuning.fine_tuning import FineTuning, Images, processes_on_host
from classifier.job.failures import StepError
from classifier.job.processors import core_count
from classifier.model.backbone import Backbone
from classifier.model.head import ClassifierHead
from classifier.training.checkpoint import Checkpoints
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import channel
from classifier.training.loop import TrainingResult, Watcher, train
from classifier.training.processes import Processes


def fine_tuned(
    earlier: TrainingResult,
    *,
    backbone: Backbone,
    head: ClassifierHead,
    criterion: nn.Module,
    images: Images,
    hyperparameters: Hyperparameters,
    processes: Processes,
    watcher: Watcher | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Go on from the first stage's best head; what is kept is the better one of the two stages' best epochs."""
    settle_in()
    torch.manual_seed(hyperparameters.seed)
    head.load_state_dict(earlier.kept.parts["head"])
    stage = FineTuning(backbone, head, criterion, images, hyperparameters, processes)
    processes.say(
        f"Fine-tuning {'the last block' if hyperparameters.finetune == 'last_block' else 'the backbone'} on "
        f"{len(images.train)} images of {stage.side} px, {hyperparameters.finetune_batch_size} a step"
        + (f", {processes.count} processes" if processes.count > 1 else "")
    )
    return train(stage, watcher=watcher, checkpoints=checkpoints, earlier=earlier)


def open_images(arguments: Namespace, data: TrainingData) -> Images:
    """The channels train and validation, checked against the embeddings' labels."""
    train, validation = (_split(channel(arguments, name), name, data) for name in ("train", "validation"))
    return Images(
        train,
        validation,
        Preprocess.from_dict(data.manifest["preprocess"]),
        horizontal_flip=bool(data.manifest.get("horizontal_flip", True)),
    )


def _split(folder: Path, name: str, data: TrainingData) -> PreparedImages:
    images = PreparedImages(folder, name)
    expected = getattr(data, name).labels
    if len(images) != len(expected) or (images.labels != expected).any():
        raise StepError(
            f"The channel {name} holds {len(images)} images, which are not those of the {len(expected)} embeddings: "
            f"they belong to different data. {REMEDY}."
        )
    return images


def settle_in() -> None:
    """Threads and memory for a backbone that learns; the head had one thread.

    OMP_NUM_THREADS counts where this host has one process: torchrun sets it to 1.
    """
    processes = processes_on_host()
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0] if processes == 1 else ""
    torch.set_num_threads(int(asked) if asked else max(1, core_count() // processes))
