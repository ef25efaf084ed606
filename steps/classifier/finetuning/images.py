"""Batches of images for fine-tuning, decoded and augmented by worker processes ahead of the step that needs them."""

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from classifier.data.images import ImageError, Picture, Preprocess, decode, normalise, to_pixels
from classifier.data.prepared_images import PreparedImages
from classifier.data.training_data import REMEDY, TrainingData
from classifier.job.failures import StepError, cause
from classifier.job.system import core_count
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import Processes, channel

MAX_PREPARED_PIXELS = 1 << 31  # PrepareData has made them small
RANDAUGMENT_OPERATIONS = 2  # an image: the number in the paper's ImageNet experiments (Cubuk et al. 2020)
ERASED_AREA = (0.02, 0.2)  # share of the image


@dataclass(frozen=True)
class Images:
    """What fine-tuning reads."""

    train: PreparedImages
    validation: PreparedImages
    preprocess: Preprocess  # of the deployed network
    horizontal_flip: bool


def open_images(arguments: Namespace, data: TrainingData) -> Images:
    """The channels train and validation, which have to hold the images of the embeddings."""
    train, validation = (PreparedImages(channel(arguments, name), name) for name in ("train", "validation"))
    for images, embedded in ((train, data.train), (validation, data.validation)):
        if not np.array_equal(images.labels, embedded.labels):
            raise StepError(f"The channels' images are not those of the embeddings: they differ in labels. {REMEDY}.")
    preprocess = Preprocess.from_dict(data.manifest["preprocess"])
    return Images(train, validation, preprocess, bool(data.manifest.get("horizontal_flip", True)))


def augmentation(images: Images, settings: Hyperparameters) -> v2.Compose:
    """A prepared picture -> a random view of it, (3, side, side) float32, normalised."""
    preprocess, magnitude = images.preprocess, settings.randaugment_magnitude
    fill = [round(255 * mean) for mean in preprocess.mean]
    interpolation = v2.InterpolationMode(preprocess.interpolation)
    scale = (settings.crop_area_min, 1.0)
    return v2.Compose(
        [
            v2.RandomResizedCrop(settings.finetune_image_size, scale=scale, interpolation=interpolation),
            v2.RandomHorizontalFlip(0.5 if images.horizontal_flip else 0.0),
            v2.RandAugment(RANDAUGMENT_OPERATIONS, magnitude, fill=fill) if magnitude else v2.Identity(),
            v2.PILToTensor(),
            v2.RandomErasing(settings.erasing_probability, scale=ERASED_AREA, value=fill),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess.mean, preprocess.std),
        ]
    )


class Views(Dataset[tuple[Tensor, int]]):
    """row -> the transform's (3, H, W) float32, normalised, and the label; the same for one seed, epoch and row."""

    epoch = 0

    def __init__(self, images: PreparedImages, transform: Callable[[Picture], Tensor], seed: int = 0) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        try:
            picture = decode(self.images.read(row), max_pixels=MAX_PREPARED_PIXELS)
        except ImageError as error:
            raise StepError(f"{self.images.place(row)} cannot be used: {error} Run PrepareData again.") from error
        torch.default_generator.manual_seed(seed_of(self.seed, self.epoch, row))  # a worker's, which has no other use
        return self.transform(picture), int(self.images.labels[row])


def plain_views(images: PreparedImages, preprocess: Preprocess) -> Views:
    """Each image as the deployed network sees it."""

    def plain(picture: Picture) -> Tensor:
        return torch.from_numpy(normalise(to_pixels(picture, preprocess)[None], preprocess)[0])

    return Views(images, plain)


def load(views: Views, rows: Iterable[int], batch_size: int, processes: Processes) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the rows' views (B, 3, H, W) and labels (B,), made by workers; all cores of the host are used."""
    workers, pins = max(1, core_count() // processes.local_count), torch.cuda.is_available()
    try:
        yield from DataLoader(views, batch_size, sampler=rows, num_workers=workers, pin_memory=pins)
    except StepError as error:  # of a worker: DataLoader puts the traceback into the text
        raise StepError(str(error).rstrip().rsplit("StepError: ", 1)[-1]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StepError(f"A process that loads images was lost: {cause(error)}. Is there too little memory?") from error


def seed_of(*key: int) -> int:
    """32 bits of a few whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
