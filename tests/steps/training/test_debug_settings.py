"""How closely a training is watched, as the job's hyperparameters say it."""

import argparse
import json

import pytest

from classifier.job.failures import StepError
from classifier.training import debug_settings


@pytest.mark.parametrize("text", ["True", "true", "1", '"true"'])
def test_booleans_are_accepted_as_any_launcher_writes_them(text: str) -> None:
    assert debug_settings.parse(debug_arguments("--debug", text)).enabled


def debug_arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    debug_settings.add_arguments(parser)
    return parser.parse_args(words)


def test_rules_are_read_from_json_that_may_be_encoded_once_more() -> None:
    entries = {"Overfit": {"patience": 3, "action": "stop"}}
    once = json.dumps(entries)
    for text in (once, json.dumps(once)):
        assert debug_settings.parse(debug_arguments("--debug_rules", text)).rules == entries


WRONG_DEBUG_SETTINGS = {
    ("--debug", "maybe"): "Hyperparameter debug must be true or false, but got maybe.",
    ("--debug_profiled_steps", "-1"): "Hyperparameter debug_profiled_steps must be a whole number of at least 0, "
    "but got -1.",
    ("--debug_rules", "[1]"): "Hyperparameter debug_rules must be a JSON object of rules and their parameters, "
    "but got [1].",
}


@pytest.mark.parametrize("words", WRONG_DEBUG_SETTINGS, ids=" ".join)
def test_wrong_debug_settings_are_named(words: tuple[str, ...]) -> None:
    with pytest.raises(StepError) as raised:
        debug_settings.parse(debug_arguments(*words))
    assert str(raised.value) == WRONG_DEBUG_SETTINGS[words]


@pytest.mark.parametrize(
    ("asked", "steps", "expected"), [("auto", 90, 1), ("auto", 1000, 5), ("auto", 1001, 6), ("10", 90, 10)]
)
def test_save_interval_follows_the_length_of_the_training(asked: str, steps: int, expected: int) -> None:
    assert debug_settings.parse(debug_arguments("--debug_save_interval_steps", asked)).interval(steps) == expected
