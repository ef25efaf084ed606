"""The hyperparameters of one training, read from the strings that SageMaker hands to a script, and checked."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from classifier.job.failures import StepError

Count = Annotated[int, Field(ge=1)]
Folds = Annotated[int, Field(ge=1, le=10)]
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Side = Annotated[int, Field(ge=32, le=2048)]  # px
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeastZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
FineTune = Literal["none", "last_block", "all"]
BatchNorm = Literal["auto", "frozen", "train"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Hyperparameters:
    """What decides a training's result, besides its data.

    pipeline.yaml's bounds and defaults are these. A default outside its bounds means that `settled` chooses.
    """

    lr: AboveZero = 0.001  # peak learning rate of AdamW
    batch_size: Count = 64
    epochs: Count = 24
    folds: Folds = 5  # of cross-validation, each with a member of the head; 1: one member, which leaves none out
    hidden_units: Whole = 256  # of a member; 0 is a linear head
    dropout: ShareBelowOne = 0.3  # of the components, and of the hidden layer
    label_smoothing: ShareBelowOne = 0.05
    weight_decay: AtLeastZero = 0.0001
    class_balance: Share = 0.0  # 0: every image counts alike in the loss; 1: every class does
    patience: Whole = 0  # epochs without a better one before the head's training ends; 0 is off
    seed: Whole = 0
    finetune: FineTune = "none"  # what of the backbone learns, after the head
    finetune_epochs: Count = 0
    finetune_batch_size: Count = 16
    finetune_lr: AboveZero = 0.0005  # peak, of the head and the last block
    layer_lr_decay: ShareAboveZero = 0.9  # of the rate, from a block to the one before it
    frozen_stride: Annotated[int, Field(ge=0, le=64)] = -1  # layers down to this stride stay; 0 trains all
    finetune_image_size: Side = 0  # of the views, px
    crop_area_min: ShareAboveZero = 0.0  # share of an image that a random crop shows at least
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = -1  # 0 leaves RandAugment out
    mixup_alpha: AtLeastZero = 0.1  # 0 leaves mixup out
    cutmix_alpha: AtLeastZero = 0.0
    erasing_probability: Share = 0.1
    ema_decay: ShareBelowOne = 0.99  # of the weights' average, per step
    batchnorm: BatchNorm = "auto"  # frozen keeps the statistics that the weights came with
    precision: Precision = "auto"
    compile: bool = False  # torch.compile

    def to_dict(self) -> dict[str, Any]:
        """As model.json and metrics.json keep them; what a frozen backbone does not heed is left out."""
        return {name: value for name, value in asdict(self).items() if self.fine_tunes or name not in FINE_TUNING}

    @property
    def all_epochs(self) -> int:
        """Of both stages."""
        return self.epochs + (self.finetune_epochs if self.fine_tunes else 0)

    @property
    def fine_tunes(self) -> bool:
        """Whether the second stage follows."""
        return self.finetune != "none"


NAMES = [field.name for field in fields(Hyperparameters)]
FINE_TUNING = frozenset(NAMES[NAMES.index("finetune") + 1 :])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per hyperparameter; all are strings until `parse` checks them."""
    for field in fields(Hyperparameters):
        parser.add_argument(f"--{field.name}", default=None, metavar="VALUE")


def parse(arguments: argparse.Namespace) -> Hyperparameters:
    """Check every value; all problems are reported at once."""
    given = {name: text for name in NAMES if (text := getattr(arguments, name)) is not None}
    texts = {name: str(text).strip().strip('"') for name, text in given.items()}  # some come as JSON: "64"
    try:
        return TypeAdapter(Hyperparameters).validate_python(texts)
    except ValidationError as error:
        problems = [(str(found["loc"][0]), found["msg"].removeprefix("Input should be ")) for found in error.errors()]
    told = (f"Hyperparameter {name} must be {what}, but got {texts[name] or 'nothing'}." for name, what in problems)
    raise StepError(" ".join(told))


SMALLEST_BATCH, STEPS_PER_EPOCH = (
    8,
    12,
)  # of the head: at least so many images, and steps where there are enough of them
TRAINING_SHARE = 5 / 6  # of the deployed side: what training sees through random crops is larger (Touvron et al. 2019)
SIDE_MULTIPLE = 32  # strides of the usual networks
# Photos need no other edges and colours than the weights know: the layers that see those, a quarter of the work, stay.
# Tiny images bear less change, for half a digit is another digit, and have told what they can after fewer epochs.
PHOTOS = {"finetune_epochs": 12, "crop_area_min": 0.4, "randaugment_magnitude": 5, "frozen_stride": 4}
TINY = {"finetune_epochs": 8, "crop_area_min": 0.75, "randaugment_magnitude": 0, "frozen_stride": 0}


def settled(asked: Hyperparameters, manifest: Mapping[str, Any]) -> Hyperparameters:
    """Choose what was left open (`auto` in pipeline.yaml) by the images that the manifest describes; of few images a
    step takes fewer, or there would be too few steps."""
    images = sum(manifest["counts"]["train"].values())
    asked = replace(asked, batch_size=min(asked.batch_size, max(SMALLEST_BATCH, images // STEPS_PER_EPOCH)))
    if not asked.fine_tunes:
        return asked
    deployed_side = int(manifest["preprocess"]["image_size"])
    side = max(SIDE_MULTIPLE, round(deployed_side * TRAINING_SHARE / SIDE_MULTIPLE) * SIDE_MULTIPLE)
    chosen: dict[str, Any] = {"finetune_image_size": min(side, deployed_side)}
    chosen |= TINY if manifest.get("tiny_images") else PHOTOS
    left_open = [name for name in chosen if getattr(asked, name) == getattr(Hyperparameters, name)]
    return replace(asked, **{name: chosen[name] for name in left_open})


def hyperparameter_facts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return names in words -> values; a long floating point number is rounded to six digits."""
    words = {"lr": "learning rate", "finetune": "fine-tuning"}
    found = {name: rounded(value) for name, value in values.items() if not isinstance(value, dict | list)}
    return {
        " ".join(words.get(word, word) for word in name.split("_")).capitalize(): text for name, text in found.items()
    }


def rounded(value: Any) -> str:
    """Write a hyperparameter's value, which may be a number in a text: 16 digits say no more than six."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(value) if isinstance(value, bool) or found.is_integer() else f"{found:.6g}"
