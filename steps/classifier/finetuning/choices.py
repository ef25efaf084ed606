"""What fine-tuning does where its hyperparameters leave it open, as `auto` in pipeline.yaml.

Tiny images bear less change, for half a digit is another digit, and have told what they can after fewer epochs.
Photos need no other edges and colours than the weights know: the layers that see those, a quarter of the work, stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from classifier.training.hyperparameters import Hyperparameters

TRAINING_SHARE = 5 / 6  # of the deployed side: what training sees through random crops is larger (Touvron et al. 2019)
SIDE_MULTIPLE = 32  # strides of the usual networks


@dataclass(frozen=True)
class Choice:
    """For one kind of images; the names are those of the hyperparameters."""

    finetune_epochs: int
    crop_area_min: float
    randaugment_magnitude: int
    frozen_stride: int


PHOTOS = Choice(finetune_epochs=12, crop_area_min=0.4, randaugment_magnitude=5, frozen_stride=4)
TINY = Choice(finetune_epochs=8, crop_area_min=0.75, randaugment_magnitude=0, frozen_stride=0)


def settled(asked: Hyperparameters, manifest: Mapping[str, Any]) -> Hyperparameters:
    """The hyperparameters with nothing left open that depends on the images.

    Args:
        manifest: PrepareData's.
    """
    if not asked.fine_tunes:
        return asked
    deployed_side = int(manifest["preprocess"]["image_size"])
    choice = TINY if manifest.get("tiny_images") else PHOTOS
    magnitude, stride = asked.randaugment_magnitude, asked.frozen_stride
    return replace(
        asked,
        finetune_epochs=asked.finetune_epochs or choice.finetune_epochs,
        finetune_image_size=asked.finetune_image_size or training_side(deployed_side),
        crop_area_min=asked.crop_area_min or choice.crop_area_min,
        randaugment_magnitude=magnitude if magnitude >= 0 else choice.randaugment_magnitude,
        frozen_stride=stride if stride >= 0 else choice.frozen_stride,
    )


def training_side(deployed_side: int) -> int:
    """The side of the views, px: a little less than that of what the deployed network sees."""
    side = round(deployed_side * TRAINING_SHARE / SIDE_MULTIPLE) * SIDE_MULTIPLE
    return min(max(side, SIDE_MULTIPLE), deployed_side)
