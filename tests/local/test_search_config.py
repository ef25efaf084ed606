"""The faults of a tuning configuration: the cases of cases/search_config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.search_config import read_search_config
from pipeline.errors import DefinitionError
from pipeline.local.jobs.search import Search

FILE = json.loads((Path(__file__).parent / "cases" / "search_config.json").read_text())


@pytest.mark.parametrize("case", FILE["cases"], ids=[case["problem"][:60] for case in FILE["cases"]])
def test_a_fault_of_the_configuration_is_one_sentence(case: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as caught:
        Search(FILE["configuration"] | case["fields"])
    assert caught.value.problems == [case["problem"]]


def test_all_faults_of_a_configuration_are_reported_at_once() -> None:
    fields = {"Strategy": "Best", "RandomSeed": -1, "ParameterRanges": {}, "ResourceLimits": {}}
    with pytest.raises(DefinitionError) as caught:
        read_search_config(FILE["configuration"] | fields)
    assert caught.value.problems == [
        "ParameterRanges must hold at least one range, but holds none.",
        "Strategy must be one of 'Bayesian', 'Random', 'Grid' and 'Hyperband', but is 'Best'.",
        "ResourceLimits.MaxParallelTrainingJobs must be a whole number, but is missing.",
        "RandomSeed must be a whole number of at least 0, but is -1.",
    ]


def test_what_is_left_out_has_the_defaults_of_the_service() -> None:
    fields = {"ResourceLimits": {"MaxParallelTrainingJobs": 2}}
    config = read_search_config(FILE["configuration"] | fields)
    assert (config.max_trials, config.early_stopping, config.target, config.max_not_improving) == (
        750,
        False,
        None,
        None,
    )
    assert (config.max_runtime_seconds, config.stop_on_convergence) == (None, False)
