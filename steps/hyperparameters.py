"""The hyperparameters of one training, read from the strings that SageMaker hands to a script, and checked.

Values arrive as `--lr 0.01`, and now and then JSON-encoded once more (`"64"` with its quotes).
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from failures import StepError


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
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As model.json and metrics.json keep them."""
        return asdict(self)


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


_AT_LEAST_ONE = _Rule(_whole, lambda value: value >= 1, "a whole number of at least 1")
_NOT_NEGATIVE = _Rule(_whole, lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
_SHARE = _Rule(_finite, lambda value: 0 <= value < 1, "a number from 0 to below 1")
_RULES = {
    "lr": _Rule(_finite, lambda value: value > 0, "a number above 0"),
    "batch_size": _AT_LEAST_ONE,
    "epochs": _AT_LEAST_ONE,
    "hidden_units": _NOT_NEGATIVE,
    "dropout": _SHARE,
    "label_smoothing": _SHARE,
    "weight_decay": _Rule(_finite, lambda value: value >= 0, "a number of at least 0"),
    "seed": _NOT_NEGATIVE,
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
