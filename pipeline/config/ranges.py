"""What the tuning searches: the range of each hyperparameter, as `tuning.ranges` in pipeline.yaml gives it.

Scaling types and their limits are those of CreateHyperParameterTuningJob's ParameterRanges.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from pipeline.config.setting import (
    REQUIRED,
    Fault,
    Read,
    Rule,
    Unacceptable,
    choice,
    collecting,
    listing,
    mapping,
    number,
    refuse,
    section,
    setting,
    unknown_key,
    whole_number,
)
from pipeline.config.yaml_lines import Value

WHOLE_HYPERPARAMETERS: dict[str, Read[int]] = {
    "batch_size": whole_number(at_least=1),
    "epochs": whole_number(at_least=1),
    "hidden_units": whole_number(at_least=0),
    "patience": whole_number(at_least=0),
    "finetune_epochs": whole_number(at_least=1),
    "finetune_batch_size": whole_number(at_least=1),
    "frozen_stride": whole_number(at_least=0, at_most=64),
    "randaugment_magnitude": whole_number(at_least=0, at_most=30),
}
HYPERPARAMETERS: dict[str, Read[int] | Read[float]] = {  # those that steps/train.py knows
    "lr": number(above=0),
    "dropout": number(at_least=0, below=1),
    "label_smoothing": number(at_least=0, below=1),
    "weight_decay": number(at_least=0),
    "class_balance": number(at_least=0, at_most=1),
    "finetune_lr": number(above=0),
    "layer_lr_decay": number(above=0, at_most=1),
    "crop_area_min": number(above=0, at_most=1),
    "mixup_alpha": number(at_least=0),
    "cutmix_alpha": number(at_least=0),
    "erasing_probability": number(at_least=0, at_most=1),
    "ema_decay": number(at_least=0, below=1),
    **WHOLE_HYPERPARAMETERS,
}
MAX_VALUES = 30  # of a categorical range


def values(value: Value) -> tuple[int | float, ...]:
    """The values of a categorical range: at least one, none twice."""
    if not isinstance(value.data, list):
        refuse(value, f"must be a list of values, but got {value}.")
    if not 1 <= len(value.data) <= MAX_VALUES:
        refuse(value, f"must hold 1 to {MAX_VALUES} values, but holds {len(value.data) or 'none'}.")
    faults: list[Fault] = []
    found: list[int | float] = []
    for index, item in enumerate(value.data):
        with collecting(faults, f"[{index}]"):
            number()(item)
            if item.data in found:
                refuse(item, f"must not repeat another value, but got {item} again.")
            found.append(item.data)
    if faults:
        raise Unacceptable(*faults)
    return tuple(found)


def empty_range(max: float, min: float) -> str | None:
    """A range needs two different ends."""
    if max > min:
        return None
    return f"must be above min ({min}), but got {max}; a single value is {{type: categorical, values: [{max}]}}."


def logarithm_of_zero(min: float, scaling: str) -> str | None:
    """Logarithmic scaling needs positive numbers."""
    is_wrong = scaling == "Logarithmic" and min <= 0
    return f"must be above 0 for Logarithmic scaling, but got {min}." if is_wrong else None


def reverse_logarithm_below_zero(min: float, scaling: str) -> str | None:
    """Reverse logarithmic scaling needs numbers from 0 on ..."""
    is_wrong = scaling == "ReverseLogarithmic" and min < 0
    return f"must be at least 0 for ReverseLogarithmic scaling, but got {min}." if is_wrong else None


def reverse_logarithm_of_one(max: float, scaling: str) -> str | None:
    """... and below 1."""
    is_wrong = scaling == "ReverseLogarithmic" and max >= 1
    return f"must be below 1 for ReverseLogarithmic scaling, but got {max}." if is_wrong else None


RULES = (
    Rule(("max", "min"), empty_range),
    Rule(("min", "scaling"), logarithm_of_zero),
    Rule(("min", "scaling"), reverse_logarithm_below_zero),
    Rule(("max", "scaling"), reverse_logarithm_of_one),
)


@dataclass(frozen=True)
class ContinuousRange:
    """Any number from `min` to `max`."""

    rules: ClassVar = RULES
    min: float = setting(REQUIRED, number())
    max: float = setting(REQUIRED, number())
    scaling: str = setting("Auto", choice("Auto", "Linear", "Logarithmic", "ReverseLogarithmic"))


@dataclass(frozen=True)
class IntegerRange:
    """Any whole number from `min` to `max`."""

    rules: ClassVar = RULES
    min: int = setting(REQUIRED, whole_number())
    max: int = setting(REQUIRED, whole_number())
    scaling: str = setting("Auto", choice("Auto", "Linear", "Logarithmic"))


@dataclass(frozen=True)
class CategoricalRange:
    """One of a few values."""

    values: tuple[int | float, ...] = setting(REQUIRED, values)


Range = ContinuousRange | IntegerRange | CategoricalRange
RANGE_TYPES: dict[str, Read[Range]] = {
    "continuous": section(ContinuousRange),
    "integer": section(IntegerRange),
    "categorical": section(CategoricalRange),
}


def ranges(value: Value) -> dict[str, Range]:
    """The ranges by hyperparameter: at least one."""
    members = mapping(value)
    if not members:
        refuse(value, "must hold at least one range, but holds none.")
    faults: list[Fault] = []
    found = {}
    for name, member in members.items():
        if name in HYPERPARAMETERS:
            with collecting(faults, name):
                found[name] = hyperparameter_range(name, member)
        else:
            faults.append(unknown_key(name, member, HYPERPARAMETERS))
    if faults:
        raise Unacceptable(*faults)
    return found


def hyperparameter_range(name: str, value: Value) -> Range:
    """One range: sound in itself, and made of values that its hyperparameter can have."""
    members = dict(mapping(value))
    kind = members.pop("type", None)
    if kind is None:
        refuse(value, f"needs a type: {listing(tuple(RANGE_TYPES))}.")
    faults: list[Fault] = []
    with collecting(faults, "type"):
        read = range_reader(name, kind)
    if not faults:
        with collecting(faults):
            found = read(replace(value, data=members))
        reported = {fault.path for fault in faults}
        faults += [fault for fault in faults_of_values(name, members) if fault.path not in reported]
    if faults:
        raise Unacceptable(*faults)
    return found


def range_reader(name: str, kind: Value) -> Read[Range]:
    """The reader of ranges of this type; a whole-number hyperparameter has no continuous range."""
    accepted = [word for word in RANGE_TYPES if word != "continuous" or name not in WHOLE_HYPERPARAMETERS]
    return RANGE_TYPES[choice(*accepted)(kind)]


def faults_of_values(name: str, members: dict[str, Value]) -> list[Fault]:
    """The bounds and values that the hyperparameter itself cannot have."""
    places = [(key, member) for key, member in members.items() if key in ("min", "max")]
    listed = members.get("values")
    if listed and isinstance(listed.data, list):
        places += [(f"values[{index}]", item) for index, item in enumerate(listed.data)]
    faults: list[Fault] = []
    for place, item in places:
        with collecting(faults, place):
            HYPERPARAMETERS[name](item)
    return faults
