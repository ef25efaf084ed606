"""Rules on tensors, shown what the hook's writer has put on disk: AWS's semantics to the letter, and ours."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_run import LOSS, Step, judged, losses

from watch.read.source import find
from watch.rules.judge import judge_folder

RANDOM = np.random.default_rng(0)
LAYER, OTHER = RANDOM.normal(0, 0.2, (6, 25)), RANDOM.normal(0, 0.2, (6, 25))


def train(*tensors: dict[str, Any]) -> list[Step]:
    return [("TRAIN", found) for found in tensors]


def held(*tensors: dict[str, Any]) -> list[Step]:
    return [("EVAL", found) for found in tensors]


def classes(labels: Sequence[int], predictions: Sequence[Any]) -> dict[str, Any]:
    return {"labels": np.array(labels), "predictions": np.array(predictions)}


def layers(*changes: float, loss: Sequence[float], gradients: tuple[float, float] = (0.1, 0.1)) -> list[Step]:
    """A network of two layers; how much of itself the first one moves at each step, and the loss."""
    first, steps = LAYER, []
    for change, value in zip(changes, loss, strict=True):
        own = {f"gradient/Net_{name}.weight": size * OTHER for name, size in zip("ab", gradients, strict=True)}
        steps.append(("TRAIN", {LOSS: value, **own, "Net_a.weight": first, "Net_b.weight": OTHER}))
        first = first + change * OTHER
    return steps


ONCE = {"patience_train": 1, "patience_validation": 1}
AWS: list[tuple[str, dict[str, Any], list[Step], str | None]] = [
    ("VanishingGradient", {}, train({"gradient/Net_a.bias": [1e-8, -1e-8]}), "averages 1e-08 at step 0, below"),
    ("VanishingGradient", {}, train({"gradient/Net_a.bias": [1e-7, -1e-7]}), None),
    ("ExplodingTensor", {}, train({"x": [1.0, np.inf]}), "x holds infinite values at step 0 of mode TRAIN"),
    ("ExplodingTensor", {"only_nan": True}, train({"x": [1.0, np.inf]}), None),
    ("ExplodingTensor", {"tensor_regex": "y"}, train({"x": [np.nan], "y": [1.0]}), None),
    ("PoorWeightInitialization", {}, train({"a_relu_input_0": [0, 9.0], "b_relu_input_0": [0, 1.0]}), "variances"),
    ("PoorWeightInitialization", {}, train({"gradient/Net_a.weight": [1e-4, -1e-4]}), "distribution_range 0.001"),
    ("PoorWeightInitialization", {"patience": 2}, losses([1, 2, 2]), "has not fallen for 2 saved steps"),
    ("PoorWeightInitialization", {"patience": 2, "steps": 2}, losses([1, 2, 2]), None),
    ("SaturatedActivation", {}, train({"sigmoid_input_0": [[17, 20], [30, 18]]}), "is saturated to 100 %"),
    ("SaturatedActivation", {}, train({"sigmoid_input_0": [[0, 20], [-3, 18]]}), None),
    ("SaturatedActivation", {}, train({"tanh_input_0": [[-9.5, 10]]}), "tanh_input_0 is saturated to 100 %"),
    ("DeadRelu", {}, train({"a_relu_output_0": [[0, 0, 1], [0, 0, 2]]}), "66.67 % of dead ReLUs (threshold_layer"),
    ("DeadRelu", {}, train({"a_relu_output_0": [[0, 3], [0, 1]]}), None),
    ("DeadRelu", {}, held({"a_relu_output_0": [[[[0, 0]], [[0, 1]], [[0, 0]]]]}), "66.67 %"),
    ("WeightUpdateRatio", {}, train({"a.weight": [1.0]}, {"a.weight": [12.0]}), "changed by 11 times its size"),
    ("WeightUpdateRatio", {}, train({"a.weight": [1.0]}, {"a.weight": [1.0]}), "below small_threshold"),
    ("WeightUpdateRatio", {"num_steps": 1}, train({"a.weight": [1.0]}, {}, {"a.weight": [12.0]}), None),
    ("WeightUpdateRatio", {}, train({"a.weight": [1.0]}, {"a.weight": [np.inf]}), "a.weight became infinite from"),
    ("AllZero", {"tensor_regex": "a", "threshold": 50}, train({"a": [0, 1]}), "a consists to 50 % of zeros"),
    ("AllZero", {"collection_names": "weights"}, train({"a.weight": [0, 1]}), None),
    ("ClassImbalance", {"samples": 12}, held(classes([0] * 11 + [1], [0] * 11 + [1])), "11 times as many labels"),
    ("ClassImbalance", {"samples": 8}, held(classes([0] * 4 + [1] * 4, [0] * 7 + [1])), "75 % of class 1 are mispr"),
    ("ClassImbalance", {"samples": 3}, held(classes([0, 1], [[0.9, 0.1], [0.2, 0.8]])), None),
    ("LossNotDecreasing", {"num_steps": 2}, losses([1, 1, 0.9999]), "decreased by 0.01 % from step 0 to step 2"),
    ("LossNotDecreasing", {"num_steps": 2, "mode": "EVAL"}, losses([1, 1, 1]), None),
    ("LossNotDecreasing", {"num_steps": 1}, losses([1, 1.1]), "increased by 10 %"),
    ("Overfit", {}, losses([1, 1]) + losses([1.2], "EVAL"), "Validation loss is 20 % above training loss at step 1"),
    ("Overfit", {"patience": 2}, losses([1, 1]) + losses([1.2], "EVAL"), None),
    ("Overtraining", ONCE, losses([1, 1]) + losses([1, 1], "EVAL"), "nor the validation loss"),
    ("Overtraining", {"patience_train": 1}, losses([1, 1, 1]) + losses([1, 1], "EVAL"), None),
    ("TensorVariance", {"tensor_regex": "a", "max_threshold": 3}, train({"a": [0.0, 4.0]}), "a variance of 4, above"),
    ("UnchangedTensor", {"collection_names": "weights"}, train(*[{"a.weight": [1.0]}] * 3), "has not changed in 3"),
    ("UnchangedTensor", {"tensor_regex": "a"}, train({"a": [1.0]}, {"a": [2.0]}, {"a": [1.0]}), None),
    ("CheckInputImages", {"threshold_samples": 2}, train({"input_image": np.full((2, 3, 1, 1), 0.3)}), "averages 0.3"),
    ("CheckInputImages", {"threshold_samples": 3}, train({"input_image": np.full((2, 3, 1, 1), 0.3)}), None),
    ("Confusion", {}, held(classes([0] * 4 + [1, 1, 1, 0], [0] * 4 + [1] * 4)), "predicted as class 1, 75 % belong"),
    ("Confusion", {"min_diag": 0.5, "max_off_diag": 0.24}, held(classes([1, 1, 1, 0], [1] * 4)), "belong to class 0"),
]
ZEROS = {LOSS: 2, "a.weight": 0 * LAYER}
OURS: list[tuple[str, dict[str, Any], list[Step], str | None]] = [
    ("LossNotFinite", {}, losses([1, math.nan]), "The TRAIN loss is not a number at step 1"),
    ("LossExploding", {}, losses([2] + [7] * 9), "was 2 at first and 7 at the end"),
    ("LossExploding", {}, losses([2, 90] + [1] * 9), None),
    ("LossNotDecreasing", {}, losses([2, 1.9] * 6), "the loss went from"),
    ("LossNotDecreasing", {}, losses([2, 1.9, 1.7] * 2 + [0.5] * 6 + [0.6]), None),
    ("LearningRate", {}, layers(*[0] * 25, loss=[2] * 25), "No weight changed in 24 steps"),
    ("LearningRate", {}, layers(*[1e-5] * 25, loss=[2] * 25), "the weights moved by"),
    ("LearningRate", {}, layers(*[1e-5] * 25, loss=np.linspace(2, 0.5, 25)), None),
    ("FrozenWeights", {}, layers(*[0.1] * 6, loss=[2] * 6), "1 of 2 layers never changed although others did: Net_b"),
    ("VanishingGradient", {}, layers(*[0.1] * 6, loss=[2] * 6, gradients=(1e-8, 1e-8)), "The gradients of Net_a"),
    ("VanishingGradient", {}, layers(*[0.1] * 6, loss=[2, 1, 0.5, 0.2, 0.1, 0.1], gradients=(1e-8, 1)), None),
    ("VanishingGradient", {}, train({"gradient/Net_norm.weight": [0.0], LOSS: 2.0}), None),
    ("PoorWeightInitialization", {}, train(*[{**ZEROS, "gradient/a.weight": LAYER}] * 6), "the same weights"),
    ("PoorWeightInitialization", {}, train(*[{LOSS: 2, "a.weight": 0.01 * LAYER}] * 6), "first weights are too small"),
    ("PoorWeightInitialization", {}, train(*[{LOSS: 2, "a.weight": 30 * LAYER}] * 6), "first weights are too large"),
    ("PoorWeightInitialization", {}, train(*[{LOSS: 2, "a.weight": LAYER, "gradient/b.bias": [1e-9]}] * 6), None),
    ("ExplodingTensor", {}, train({"gradient/a": [np.inf]}, {"gradient/a": [1.0]}, {"gradient/a": [np.inf]}), None),
    ("DeadRelu", {}, train(*[{"act_output_0": [[0, 0, 0, 0]]}] * 8), "has 100 % of dead ReLUs"),
    ("DeadRelu", {}, train(*[{"act_output_0": [[0, 0, 0, step % 4]]} for step in range(8)]), None),
    ("DeadRelu", {}, train(*[{"act_output_0": [[-0.1, -0.1]]}] * 8), None),
    ("SaturatedActivation", {}, train(*[{"Net_Tanh1_input_0": [[4.0, -5.0]]}] * 3), "is saturated to 100 %"),
    ("AllZero", {"tensor_regex": "a"}, train({"a": [0.0]}, {"a": [1.0]}), None),
    ("WeightUpdateRatio", {}, train({"a.weight": [0.0]}, {"a.weight": [1.0]}), None),
    ("WeightUpdateRatio", {}, train({"cls.weight": [0.0]}, {"cls.weight": [1e-3]}, {"cls.weight": [0.02]}), None),
    ("Overfit", {}, 4 * (losses([1, 0.01]) + losses([0.9], "EVAL")), "is 0.9 after 0.9"),
    ("Overfit", {}, 4 * (losses([1, 0.5]) + losses([0.6], "EVAL")), None),
    ("ClassImbalance", {}, held(classes([0] * 990 + [1] * 10, [0] * 1000)), "1,000 of the last validation"),
    ("ClassImbalance", {}, train(classes([0] * 990 + [1] * 10, [0] * 1000)), "99 times as many labels as class 1"),
    ("ClassImbalance", {"samples": 20}, train(classes([0] * 25 + [1], [0] * 26)), None),
    ("OneClass", {}, held(classes([0, 1] * 20, [1] * 40)), "All 40 predictions of the last validation are class 1"),
    ("OneClass", {}, held(classes([0, 1] * 20, [1] * 40)) + train({}) + held(classes([0, 1] * 20, [0, 1] * 20)), None),
    ("WrongLabels", {}, held(classes([0, 1] * 50, [0, 0, 1, 1] * 25)), "recognises 50 % of a class on average"),
    ("WrongLabels", {}, held(classes([0, 1] * 50, [0, 1] * 50)), None),
    ("Confusion", {}, held(classes([0, 1, 2] * 20, [0, 1, 1] * 20)), "100 % of class 2 are taken for class 1"),
    ("Confusion", {}, held(classes([0, 1, 2] * 20, [0, 1, 2] * 13 + [0, 1, 1] * 7)), None),
]


@pytest.mark.parametrize(
    ("semantics", "case"),
    [*(("aws", case) for case in AWS), *(("watch", case) for case in OURS)],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_rule_answers_as_worked_out_by_hand(tmp_path: Path, semantics: str, case: tuple[Any, ...]) -> None:
    name, parameters, steps, sentence = case
    rule = judged(tmp_path, {name: {**parameters, "semantics": semantics}}, steps)["rules"][0]
    assert rule["traceback"] is None, rule["traceback"]
    found = [firing["sentence"] for firing in rule["fired"]]
    assert rule["status"] == ("IssuesFound" if sentence else "NoIssuesFound"), found
    assert sentence is None or sentence in found[-1]
    assert rule["semantics"] == semantics


def test_a_training_that_stands_still_is_seen_between_two_steps_and_after_the_last(tmp_path: Path) -> None:
    import os

    judged(tmp_path, {}, losses([1, 1]))
    for index in (tmp_path / "tensors" / "index").rglob("000000000001*.json"):
        os.utime(index, (index.stat().st_atime, index.stat().st_mtime + 100))
    entries = {"Late": {"rule": "StalledTraining", "threshold": 50}, "Fine": {"rule": "StalledTrainingRule"}}
    late, fine = judge_folder(find(tmp_path), entries)["rules"]
    assert (late["status"], fine["status"]) == ("IssuesFound", "NoIssuesFound")
    assert late["fired"][0]["sentence"].startswith("No tensor was saved for 100 seconds")


def test_what_could_not_be_judged_says_why(tmp_path: Path) -> None:
    found = judged(tmp_path, {"DeadRelu": {}, "LossNotFinite": {}}, losses([1]))["rules"]
    assert [(rule["judged"], rule["note"]) for rule in found] == [
        (0, "too little data: no outputs of ReLUs were saved, or at fewer than five training steps"),
        (1, None),
    ]
    entries = {"LossNotDecreasing": {"semantics": "aws", "num_steps": 50}}
    [rule] = judged(tmp_path / "aws", entries, losses([2.0] * 20))["rules"]
    assert rule["note"].endswith("was saved num_steps steps after another")


def test_a_tensor_keeps_its_name_in_the_diagnosis(tmp_path: Path) -> None:
    steps = train({"ViT_head.weight": [1.0]}, {"ViT_head.weight": [12.0]})
    [found] = judged(tmp_path, {"WeightUpdateRatio": {}}, steps)["diagnosis"]
    assert found["sentence"].startswith("The learning rate is too high: ViT_head.weight changed")


def test_each_worker_is_judged_by_itself_and_named(tmp_path: Path) -> None:
    judged(tmp_path, {}, losses([1, 1, 1]))
    [rule] = judged(tmp_path, {"LossNotFinite": {}}, losses([1, math.inf, 1]), worker=1)["rules"]
    assert [(firing["worker"], firing["step"]) for firing in rule["fired"]] == [("worker_1", 1)]
    assert (rule["status"], rule["severity"], rule["judged"]) == ("IssuesFound", "fatal", 6)


def test_an_infinite_gradient_is_no_fatal_finding_but_an_infinite_weight_is(tmp_path: Path) -> None:
    gradient, weight = {"gradient/a.weight": [np.nan]}, {"a.weight": [np.nan]}
    for name, tensors, severity in (("gradient", gradient, "problem"), ("weight", weight, "fatal")):
        [rule] = judged(tmp_path / name, {"ExplodingTensor": {}}, train(*[tensors] * 3))["rules"]
        assert (rule["status"], rule["severity"]) == ("IssuesFound", severity)
