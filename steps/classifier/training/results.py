"""What a training yields: each epoch's figures, the network that is kept, and warnings."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from classifier.data.training_data import TrainingData
from classifier.training.calibration import fit_temperature, log_softmax

CLEAR = 2.0  # standard deviations
NAMED = 5  # classes in a warning


@dataclass(frozen=True)
class EpochResult:
    """One epoch's figures; losses are means over the images, with label smoothing and class weights if set."""

    epoch: int  # from 1, counted through all stages
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float  # of the epoch's first step
    selection_accuracy: float  # by cross-validation where there are folds, or else on validation
    selection_log_loss: float  # of calibrated scores, on the same images: what trials are compared by


@dataclass(frozen=True)
class Validation:
    """What the network makes of the validation split."""

    loss: float
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,) int64
    held_out: "Validation | None" = None  # the same of the training images, each answered by who has not seen it

    @property
    def selection(self) -> "Validation":
        """What hyperparameters are chosen by."""
        return self.held_out or self

    @property
    def right(self) -> Tensor:
        """(N,) bool: whose highest logit is their label's."""
        return self.logits.argmax(dim=1) == self.labels

    @property
    def accuracy(self) -> float:
        return int(self.right.sum()) / len(self.labels)

    @property
    def calibrated_log_loss(self) -> float:
        """Mean of -log(score of the label), natural, with the temperature fitted on these very images."""
        logits, labels = self.logits.numpy(), self.labels.numpy()
        log_probabilities = log_softmax(logits, fit_temperature(logits, labels))
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())


@dataclass(frozen=True)
class Kept:
    """What a stage has learned in the end, and what that answers; not its best epoch, which luck would choose."""

    figures: EpochResult
    parts: dict[str, dict[str, Tensor]]  # state dicts of what learned: head, backbone
    validation: Validation

    def better_than(self, other: "Kept") -> bool:
        """Of two stages: by accuracy, unless McNemar's test (1947), on the images that only one of both has right, puts
        the difference down to chance; then by the log loss of the calibrated scores, which varies less."""
        ours, others = self.validation, other.validation
        gained, lost = int((ours.right & ~others.right).sum()), int((others.right & ~ours.right).sum())
        if abs(gained - lost) > CLEAR * math.sqrt(gained + lost):
            return gained > lost
        return ours.calibrated_log_loss <= others.calibrated_log_loss


torch.serialization.add_safe_globals([EpochResult, Validation, Kept])  # what checkpoints hold besides tensors


@dataclass(frozen=True)
class TrainingResult:
    """Every epoch, what is kept, and why training ended before its last epoch if it did."""

    kept: Kept
    epochs: list[EpochResult]
    stopped: str | None  # on request
    ended_early: str | None  # where no more was to be expected
    second_stage_from: int | None  # the epoch with which another stage began


def warnings_of(data: TrainingData, result: TrainingResult) -> list[str]:
    """Return what looks wrong with a training that has ended well, one sentence each; none is the usual."""
    found, kept, began = [], result.kept.figures, result.second_stage_from
    if len(missing := np.setdiff1d(data.validation.labels, data.train.labels)):
        names = ", ".join(repr(data.classes[label]) for label in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        found.append(
            f"Validation has {int(np.isin(data.validation.labels, missing).sum())} images of {names}{more}, but "
            "training has none, so they cannot be recognised: add training images of every class."
        )
    predicted = np.unique(result.kept.validation.logits.argmax(dim=1).numpy())
    if len(predicted) == 1 and len(np.unique(data.validation.labels)) > 1:
        found.append(
            f"Every validation image was taken for {data.classes[predicted[0]]!r}: the training has learned nothing "
            "that tells classes apart. Try a lower learning rate, more epochs, and look at the images."
        )
    if began and not result.stopped and kept.epoch < began:
        reached = max(epoch.validation_accuracy for epoch in result.epochs[began - 1 :])
        found.append(
            "Fine-tuning brought nothing: by its answers on validation the head alone is better (its accuracy is "
            f"{kept.validation_accuracy:.4f}, fine-tuning reached {reached:.4f}), so the backbone is kept as it "
            "was. More images may help, or a lower finetune_lr; with model.finetune none, a head takes far less time."
        )
    return found
