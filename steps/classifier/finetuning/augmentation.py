"""Random views of a training image for fine-tuning, by torchvision's transforms (v2).

Unlike views.py's, they are made anew in each epoch, and differ more.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from classifier.data.images import Picture, Preprocess, from_pixels
from classifier.training.hyperparameters import Hyperparameters

ASPECT = (3 / 4, 4 / 3)  # of the part of the image that is seen; torchvision's default
RANDAUGMENT_OPERATIONS = 2  # an image: the number in the paper's ImageNet experiments (Cubuk et al. 2020)
ERASED_AREA = (0.02, 0.2)  # share of the image


@dataclass(frozen=True)
class Strength:
    """How far a view may be from its image."""

    crop_area_min: float  # share of the image's area that is seen at least
    randaugment_magnitude: int  # 0 to 30; 0 leaves RandAugment out
    erasing_probability: float
    horizontal_flip: bool


def strength_for(hyperparameters: Hyperparameters, *, horizontal_flip: bool) -> Strength:
    """What the hyperparameters say, which leave nothing open (fine_tuning_choices.py)."""
    return Strength(
        hyperparameters.crop_area_min,
        hyperparameters.randaugment_magnitude,
        hyperparameters.erasing_probability,
        horizontal_flip,
    )


class Augmentation:
    """A prepared picture -> a random view of it, (3, side, side) uint8."""

    def __init__(self, preprocess: Preprocess, side: int, strength: Strength) -> None:
        self.side = side
        fill = tuple(round(255 * mean) for mean in preprocess.mean)
        steps: list[object] = [
            v2.PILToTensor(),  # four times as quick to resize as a picture
            ResizedCrop(
                side,
                scale=(strength.crop_area_min, 1.0),
                ratio=ASPECT,
                interpolation=v2.InterpolationMode(preprocess.interpolation),
            ),
        ]
        if strength.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        if strength.randaugment_magnitude:  # quicker on pictures
            operations = v2.RandAugment(RANDAUGMENT_OPERATIONS, strength.randaugment_magnitude, fill=list(fill))
            steps += [v2.Lambda(to_picture), operations, v2.PILToTensor()]
        if strength.erasing_probability:
            steps.append(v2.RandomErasing(strength.erasing_probability, scale=ERASED_AREA, value=list(fill)))
        self.transform = v2.Compose(steps)

    def __call__(self, picture: Picture, key: tuple[int, ...]) -> Tensor:
        """The same view for the same key, wherever it is made; the caller's random numbers go on as if nothing was."""
        numbers = torch.default_generator
        state = numbers.get_state()
        numbers.manual_seed(seed_of(key))  # torch.manual_seed would note each call's stack for a GPU's later use
        try:
            view: Tensor = self.transform(picture)
        finally:
            numbers.set_state(state)
        return view


class ResizedCrop(v2.RandomResizedCrop):  # type: ignore[misc]  # torchvision has no types
    """The same crop, (3, size, size) uint8, with channels last in memory: a third quicker, as is what follows."""

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """What torchvision calls with the box that it drew."""
        part = v2.functional.crop(inpt, **params).unsqueeze(0).contiguous(memory_format=torch.channels_last)
        view: Tensor = v2.functional.resize(part, self.size, interpolation=self.interpolation, antialias=self.antialias)
        return view.squeeze(0)


def to_picture(pixels: Tensor) -> Picture:
    """(3, H, W) uint8 as a picture."""
    return from_pixels(pixels.permute(1, 2, 0).numpy())


def seed_of(key: tuple[int, ...]) -> int:
    """64 bits of a few whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
