"""What pipeline.yaml takes from the job code: defaults and bounds of hyperparameters, and the debugger's rules.

They are read from the dataclass that checks a job's hyperparameters, so that no second list can differ from it.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

from pipeline.paths import STEPS
from pipeline.suggestion import did_you_mean


@contextmanager
def importable_steps() -> Iterator[None]:
    """Let `classifier` be imported from steps/, as in a job."""
    sys.path.insert(0, str(STEPS))
    try:
        yield
    finally:
        sys.path.remove(str(STEPS))


with importable_steps():
    from classifier.training.hyperparameters import FINE_TUNING as FINE_TUNING
    from classifier.training.hyperparameters import BatchNorm as BatchNorm
    from classifier.training.hyperparameters import FineTune as FineTune
    from classifier.training.hyperparameters import Hyperparameters
    from classifier.training.hyperparameters import Precision as Precision
    from watch.rules import DEFAULT_RULES as DEFAULT_RULES

NOT_SEARCHED = ("folds", "seed", "finetune_image_size")
TYPES = get_type_hints(Hyperparameters, include_extras=True)
SEARCHABLE = {
    name: kind
    for name, kind in TYPES.items()
    if getattr(kind, "__origin__", None) in (int, float) and name not in NOT_SEARCHED
}


def default(name: str) -> Any:
    """Return a hyperparameter's default, None where the job code chooses."""
    found = getattr(Hyperparameters, name)
    within = bounds(name)
    return None if found < within.get("ge", found) or ("gt" in within and found <= within["gt"]) else found


def bounds(name: str) -> dict[str, Any]:
    """Return a hyperparameter's bounds as arguments of pydantic's Field: ge, gt, le, lt."""
    limits = [limit for field in getattr(TYPES[name], "__metadata__", ()) for limit in field.metadata]
    return {key: getattr(limit, key) for limit in limits for key in ("ge", "gt", "le", "lt") if hasattr(limit, key)}


def known_hyperparameter(name: str) -> str:
    """Refuse the name of what cannot be searched."""
    if name not in SEARCHABLE:
        hint = did_you_mean(name, SEARCHABLE) or f" Known here: {', '.join(SEARCHABLE)}."
        raise ValueError(f"is not a hyperparameter that can be searched.{hint}")
    return name


def rule_problems(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with one entry of debug.rules, as the rest of a sentence about it."""
    with importable_steps():
        from watch.rules.registry import check  # imports every rule
    return [f"is not accepted: {sentence.partition(': ')[2]}" for sentence in check({name: entry})]
