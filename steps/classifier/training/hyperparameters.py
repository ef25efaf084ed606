"""The hyperparameters of one training, read from the strings that SageMaker hands to a script, and checked.

Values arrive as `--lr 0.01`, and now and then JSON-encoded once more (`"64"` with its quotes).
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from classifier.job.failures import StepError


@dataclass(frozen=True)
class Hyperparameters:
    """What decides a training's result, besides its data."""

    lr: float = 0.001  # peak learning rate of AdamW
    batch_size: int = 64
    epochs: int = 20
    hidden_units: int = 256  # 0 is a linear head
    dropout: float = 0.2  # of the embeddings, and of the hidden layer
    label_smoothing: float = 0.05
    weight_decay: float = 0.01
    class_balance: float = 0.0  # 0: every image counts alike in the loss; 1: every class does
    patience: int = 0  # epochs without a better one before the head's training ends; 0 is off
    seed: int = 0
    finetune: str = "none"  # what of the backbone learns, after the head: none, last_block or all
    finetune_epochs: int = 0  # 0 chooses, as fine_tuning_choices.py does
    finetune_batch_size: int = 16
    finetune_lr: float = 0.0005  # peak, of the head and the last block
    layer_lr_decay: float = 0.8  # of the rate, from a block to the one before it
    frozen_stride: int = -1  # layers before this stride's end stay as they are; 0 trains all, -1 chooses
    finetune_image_size: int = 0  # side of the views, px; 0 chooses
    crop_area_min: float = 0.0  # share of an image that a random crop shows at least; 0 chooses
    randaugment_magnitude: int = -1  # 0 leaves RandAugment out; -1 chooses
    mixup_alpha: float = 0.1  # 0 leaves mixup out
    cutmix_alpha: float = 0.0
    erasing_probability: float = 0.1
    ema_decay: float = 0.99  # of the weights' average, per step
    batchnorm: str = "auto"  # frozen keeps the statistics that the weights came with, train learns them
    precision: str = "auto"  # fp32 or bf16
    compile: bool = False  # torch.compile

    def to_dict(self) -> dict[str, Any]:
        """As model.json and metrics.json keep them; what a frozen backbone does not heed is left out."""
        return {name: value for name, value in asdict(self).items() if self.heeds(name)}

    def heeds(self, name: str) -> bool:
        """Whether the hyperparameter makes a difference to this training."""
        return self.fine_tunes or name not in FINE_TUNING

    @property
    def all_epochs(self) -> int:
        """Of both stages."""
        return self.epochs + (self.finetune_epochs if self.fine_tunes else 0)

    @property
    def fine_tunes(self) -> bool:
        """Whether the second stage follows."""
        return self.finetune != "none"


_NAMES = [field.name for field in fields(Hyperparameters)]
FINE_TUNING = frozenset(_NAMES[_NAMES.index("finetune") + 1 :])


def _whole(text: str) -> int:
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


@dataclass(frozen=True)
class _Rule:
    parse: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    accepted: str


def _one_of(*names: str) -> _Rule:
    return _Rule(str, lambda value: value in names, f"{', '.join(names[:-1])} or {names[-1]}")


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


_AT_LEAST_ONE = _Rule(_whole, lambda value: value >= 1, "a whole number of at least 1")
_NOT_NEGATIVE = _Rule(_whole, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
_SHARE = _Rule(_finite, lambda value: 0 <= value < 1, "a number from 0 to below 1")
_AT_LEAST_ZERO = _Rule(_finite, lambda value: value >= 0, "a number of at least 0")
_ABOVE_ZERO = _Rule(_finite, lambda value: value > 0, "a number above 0")
_POSITIVE_SHARE = _Rule(_finite, lambda value: 0 < value <= 1, "a number above 0, and at most 1")
_RULES = {
    "lr": _ABOVE_ZERO,
    "batch_size": _AT_LEAST_ONE,
    "epochs": _AT_LEAST_ONE,
    "hidden_units": _NOT_NEGATIVE,
    "dropout": _SHARE,
    "label_smoothing": _SHARE,
    "weight_decay": _AT_LEAST_ZERO,
    "class_balance": _Rule(_finite, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "patience": _NOT_NEGATIVE,
    "seed": _NOT_NEGATIVE,
    "finetune": _one_of("none", "last_block", "all"),
    "finetune_epochs": _NOT_NEGATIVE,
    "finetune_batch_size": _AT_LEAST_ONE,
    "finetune_lr": _ABOVE_ZERO,
    "layer_lr_decay": _POSITIVE_SHARE,
    "frozen_stride": _Rule(_whole, lambda value: -1 <= value <= 64, "a whole number from -1 to 64"),
    "finetune_image_size": _NOT_NEGATIVE,
    "crop_area_min": _Rule(_finite, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "randaugment_magnitude": _Rule(_whole, lambda value: -1 <= value <= 30, "a whole number from -1 to 30"),
    "mixup_alpha": _AT_LEAST_ZERO,
    "cutmix_alpha": _AT_LEAST_ZERO,
    "erasing_probability": _Rule(_finite, lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "ema_decay": _SHARE,
    "batchnorm": _one_of("auto", "frozen", "train"),
    "precision": _one_of("auto", "fp32", "bf16"),
    "compile": _Rule(_boolean, lambda value: True, "true or false"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per hyperparameter; all are strings until `parse` checks them."""
    for field in fields(Hyperparameters):
        parser.add_argument(f"--{field.name}", default=str(field.default), metavar="VALUE")


def parse(arguments: argparse.Namespace) -> Hyperparameters:
    """Check every value; all problems are reported at once."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, rule in _RULES.items():
        text = str(getattr(arguments, name)).strip().strip('"')
        try:
            values[name] = rule.parse(text)
            valid = rule.accepts(values[name])
        except (ValueError, OverflowError, KeyError):
            valid = False
        if not valid:
            problems.append(f"Hyperparameter {name} must be {rule.accepted}, but got {text or 'nothing'}.")
    if problems:
        raise StepError(" ".join(problems))
    return Hyperparameters(**values)
