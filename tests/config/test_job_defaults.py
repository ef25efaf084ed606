"""Where the job code has defaults of its own for what pipeline.yaml states, they are the same."""

import argparse
import ast
from pathlib import Path

import pytest
import yaml

from classifier.training import debug_settings
from classifier.training.hyperparameters import Hyperparameters
from pipeline.config.config import Config, load

STEPS = Path(__file__).parents[2] / "steps"


def test_of_prepare_data():
    calls = [node for node in ast.walk(ast.parse((STEPS / "prepare.py").read_text())) if isinstance(node, ast.Call)]
    stated = {
        call.args[0].value.removeprefix("--").replace("-", "_"): keyword.value.value
        for call in calls
        for keyword in call.keywords
        if keyword.arg == "default"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(call.args[0], ast.Constant)
    }
    data = Config().data
    shared = {name: yaml.safe_load(str(value)) for name, value in stated.items() if hasattr(data, name)}
    assert len(shared) >= 7
    assert {name: "auto" if value is None else value for name, value in data if name in shared} == shared


def test_of_the_debugger():
    parser = argparse.ArgumentParser()
    debug_settings.add_arguments(parser)
    job, debug = debug_settings.parse(parser.parse_args([])), Config().debug
    for name in ("enabled", "save_interval_steps", "sample_interval_ms", "profiled_steps"):
        assert getattr(job, name) == getattr(debug, name)


@pytest.mark.parametrize("finetune", ["none", "all"])
def test_of_hyperparameters_that_the_file_leaves_out(tmp_path, finetune):
    (tmp_path / "pipeline.yaml").write_text(f"model: {{finetune: {finetune}}}\n")
    config = load(tmp_path / "pipeline.yaml")
    stated = dict(config.model) | config.finetuning.hyperparameters
    known = {name: value for name, value in stated.items() if hasattr(Hyperparameters, name)}
    assert known.pop("finetune") == finetune and len(known) > 15
    assert all(value == getattr(Hyperparameters, name) for name, value in known.items())
