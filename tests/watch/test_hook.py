"""Three lines save anybody's training so that smdebug reads it; what goes wrong there never costs the training."""

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


def train(out: Path, **settings: Any) -> Net:
    torch.manual_seed(0)
    net, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
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


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensors").write_text("a file where the folder should be")
    train(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said] == ["Watch: no more tensors are saved"]
