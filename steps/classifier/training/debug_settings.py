"""How closely a final training is watched: the `debug` section of pipeline.yaml, as the job's hyperparameters."""

import argparse
import json
from dataclasses import dataclass, field
from typing import Any

from classifier.job.failures import StepError

AUTO = "auto"
SAVED_STEPS = 200  # with auto: about so many steps of a training keep their loss
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class DebugSettings:
    """What is saved, sampled and judged."""

    enabled: bool = True
    save_interval_steps: int | None = None  # None: chosen from the length of the training
    sample_interval_ms: int = 500  # of the machine's use
    profiled_steps: int = 5  # seen by torch.profiler; 0 is off
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> parameters, `rule` and `action`
    output_uri: str = ""  # the job's S3OutputPath, below which its files are uploaded; empty: not at all

    def interval(self, training_steps: int) -> int:
        """Every how many steps a training of so many keeps its loss."""
        return self.save_interval_steps or max(1, -(-training_steps // SAVED_STEPS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per setting; all are strings until `parse` checks them."""
    for name, default in (("debug", "true"), ("debug_save_interval_steps", AUTO), ("debug_sample_interval_ms", "500"),
                          ("debug_profiled_steps", "5"), ("debug_rules", "{}"), ("debug_output_uri", "")):  # fmt: skip
        parser.add_argument(f"--{name}", default=default, metavar="VALUE")


def parse(arguments: argparse.Namespace) -> DebugSettings:
    """Check every value; the first problem is reported."""
    save_interval = str(arguments.debug_save_interval_steps).strip().strip('"')
    return DebugSettings(
        enabled=boolean("debug", str(arguments.debug)),
        save_interval_steps=None if save_interval == AUTO else whole("debug_save_interval_steps", save_interval, 1),
        sample_interval_ms=whole("debug_sample_interval_ms", str(arguments.debug_sample_interval_ms), 10),
        profiled_steps=whole("debug_profiled_steps", str(arguments.debug_profiled_steps), 0),
        rules=rules(str(arguments.debug_rules)),
        output_uri=str(arguments.debug_output_uri).strip().strip('"'),
    )


def boolean(name: str, text: str) -> bool:
    """True or False, as any launcher writes it."""
    try:
        return BOOLEANS[text.strip().strip('"').lower()]
    except KeyError:
        raise StepError(f"Hyperparameter {name} must be true or false, but got {text}.") from None


def whole(name: str, text: str, least: int) -> int:
    """A whole number from `least`."""
    text = text.strip().strip('"')
    if not text.isdecimal() or int(text) < least:
        raise StepError(
            f"Hyperparameter {name} must be a whole number of at least {least}, but got {text or 'nothing'}."
        )
    return int(text)


def rules(text: str) -> dict[str, dict[str, Any]]:
    """Rule entries; a launcher may have encoded the JSON text as JSON once more."""
    try:
        found = json.loads(text)
        found = json.loads(found) if isinstance(found, str) else found
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise StepError(
            f"Hyperparameter debug_rules must be a JSON object of rules and their parameters, but got {text}."
        )
    return found
