"""What is compared with: the usual notebook, in which a frozen network sees every image in every epoch of every trial.

Plain PyTorch, eager, as a competent user writes it: the frozen body in evaluation mode and without gradients, a head
of two layers trained by Adam, images decoded by the loader's processes and cropped at the centre, no augmentation.
The search is random, over lr, batch size and epochs; the winner is trained once more and scored on the test split.

All of it happens in one process. As jobs, each trial would have to import and load everything anew.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

HIDDEN_UNITS = 256
LR = (0.001, 0.1)  # drawn evenly on a logarithmic scale
BATCH_SIZES = (16, 32, 64, 128)
EPOCHS = (2, 5)

Example = tuple[Path, int]  # an image and its label


@dataclass(frozen=True)
class Drawn:
    """The hyperparameters of one trial."""

    lr: float
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Outcome:
    """What the method took and gave."""

    seconds: float  # in all
    processor_seconds: float  # in all, which other work on the machine disturbs less
    trial_seconds: list[float]
    validation_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Settings:
    """What does not change from trial to trial."""

    classes: int
    image_size: int  # px
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    trials: int
    seed: int
    workers: int  # of the loader
    channels_last: bool


class Images(Dataset[tuple[Tensor, int]]):
    """Decoded and transformed: (3, H, W) float32 and its label.

    Args:
        transform: PIL's RGB image -> (3, H, W) float32.
    """

    def __init__(self, examples: Sequence[Example], transform: Callable[[Image.Image], Tensor]) -> None:
        self.examples, self.transform = examples, transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.examples[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def centre_crop(image_size: int, mean: Sequence[float], std: Sequence[float]) -> transforms.Compose:
    """The usual one, of a side in px; normalised."""
    return transforms.Compose(
        [
            transforms.Resize(round(image_size / 0.875)),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def processor_seconds() -> float:
    """Of this process, and of the loaders' processes that have ended."""
    return sum(os.times()[:4])


class SeedMethod:
    """One search, one training, one evaluation.

    Args:
        body: (N, 3, H, W) float32 -> (N, D) float32.
        splits: Examples of train, validation and test.
    """

    def __init__(self, body: nn.Module, splits: dict[str, list[Example]], settings: Settings) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.body = body.eval().requires_grad_(False).to(self.device, memory_format=self.format)
        transform = centre_crop(settings.image_size, settings.mean, settings.std)
        self.sets = {name: Images(examples, transform) for name, examples in splits.items()}
        self.settings = settings

    def run(self) -> Outcome:
        """All of it, timed."""
        draw = random.Random(self.settings.seed)
        began, began_processor = time.perf_counter(), processor_seconds()
        found: list[tuple[float, Drawn]] = []
        trial_seconds: list[float] = []
        for _ in range(self.settings.trials):
            drawn = Drawn(LR[0] * (LR[1] / LR[0]) ** draw.random(), draw.choice(BATCH_SIZES), draw.randint(*EPOCHS))
            started = time.perf_counter()
            found.append((self.trained(drawn)[1], drawn))
            trial_seconds.append(time.perf_counter() - started)
        _, winner = max(found, key=lambda trial: trial[0])
        head, validation_accuracy = self.trained(winner)
        test_accuracy = self.accuracy(head, "test", winner.batch_size)
        took = time.perf_counter() - began, processor_seconds() - began_processor
        return Outcome(*took, trial_seconds, validation_accuracy, test_accuracy)

    def trained(self, drawn: Drawn) -> tuple[nn.Module, float]:
        """A new head, and its accuracy on validation after the last epoch."""
        torch.manual_seed(self.settings.seed)
        head = nn.Sequential(nn.LazyLinear(HIDDEN_UNITS), nn.ReLU(), nn.Linear(HIDDEN_UNITS, self.settings.classes)).to(
            self.device
        )
        loader = self.loader("train", drawn.batch_size)
        size = self.settings.image_size
        head(self.features(torch.zeros(1, 3, size, size)))  # tells the first layer its width
        optimizer = torch.optim.Adam(head.parameters(), lr=drawn.lr)
        accuracy = 0.0
        for _ in range(drawn.epochs):
            for images, labels in loader:
                loss = nn.functional.cross_entropy(head(self.features(images)), labels.to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            accuracy = self.accuracy(head, "validation", drawn.batch_size)
        return head, accuracy

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, D), of the frozen body."""
        features: Tensor = self.body(images.to(self.device, memory_format=self.format))
        return features

    @torch.no_grad()
    def accuracy(self, head: nn.Module, split: str, batch_size: int) -> float:
        """Share of the split that is classified as it should be."""
        correct = 0
        for images, labels in self.loader(split, batch_size):
            correct += int((head(self.features(images)).argmax(dim=1).cpu() == labels).sum())
        return correct / len(self.sets[split])

    def loader(self, split: str, batch_size: int) -> DataLoader[tuple[Tensor, int]]:
        """Shuffled for training only."""
        return DataLoader(
            self.sets[split], batch_size=batch_size, shuffle=split == "train", num_workers=self.settings.workers
        )
