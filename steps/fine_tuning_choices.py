"""What fine-tuning does where its hyperparameters leave it open, as `auto` in pipeline.yaml.

Tiny images bear less change, for half a digit is another digit, and have told what they can after fewer epochs.
Photos are seen small at first, which costs less and teaches as much (progressive learning: Tan and Le 2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from failures import StepError
from hyperparameters import Hyperparameters

TRAINING_SHARE = 3 / 4  # of the deployed side: what training sees through random crops is larger (Touvron et al. 2019)
SIDE_MULTIPLE = 32  # strides of the usual networks


@dataclass(frozen=True)
class Choice:
    """For one kind of images; the names are those of the hyperparameters."""

    finetune_epochs: int
    crop_area_min: float
    randaugment_magnitude: int
    first_share: float  # of the side of the views, in the first epochs


PHOTOS = Choice(finetune_epochs=12, crop_area_min=0.4, randaugment_magnitude=5, first_share=2 / 3)
TINY = Choice(finetune_epochs=8, crop_area_min=0.75, randaugment_magnitude=0, first_share=1.0)


def settled(asked: Hyperparameters, manifest: Mapping[str, Any]) -> Hyperparameters:
    """The hyperparameters with nothing left open that depends on the images.

    Args:
        manifest: PrepareData's.

    Raises:
        StepError: The views would shrink.
    """
    if not asked.fine_tunes:
        return asked
    deployed_side = int(manifest["preprocess"]["image_size"])
    choice = TINY if manifest.get("tiny_images") else PHOTOS
    magnitude = asked.randaugment_magnitude
    side = asked.finetune_image_size or training_side(deployed_side)
    first_side = asked.finetune_first_image_size or min(in_steps(side * choice.first_share), side)
    if first_side > side:
        raise StepError(
            f"Hyperparameter finetune_first_image_size must be at most the {side} px of finetune_image_size, "
            f"but got {first_side}."
        )
    return replace(
        asked,
        finetune_epochs=asked.finetune_epochs or choice.finetune_epochs,
        finetune_image_size=side,
        finetune_first_image_size=first_side,
        crop_area_min=asked.crop_area_min or choice.crop_area_min,
        randaugment_magnitude=magnitude if magnitude >= 0 else choice.randaugment_magnitude,
    )


def training_side(deployed_side: int) -> int:
    """The side of the views, px: a little less than that of what the deployed network sees."""
    return min(in_steps(deployed_side * TRAINING_SHARE), deployed_side)


def in_steps(side: float) -> int:
    """The nearest side that the strides of the usual networks divide."""
    return max(round(side / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE


def sides(hyperparameters: Hyperparameters) -> list[int]:
    """Of the views, epoch by epoch, px: each size for as many epochs as any other, if that is possible."""
    first, last = hyperparameters.finetune_first_image_size, hyperparameters.finetune_image_size
    sizes = [*range(first, last, SIDE_MULTIPLE), last]
    epochs = hyperparameters.finetune_epochs
    return [sizes[ceil(epoch * len(sizes) / epochs) - 1] for epoch in range(1, epochs + 1)]
