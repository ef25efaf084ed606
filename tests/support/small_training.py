"""A real training of a small head on made-up embeddings, its tensors saved by the product's hook through smdebug."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifier.model.head import ClassifierHead
from watch.collect.smdebug_hook import Debugger, SaveIntervals

STEPS_PER_EPOCH = 5
IMAGES, FEATURES, CLASSES, BATCH = 40, 12, 3, 8


class SmallTraining:
    """Trains epoch by epoch: 5 training steps, 1 validation step, every one of them saved."""

    def __init__(self, tensors_dir: Path, *, lr: float = 0.05, hidden_units: int = 6) -> None:
        torch.manual_seed(1)
        self.labels = torch.arange(IMAGES) % CLASSES  # (N,) int64
        centres = torch.randn(CLASSES, FEATURES)
        self.embeddings = centres[self.labels] + 0.3 * torch.randn(IMAGES, FEATURES)  # (N, D) float32
        self.head = ClassifierHead(FEATURES, CLASSES, hidden_units=hidden_units)
        self.first_weights = {name: value.detach().clone() for name, value in self.head.named_parameters()}
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer: Any = torch.optim.SGD(self.head.parameters(), lr=lr)
        every_step: Any = {"TRAIN": 1, "EVAL": 1}
        self.debugger = Debugger(tensors_dir, SaveIntervals(every_step, every_step))
        self.debugger.watch(self.head, self.criterion)

    def epochs(self, count: int) -> None:
        for _ in range(count):
            self.debugger.set_mode("TRAIN")
            self.head.train()
            for start in range(0, IMAGES, BATCH):
                rows = slice(start, start + BATCH)
                self.optimizer.zero_grad()
                self.criterion(self.head(self.embeddings[rows]), self.labels[rows]).backward()
                self.optimizer.step()
            self.debugger.set_mode("EVAL")
            self.head.eval()
            with torch.no_grad():
                self.criterion(self.head(self.embeddings), self.labels)

    def close(self) -> None:
        self.debugger.close()


def trained(tensors_dir: Path, *, epochs: int = 3, lr: float = 1e30) -> Path:
    """Save a whole training, which diverges unless the rate is lower; return its folder."""
    training = SmallTraining(tensors_dir, lr=lr)
    training.epochs(epochs)
    training.close()
    return tensors_dir
