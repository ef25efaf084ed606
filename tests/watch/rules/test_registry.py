"""Rules are found by class name, and mistakes in their configuration are said in one sentence each."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from saved_run import judged, losses

from watch.rules import base, registry
from watch.rules.registry import check, from_request, load, sources

STEPS = Path(registry.FOLDER).parents[1]
DOCUMENTED = {  # AWS guide, "List of Debugger built-in rules"
    "VanishingGradient": {"threshold": 1e-7},
    "ExplodingTensor": {"only_nan": False},
    "PoorWeightInitialization": {"threshold": 10.0, "distribution_range": 0.001, "patience": 5, "steps": 10},
    "SaturatedActivation": {"threshold_tanh_min": -9.4999, "threshold_sigmoid_max": 16.99999, "threshold_layer": 50.0},
    "DeadRelu": {"tensor_regex": [".*relu_output"], "threshold_inactivity": 1.0, "threshold_layer": 50.0},
    "WeightUpdateRatio": {"num_steps": None, "large_threshold": 10.0, "small_threshold": 1e-8, "epsilon": 1e-9},
    "ClassImbalance": {"threshold_imbalance": 10.0, "threshold_misprediction": 0.7, "samples": 500, "argmax": False},
    "LossNotDecreasing": {"num_steps": 10, "diff_percent": 0.1, "increase_threshold_percent": 5.0, "mode": None},
    "Overfit": {"tensor_regex": None, "start_step": 0, "patience": 1, "ratio_threshold": 0.1},
    "Overtraining": {"patience_train": 5, "patience_validation": 10, "delta": 0.01},
    "StalledTrainingRule": {"threshold": 1800.0, "stop_training_on_fire": False},
    "CheckInputImages": {"threshold_mean": 0.2, "threshold_samples": 500, "channel": 1},
    "Confusion": {"category_no": None, "min_diag": 0.9, "max_off_diag": 0.1},
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_parameters_and_defaults_are_the_documented_ones(name: str) -> None:
    parameters = load(name)().parameters()
    assert {key: parameters[key] for key in DOCUMENTED[name]} == DOCUMENTED[name]


def test_configuration_without_mistakes_has_nothing_to_say() -> None:
    entries = {
        "VanishingGradient": None,
        "Overfit": {"ratio_threshold": 0.2, "action": "stop", "semantics": "aws"},
        "Plateau": {"rule": "LossNotDecreasing", "num_steps": "20", "diff_percent": "1e-1", "mode": "train"},
        "Zeros": {"rule": "AllZero", "tensor_regex": ".*weight, .*bias", "threshold": 90},
    }
    assert check(entries) == []


@pytest.mark.parametrize(
    ("name", "entry", "sentence"),
    [
        ("Overfitt", None, "there is no rule class 'Overfitt'. Did you mean 'Overfit'?"),
        ("Mine", {"rule": "XyzzyPlugh"}, "there is no rule class 'XyzzyPlugh'."),
        ("Overfit", {"action": "email"}, "action must be none or stop, but got 'email'."),
        ("Overfit", {"semantics": "ours"}, "semantics must be watch or aws, but got 'ours'."),
        ("Overfit", {"patienc": 1}, "Overfit has no parameter 'patienc'. Did you mean 'patience'?"),
        ("Overfit", {"patience": 0}, "patience must be at least 1, but got 0."),
        ("Overfit", {"ratio_threshold": "a lot"}, "ratio_threshold must be a number, but got 'a lot'."),
        ("AllZero", {"tensor_regex": "a", "threshold": 101}, "threshold must be at most 100, but got 101."),
        ("AllZero", None, "collection_names or tensor_regex must say which tensors to look at."),
        ("TensorVariance", {"tensor_regex": "x"}, "max_threshold or min_threshold must be given."),
        ("ExplodingTensor", {"only_nan": "maybe"}, "only_nan must be true or false, but got 'maybe'."),
        ("ExplodingTensor", {"collection_names": []}, "collection_names must be a list of at least one string, but g"),
        ("ExplodingTensor", {"tensor_regex": "("}, "tensor_regex must be a regular expression, but '(' is none (mis"),
        ("LossNotDecreasing", {"mode": "TEST"}, "mode must be one of EVAL, TRAIN, GLOBAL, but got 'TEST'."),
        ("LossNotDecreasing", {"num_steps": 2.5}, "num_steps must be a whole number, but got 2.5."),
        ("LossNotDecreasing", {"diff_percent": float("nan")}, "diff_percent must be a number, but got nan."),
    ],
)
def test_a_mistake_is_said_in_one_sentence(name: str, entry: dict | None, sentence: str) -> None:
    [found] = check({name: entry})
    assert found.startswith(f"Rule '{name}': {sentence}")


def test_all_mistakes_are_said() -> None:
    assert len(check({"Overfit": {"patience": 0, "ratio_threshold": -1, "start_step": 0.5}, "Mine": None})) == 4


def test_rules_of_a_folder_of_one_s_own_are_judged(tmp_path: Path) -> None:
    example = str(base.__doc__)[str(base.__doc__).index("    from watch") :]
    (tmp_path / "large_loss.py").write_text(textwrap.dedent(example))
    (tmp_path / "raises.py").write_text(
        "from dataclasses import dataclass, field\nfrom watch.rules.base import TensorRule\n\n\n"
        "@dataclass(kw_only=True)\nclass Raises(TensorRule):\n    seen: list = field(default_factory=list)\n"
        "    def evaluate(self, trial, step, mode):\n        raise KeyError(step + len(self.seen))\n"
    )
    entries = {"LargeLoss": {"limit": 2}, "Raises": {}}
    assert check({"LargeLoss": {"limit": 0}}, tmp_path) == ["Rule 'LargeLoss': limit must be above 0, but got 0."]
    large, raises = judged(tmp_path / "run", entries, losses([1.5, 2.5]), rules_folder=tmp_path)["rules"]
    assert large["fired"][0]["sentence"] == "CrossEntropyLoss_output_0 is 2.5 at step 1 (limit 2)."
    assert (raises["status"], "KeyError: 0" in raises["traceback"]) == ("Error", True)


def test_files_that_are_no_rules_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken_rule.py").write_text("class BrokenRule(TensorRule):\n    def (\n")
    (tmp_path / "lost.py").write_text(
        "import nothing\nfrom watch.rules.base import TensorRule as T\nclass Lost(T): ..."
    )
    (tmp_path / "old.py").write_text(
        "import no_such_module\nfrom smdebug.rules.rule import Rule\n\nclass Old(Rule):\n"
        "    def __init__(self, base_trial, threshold=10.0, *, action_str=''):\n        super().__init__(base_trial)\n"
    )
    found = check({"BrokenRule": None, "Lost": None, "Old": {"treshold": 3}}, tmp_path)
    assert "broken_rule.py, line 2, is not Python: invalid syntax." in found[0]
    assert "lost.py cannot be used (ModuleNotFoundError: No module named 'nothing')." in found[1]
    assert found[2:] == ["Rule 'Old': Old has no parameter 'treshold'. Did you mean 'threshold'?"]
    assert check({"Old": {"threshold": 3}}, tmp_path) == []  # without importing smdebug


def test_a_rule_written_for_smdebug_is_judged_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "customs.py").write_text(
        "from smdebug.rules.rule import Rule\n\n\nclass HighLoss(Rule):\n"
        "    def __init__(self, base_trial, limit=1.0):\n        super().__init__(base_trial)\n"
        "        self.limit = float(limit)\n\n    def invoke_at_step(self, step):\n"
        "        loss = self.base_trial.tensor('CrossEntropyLoss_output_0').value(step)\n"
        "        return float(loss) > self.limit\n"
    )
    entries = {"HighLoss": {"limit": "2"}}
    [rule] = judged(tmp_path / "run", entries, losses([1.5, 2.5]), rules_folder=tmp_path)["rules"]
    assert (rule["kind"], rule["status"], rule["judged"], rule["traceback"]) == ("custom", "IssuesFound", 2, None)
    assert rule["fired"][0]["sentence"] == "HighLoss met its condition at step 1, mode TRAIN."


def test_rules_of_a_training_job_s_request_are_taken_as_they_are() -> None:
    stop = json.dumps({"name": "StopTraining", "training_job_prefix": "mine"})
    given = {
        "Grads": {"rule_to_invoke": "VanishingGradient", "threshold": "0.0000001", "action_json": stop},
        "Overfit": {"rule_to_invoke": "Overfit"},
        "Mine": {"rule_to_invoke": "CustomRule", "source_s3_uri": "s3://b/mine.py"},
        "Future": {"rule_to_invoke": "NotYetThere"},
    }
    entries, missing = from_request([{"RuleConfigurationName": name, "RuleParameters": given[name]} for name in given])
    assert entries == {
        "Grads": {"rule": "VanishingGradient", "semantics": "aws", "action": "stop", "threshold": "0.0000001"},
        "Overfit": {"rule": "Overfit", "semantics": "aws", "action": "none"},
    }
    assert missing == ["CustomRule (s3://b/mine.py)", "NotYetThere"]
    assert check(entries) == []


def test_reading_and_judging_need_neither_torch_nor_smdebug() -> None:
    code = (
        "import sys; sys.modules |= {'torch': None, 'smdebug': None, 'google': None}; "
        f"from watch.rules.registry import check; print(check(dict.fromkeys({sorted(DOCUMENTED)})))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=STEPS, capture_output=True, text=True, check=False)
    assert (process.stdout, process.stderr) == ("[]\n", "")
    assert {"LossNotFinite", "LossExploding", "OneClass", "LearningRate", "FrozenWeights", "WrongLabels"} <= {
        *sources()
    }
