"""Rules are found by class name, and mistakes in their configuration are said in one sentence each."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from rule_data import DictTrial

from watch import rules
from watch.read.tensors import Mode
from watch.rules import base, registry
from watch.rules.base import Rule
from watch.rules.registry import load, make, sources

STEPS = Path(registry.FOLDER).parents[1]

DEFAULTS = {  # as AWS documents them
    "AllZero": {"collection_names": ["weights"], "tensor_regex": None, "threshold": 100.0},
    "CheckInputImages": {"threshold_mean": 0.2, "threshold_samples": 500, "regex": [".*input_image"], "channel": 1},
    "ClassImbalance": {
        "threshold_imbalance": 10.0,
        "threshold_misprediction": 0.7,
        "samples": 500,
        "argmax": False,
        "labels_regex": [".*labels"],
        "predictions_regex": [".*predictions"],
    },
    "Confusion": {
        "category_no": None,
        "labels": [".*labels"],
        "predictions": [".*predictions"],
        "min_diag": 0.9,
        "max_off_diag": 0.1,
    },
    "DeadRelu": {"tensor_regex": [".*relu_output"], "threshold_inactivity": 1.0, "threshold_layer": 50.0},
    "ExplodingTensor": {"collection_names": None, "tensor_regex": None, "only_nan": False},
    "LossNotDecreasing": {
        "collection_names": None,
        "tensor_regex": None,
        "use_losses_collection": True,
        "num_steps": 10,
        "diff_percent": 0.1,
        "increase_threshold_percent": 5.0,
        "mode": None,
    },
    "Overfit": {"tensor_regex": None, "start_step": 0, "patience": 1, "ratio_threshold": 0.1},
    "Overtraining": {"patience_train": 5, "patience_validation": 10, "delta": 0.01},
    "PoorWeightInitialization": {
        "activation_inputs_regex": [".*relu_input"],
        "threshold": 10.0,
        "distribution_range": 0.001,
        "patience": 5,
        "steps": 10,
    },
    "SaturatedActivation": {
        "tensor_regex": [".*tanh_input|.*sigmoid_input"],
        "threshold_tanh_min": -9.4999,
        "threshold_tanh_max": 9.4999,
        "threshold_sigmoid_min": -23.0,
        "threshold_sigmoid_max": 16.99999,
        "threshold_inactivity": 1.0,
        "threshold_layer": 50.0,
    },
    "StalledTraining": {"threshold": 1800.0, "stop_training_on_fire": False},
    "StalledTrainingRule": {"threshold": 1800.0, "stop_training_on_fire": False},
    "TensorVariance": {
        "collection_names": ["weights"],
        "tensor_regex": None,
        "max_threshold": 9.0,
        "min_threshold": None,
    },
    "UnchangedTensor": {
        "collection_names": ["weights"],
        "tensor_regex": None,
        "num_steps": 3,
        "rtol": 1e-5,
        "atol": 1e-8,
        "equal_nan": False,
    },
    "VanishingGradient": {"threshold": 1e-7},
    "WeightUpdateRatio": {"num_steps": None, "large_threshold": 10.0, "small_threshold": 1e-8, "epsilon": 1e-9},
}
REQUIRED = {
    "AllZero": {"collection_names": "weights"},
    "TensorVariance": {"collection_names": "weights", "max_threshold": 9},
    "UnchangedTensor": {"collection_names": "weights"},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_parameters_and_defaults_are_the_documented_ones(name: str) -> None:
    rule: Rule = load(name)(**REQUIRED.get(name, {}))
    assert rule.parameters() == DEFAULTS[name]
    assert "Source: AWS guide" in str(load(name).__doc__) or name == "StalledTrainingRule"
    assert rule.advice
    assert rule.note == f"too little data: {rule.needs}"


def test_configuration_without_mistakes_has_nothing_to_say() -> None:
    entries = {
        "VanishingGradient": None,
        "Overfit": {"ratio_threshold": 0.2, "action": "stop"},
        "Plateau": {"rule": "LossNotDecreasing", "num_steps": "20", "diff_percent": "1e-1", "mode": "train"},
        "Zeros": {"rule": "AllZero", "tensor_regex": ".*weight, .*bias", "threshold": 90},
    }
    assert rules.check(entries) == []


@pytest.mark.parametrize(
    ("entries", "sentences"),
    [
        ({"Overfitt": None}, ["Rule 'Overfitt': there is no rule class 'Overfitt'. Did you mean 'Overfit'?"]),
        ({"Mine": {"rule": "XyzzyPlugh"}}, ["Rule 'Mine': there is no rule class 'XyzzyPlugh'."]),
        ({"Overfit": 3}, ["Rule 'Overfit' must be a mapping of parameters, but got 3."]),
        ({"Overfit": {"action": "email"}}, ["Rule 'Overfit': action must be none or stop, but got 'email'."]),
        (
            {"Overfit": {"ratio_treshold": 1}},
            ["Rule 'Overfit': Overfit has no parameter 'ratio_treshold'. Did you mean 'ratio_threshold'?"],
        ),
        (
            {"VanishingGradient": {"zzz": 1}},
            ["Rule 'VanishingGradient': VanishingGradient has no parameter 'zzz'. Its parameters are threshold."],
        ),
        (
            {"Overfit": {"patience": 0, "ratio_threshold": "a lot"}},
            [
                "Rule 'Overfit': patience must be at least 1, but got 0.",
                "Rule 'Overfit': ratio_threshold must be a number, but got 'a lot'.",
            ],
        ),
        (
            {"AllZero": {"threshold": 101}},
            ["Rule 'AllZero': threshold must be at most 100, but got 101."],
        ),
        (
            {"AllZero": None},
            ["Rule 'AllZero': collection_names or tensor_regex must say which tensors to look at."],
        ),
        (
            {"TensorVariance": {"collection_names": ["weights"]}},
            ["Rule 'TensorVariance': max_threshold or min_threshold must be given."],
        ),
        (
            {"ExplodingTensor": {"only_nan": "maybe", "tensor_regex": "(", "collection_names": []}},
            [
                "Rule 'ExplodingTensor': collection_names must be a list of at least one string, but got none.",
                "Rule 'ExplodingTensor': tensor_regex must be a regular expression, but '(' is none "
                "(missing ), unterminated subpattern at position 0).",
                "Rule 'ExplodingTensor': only_nan must be true or false, but got 'maybe'.",
            ],
        ),
        (
            {"LossNotDecreasing": {"mode": "TEST", "num_steps": 2.5, "diff_percent": float("nan")}},
            [
                "Rule 'LossNotDecreasing': num_steps must be a whole number, but got 2.5.",
                "Rule 'LossNotDecreasing': diff_percent must be a number, but got nan.",
                "Rule 'LossNotDecreasing': mode must be one of EVAL, TRAIN, GLOBAL, but got 'TEST'.",
            ],
        ),
        (
            {"UnchangedTensor": {"collection_names": 7, "num_steps": True}},
            [
                "Rule 'UnchangedTensor': collection_names must be a list of strings, but got 7.",
                "Rule 'UnchangedTensor': num_steps must be a whole number, but got True.",
            ],
        ),
    ],
)
def test_a_mistake_is_said_in_one_sentence(entries: dict, sentences: list[str]) -> None:
    assert rules.check(entries) == sentences


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of rules that stands for steps/watch/rules/."""
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    sources.cache_clear()
    yield tmp_path
    sources.cache_clear()


