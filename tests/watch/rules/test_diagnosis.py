"""What is said of whole trainings, saved by the hook: the cause first, and nothing of a healthy one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_run import judged, losses
from torch import nn

from pipeline.config.sections import DEFAULT_RULES
from watch import watch
from watch.read.source import find
from watch.rules.judge import judge_folder
from watch.rules.registry import make


@pytest.fixture(autouse=True)
def no_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_OBSERVED", "1")
    torch.manual_seed(1)
    torch.set_num_threads(1)


def network(activation: type[nn.Module] = nn.ReLU, *, layers: int = 2, factor: float = 1.0) -> nn.Sequential:
    found: list[nn.Module] = []
    for width in [16, *[32] * (layers - 1)]:
        found += [nn.Linear(width, 32), activation()]
    net = nn.Sequential(*found, nn.Linear(32, 4))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(factor)
    return net


def diagnosis(folder: Path, net: nn.Module, lr: float, *, labels: Callable[..., Any] | None = None) -> list[Any]:
    """Train on four blobs for six epochs of 25 steps, with momentum; the diagnosis of the default tensor rules."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, 16, generator=generator)
    classes = torch.randint(0, 4, (1000,), generator=generator)
    inputs = centres[classes] + torch.randn(1000, 16, generator=generator)
    classes = labels(classes) if labels else classes
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    with watch(net, loss, optimizer, out=folder, every=3):
        for _ in range(6):
            net.train()
            for batch in range(25):
                optimizer.zero_grad()
                rows = slice(32 * batch, 32 * batch + 32)
                loss(net(inputs[rows]), classes[rows]).backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                loss(net(inputs[800:]), classes[800:])
    entries = {name: entry for name, entry in DEFAULT_RULES.items() if make(name, entry).kind == "tensor"}
    document = judge_folder(find(folder), entries)
    assert [rule["traceback"] for rule in document["rules"] if rule["traceback"]] == []
    found: list[Any] = document["diagnosis"]
    return found


@pytest.mark.parametrize(
    ("cause", "arguments", "lr"),
    [
        (None, {}, 0.02),
        (None, {"activation": nn.GELU, "layers": 4}, 0.02),
        ("learning_rate_too_high", {}, 30.0),
        ("learning_rate_too_low", {}, 0.0),
        ("learning_rate_too_low", {}, 1e-6),
        ("bad_initialisation", {"factor": 40.0}, 0.001),
        ("vanishing_gradients", {"activation": nn.Sigmoid, "layers": 6}, 0.02),
    ],
)
def test_the_cause_comes_first(tmp_path: Path, cause: str | None, arguments: dict[str, Any], lr: float) -> None:
    found = diagnosis(tmp_path, network(**arguments), lr)
    assert (found[0]["cause"] if found else None) == cause, found


def test_labels_of_others_are_named(tmp_path: Path) -> None:
    found = diagnosis(tmp_path, network(), 0.02, labels=lambda classes: classes[torch.randperm(len(classes))])
    assert found[0]["cause"] == "wrong_labels"


def test_findings_that_follow_from_one_cause_are_one_sentence_with_figures(tmp_path: Path) -> None:
    [found] = diagnosis(tmp_path, network(), 30.0)
    assert found["sentence"].startswith("The learning rate is too high: the loss rose ")
    assert f"{len(found['rules'])} rules agree." in found["sentence"]
    assert (found["advice"], found["severity"]) == ("Try 10 times lower.", "fatal")
    assert {"LearningRate", "LossNotDecreasing"} < set(found["rules"])


def test_a_rule_that_may_stop_the_training_does_not_wait_for_its_end(tmp_path: Path) -> None:
    entries: dict[str, Any] = {"Ends": {"rule": "LossNotDecreasing"}}
    entries["Stops"] = {"rule": "LossNotDecreasing", "action": "stop"}
    ends, stops = judged(tmp_path, entries, losses([2.0] * 100), last=False)["rules"]
    assert (ends["status"], stops["status"]) == ("InProgress", "IssuesFound")
    assert 64 <= stops["fired"][0]["step"] < 100
