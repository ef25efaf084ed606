"""Three lines save anybody's training so that smdebug reads it; what goes wrong there never costs the training."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from watch import watch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020


@pytest.fixture(autouse=True)
def without_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_OBSERVED", "1")


class Net(nn.Module):
    """Has every kind of activation, under names that do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.bend = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.middle, self.squash = nn.Linear(4 * 6 * 6, 8), nn.Tanh()
        self.last, self.gate = nn.Linear(8, 3), nn.Sigmoid()
        self.first.bias.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.squash(self.middle(self.bend(self.norm(self.first(images))).flatten(1)))
        return self.last(features * self.gate(features))


def made() -> tuple[Net, nn.Module, torch.optim.Optimizer]:
    net = Net()
    return net, nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.1)


def train(out: Path, **settings: Any) -> Net:
    torch.manual_seed(0)
    net, criterion, optimizer = made()
    images, labels = torch.randn(12, 3, 8, 8), torch.arange(12) % 3
    with watch(net, criterion, optimizer, out=out, **settings) as watcher:
        for _ in range(2):
            net.train()
            for rows in watcher.batches([slice(0, 6), slice(6, 12)]):
                optimizer.zero_grad()
                criterion(net(images[rows]), labels[rows]).backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                criterion(net(images), labels)
    return net


def test_smdebug_reads_what_was_saved_by_module_type(tmp_path: Path) -> None:
    from smdebug import modes
    from smdebug.trials import create_trial

    net = train(tmp_path)
    trial = create_trial(str(tmp_path / "tensors"))
    loss = trial.tensor("CrossEntropyLoss_output_0")
    assert (loss.steps(mode=modes.TRAIN), loss.steps(mode=modes.EVAL)) == ([0, 1, 2, 3], [0, 1])
    assert loss.value(3, mode=modes.TRAIN) < loss.value(0, mode=modes.TRAIN)
    weight = trial.tensor("Net_last.weight").value(0, mode=modes.TRAIN)
    assert weight.shape == net.last.weight.shape
    found = {name: trial.tensor_names(collection=name) for name in trial.collections()}
    assert found["relu_output"] == ["bend_output_0"]
    assert found["relu_input"] == ["bend_input_0"]
    assert trial.tensor("bend_input_0").value(0, mode=modes.TRAIN).min() < 0  # before it was overwritten in place
    assert (found["tanh_input"], found["sigmoid_input"]) == (["squash_input_0"], ["gate_input_0"])
    assert found["frozen"] == ["Net_first.bias"]
    assert found["norms"] == ["Net_norm.bias", "Net_norm.weight", "gradient/Net_norm.bias", "gradient/Net_norm.weight"]
    assert "gradient/Net_first.bias" not in found["gradients"]
    assert "gradient/Net_first.weight" in found["gradients"]
    assert trial.tensor("learning_rate_0").value(0, mode=modes.TRAIN) == pytest.approx(0.1)
    assert list(trial.tensor("labels").value(0, mode=modes.EVAL)) == [0, 1, 2] * 4
    assert set(trial.tensor("predictions").value(1, mode=modes.EVAL)) <= {0, 1, 2}
    assert (tmp_path / "tensors" / "training_job_end.ts").is_file()


def steps_of(folder: Path) -> dict[str, int]:
    """How often each tensor was saved in the run."""
    found: dict[str, int] = {}
    for path in sorted((folder / "tensors" / "index").rglob("*.json")):
        for payload in json.loads(path.read_text())["tensor_payload"]:
            found[payload["tensorname"]] = found.get(payload["tensorname"], 0) + 1
    return found


def loop(net: nn.Module, watcher: Any, steps: int, criterion: Any, *, accumulate: int = 1, optimizer: Any) -> None:
    torch.manual_seed(0)
    for step in range(steps):
        loss = criterion(net(torch.randn(6, 3, 8, 8)), torch.arange(6) % 3)
        if not isinstance(criterion, nn.Module):
            watcher.loss(loss)
        loss.backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def test_accumulated_gradients_a_plain_loss_and_an_optimizer_that_is_found(tmp_path: Path) -> None:
    net, _, optimizer = made()
    with watch(net, out=tmp_path, every=1) as watcher:
        loop(net, watcher, 8, nn.functional.cross_entropy, accumulate=4, optimizer=optimizer)
    found = steps_of(tmp_path)
    assert found["gradient/Net_last.weight"] == found["Net_last.weight"] == found["loss_output_0"] == 2
    assert found["learning_rate_0"] == 2


WRAPPINGS = {"parallel": nn.DataParallel, "compiled": lambda net: torch.compile(net, backend="eager")}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_model_in_other_wrappings_is_seen_under_its_own_names(wrapping: str, tmp_path: Path) -> None:
    net, criterion, optimizer = made()
    model: Any = WRAPPINGS[wrapping](net)
    with watch(model, criterion, [optimizer], out=tmp_path, every=2) as watcher:
        loop(model, watcher, 4, criterion, optimizer=optimizer)
    found = steps_of(tmp_path)
    assert found["gradient/Net_last.weight"] == found["CrossEntropyLoss_output_0"] == found["labels"] == 2
    assert ("bend_output_0" in found) is (wrapping == "parallel")


def test_saving_takes_a_small_share_of_short_steps_and_large_tensors_are_sampled(tmp_path: Path) -> None:
    net, criterion = nn.Sequential(nn.Flatten(), nn.Linear(192, 2000), nn.Linear(2000, 3)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with watch(net, criterion, optimizer, out=tmp_path) as watcher:
        loop(net, watcher, 600, criterion, optimizer=optimizer)
    found = steps_of(tmp_path)
    assert 1 < found["Sequential_1.weight"] < 300  # how many depends on how busy the machine is
    assert found["CrossEntropyLoss_output_0"] >= found["Sequential_1.weight"]
    largest = max(path.stat().st_size for path in (tmp_path / "tensors" / "events").rglob("*.tfevents"))
    assert largest < 4 * 192 * 2000  # bytes of the weights


def test_workers_write_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smdebug.trials import create_trial

    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        train(tmp_path)
    assert sorted(create_trial(str(tmp_path / "tensors")).workers()) == ["worker_0", "worker_1"]


def test_a_full_disk_no_folder_and_what_fails_in_a_hook_cost_the_tensors_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensors").write_text("a file where the folder should be")
    net = train(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said] == ["Watch: no more tensors are saved"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # no file may grow beyond it
    try:
        train(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in capsys.readouterr().out
    assert list((tmp_path / "full" / "tensors" / "events").rglob("*.tfevents")) == []

    def fails(*arguments: Any, **named: Any) -> None:
        raise ZeroDivisionError("in a hook")

    monkeypatch.setattr("watch.collect.hook.as_array", fails)
    other = train(tmp_path / "fails")
    said = [line for line in capsys.readouterr().out.splitlines() if "ZeroDivisionError: in a hook" in line]
    assert len(said) == 1
    assert all(torch.equal(one, two) for one, two in zip(net.parameters(), other.parameters(), strict=True))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"^watch: model must be a torch\.nn\.Module, but got int\.$"):
        watch(3)
    with pytest.raises(TypeError, match=r"pass each step's loss to watcher\.loss\(value\)"):
        watch(Net(), nn.functional.cross_entropy)
    with pytest.raises(ValueError, match=r"^watch: every must be a whole number of at least 1, or None, but got 0\.$"):
        watch(Net(), every=0)