def test_parameters_of_an_smdebug_rule_are_checked_without_importing_it(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "import no_such_module\nfrom smdebug.rules.rule import Rule\n\nclass Mine(Rule):\n"
        "    def __init__(self, base_trial, threshold=10.0, *, action_str=''):\n        super().__init__(base_trial)\n"
    )
    (folder / "other.py").write_text("import smdebug.rules as r\n\nclass Other(r.Rule):\n    pass\n")
    assert rules.check({"Mine": {"threshold": 3}, "Other": None}) == []
    assert rules.check({"Mine": {"treshold": 3}}) == [
        "Rule 'Mine': Mine has no parameter 'treshold'. Did you mean 'threshold'?"
    ]
    assert rules.check({"Other": {"x": 3}}) == ["Rule 'Other': Other has no parameter 'x'. It has none."]


def test_the_example_of_a_rule_of_one_s_own_works(folder: Path) -> None:
    example = str(base.__doc__)[str(base.__doc__).index("    from dataclasses") :]
    (folder / "large_loss.py").write_text(textwrap.dedent(example))
    assert rules.check({"LargeLoss": {"limit": 0}}) == ["Rule 'LargeLoss': limit must be above 0, but got 0."]
    judge, trial = make("LargeLoss", {"limit": 2}), DictTrial()
    for step, loss in enumerate([1.5, 2.5]):
        trial.show(step, Mode.TRAIN, {"CrossEntropyLoss_output_0": loss})
        judge.see(trial, step, Mode.TRAIN, 0.0)
    assert judge.traceback is None, judge.traceback
    assert judge.sentences() == ["CrossEntropyLoss_output_0 is 2.5 at step 1 (limit 2)."]


def test_a_rule_that_is_not_python_is_named_with_its_line(folder: Path) -> None:
    (folder / "my_rule.py").write_text("class MyRule(TensorRule):\n    def (\n")
    assert rules.check({"MyRule": None}) == [
        "Rule 'MyRule': steps/watch/rules/my_rule.py, line 2, is not Python: invalid syntax."
    ]


def test_a_rule_that_cannot_be_imported_is_named(folder: Path) -> None:
    (folder / "my_rule.py").write_text(
        "import nothing_of_the_kind\nfrom watch.rules.base import TensorRule\nclass MyRule(TensorRule): ...\n"
    )
    assert rules.check({"MyRule": None}) == [
        "Rule 'MyRule': steps/watch/rules/my_rule.py cannot be used "
        "(ModuleNotFoundError: No module named 'nothing_of_the_kind')."
    ]


def test_checking_needs_neither_torch_nor_smdebug() -> None:
    code = (
        "import sys; sys.modules |= {'torch': None, 'smdebug': None}; from watch import rules; "
        "print(rules.check({'VanishingGradient': None, 'Overfit': {'patience': 2}}))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=STEPS, capture_output=True, text=True, check=False)
    assert (process.stdout, process.stderr) == ("[]\n", "")
