"""What looks wrong with a training that has ended well: no error, but somebody should know."""

import numpy as np

from classifier.data.training_data import TrainingData
from classifier.training.loop import TrainingResult

NAMED = 5  # classes


def warnings_of(data: TrainingData, result: TrainingResult) -> list[str]:
    """One sentence each; none is the usual."""
    return [*_unlearned_classes(data), *_single_answer(data, result), *_fruitless_fine_tuning(result)]


def _unlearned_classes(data: TrainingData) -> list[str]:
    """Classes that validation asks for and training never shows."""
    missing = np.setdiff1d(data.validation.labels, data.train.labels)
    if not len(missing):
        return []
    names = ", ".join(repr(data.classes[label]) for label in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    images = int(np.isin(data.validation.labels, missing).sum())
    return [
        f"Validation has {images} images of {names}{more}, but training has none, so they cannot be recognised: add "
        f"training images of every class."
    ]


def _single_answer(data: TrainingData, result: TrainingResult) -> list[str]:
    """The network says the same whatever it sees."""
    predicted = np.unique(result.kept.validation.logits.argmax(dim=1).numpy())
    if len(predicted) > 1 or len(np.unique(data.validation.labels)) == 1:
        return []
    return [
        f"Every validation image was taken for {data.classes[predicted[0]]!r}: the training has learned nothing that "
        f"tells classes apart. Try a lower learning rate, more epochs, and look at the images."
    ]


def _fruitless_fine_tuning(result: TrainingResult) -> list[str]:
    """The second stage took its time, and the first one's head is what is kept."""
    began, kept = result.second_stage_from, result.kept.figures
    if began is None or result.stopped or kept.epoch >= began:
        return []
    reached = max(epoch.validation_accuracy for epoch in result.epochs if epoch.epoch >= began)
    return [
        "Fine-tuning brought nothing: by its answers on validation the head alone is better (its accuracy is "
        f"{kept.validation_accuracy:.4f}, fine-tuning reached {reached:.4f}), so the backbone is kept as it "
        "was. More images may help, or a lower finetune_lr; with model.finetune none, a head takes far less time."
    ]
