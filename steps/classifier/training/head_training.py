"""The first stage: the head learns from embeddings, which the frozen backbone gave once for all."""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from classifier.data.training_data import Split, TrainingData
from classifier.model.head import ClassifierHead
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.loop import Mode, Parts, TrainingBatch, Validation, Watcher, steps_per_epoch
from classifier.training.optimizer import AdamW, RatedParameters
from classifier.training.processes import ALONE

EVALUATION_ROWS = 512  # rows of one forward pass in validation
PLAIN_SHARE = 0.5  # of an epoch's images are seen plain for certain, the rest in any view


class HeadTraining:
    """A head, its loss and the embeddings of both splits.

    Args:
        head: Is trained in place.
        criterion: (N, C) logits and (N,) labels -> scalar loss. A module, so that the debugger can observe it.
    """

    lr_name = "learning rate"
    processes = ALONE  # it takes seconds

    def __init__(
        self, head: ClassifierHead, criterion: nn.Module, data: TrainingData, hyperparameters: Hyperparameters
    ) -> None:
        self.head, self.criterion, self.data, self.hyperparameters = head, criterion, data, hyperparameters
        self.epochs = hyperparameters.epochs
        self.steps = steps_per_epoch(len(data.train), hyperparameters.batch_size)
        self.optimizer = AdamW(
            [RatedParameters(head.parameters())],
            lr=hyperparameters.lr,
            weight_decay=hyperparameters.weight_decay,
            total_steps=self.epochs * self.steps,
        )

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """In an order and with views drawn from (seed, epoch); embeddings (B, D) float32."""
        split, batch_size = self.data.train, self.hyperparameters.batch_size
        generator = np.random.default_rng((self.hyperparameters.seed, epoch))
        order = generator.permutation(len(split))
        views = generator.integers(0, split.embeddings.shape[1], len(split))
        views[generator.random(len(split)) < PLAIN_SHARE] = 0
        for start in range(first_step * batch_size, len(split), batch_size):
            rows = order[start : start + batch_size]
            means = None if split.input_means is None else split.input_means[rows]
            labels = torch.from_numpy(split.labels[rows])
            yield TrainingBatch(_tensor(split.embeddings[rows, views[rows]]), labels, len(rows), means)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's loss and its logits."""
        logits = self.head(batch.inputs)
        return self.criterion(logits, batch.labels), logits

    def backward(self, loss: Tensor) -> None:
        """Gradients of the head."""
        loss.backward()  # type: ignore[no-untyped-call]

    def updated(self) -> None:
        """Nothing follows the optimizer's step."""

    def set_mode(self, mode: Mode) -> None:
        """Dropout on or off."""
        self.head.train(mode == "TRAIN")

    def validate(self, watcher: Watcher) -> Validation:
        """The plain views."""
        return evaluate(self.head, self.criterion, self.data.validation, watcher)

    def parts(self) -> Parts:
        """The head alone: the backbone stays as it was."""
        return {"head": {name: tensor.clone() for name, tensor in self.head.state_dict().items()}}

    def state(self) -> dict[str, Any]:
        """The head."""
        return dict(self.parts())

    def restore(self, state: dict[str, Any]) -> None:
        """The head as it was."""
        self.head.load_state_dict(state["head"])


def _tensor(embeddings: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(embeddings.astype(np.float32))


def _plain_batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """The plain views in order: (rows, D) float32 and (rows,) int64."""
    for start in range(0, len(split), EVALUATION_ROWS):
        rows = slice(start, start + EVALUATION_ROWS)
        yield _tensor(split.embeddings[rows, 0]), torch.from_numpy(split.labels[rows])


@torch.no_grad()
def evaluate(head: ClassifierHead, criterion: nn.Module, split: Split, watcher: Watcher | None = None) -> Validation:
    """What a head in evaluation mode makes of the plain views."""
    watcher = watcher or Watcher()
    loss_sum, answers = 0.0, []
    for embeddings, labels in watcher.batches(_plain_batches(split), "EVAL"):
        with watcher.phase("Forward"):
            logits = head(embeddings)  # (rows, C)
            watcher.see(labels, logits)
            loss_sum += float(criterion(logits, labels)) * len(labels)
        answers.append(logits)
    return Validation(loss_sum / len(split), torch.cat(answers), torch.from_numpy(split.labels))
