"""Two runs on one page, and a run in the files of TensorBoard and MLflow."""

import struct
from pathlib import Path

import mlflow
import pytest
import torch
import training_output as made
from torch import nn

from watch import watch
from watch.report.compare import compare
from watch.report.export import to_mlflow, to_tensorboard


def train(out: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    net, criterion = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with watch(net, criterion, optimizer, out=out, every=1):
        for _ in range(3):
            optimizer.zero_grad()
            criterion(net(torch.ones(6, 4)), torch.arange(6) % 3).backward()
            optimizer.step()
    return out


def test_runs_of_one_seed_are_similar_and_of_two_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCH_OBSERVED", "1")
    same, again, other = (train(tmp_path / f"<{n}>", seed) for n, seed in enumerate((0, 0, 1)))
    assert "Weights: similar, 0 apart at most, in " in compare(same, again, tmp_path / "out").read_text()
    page = compare(same, other, tmp_path / "out").read_text()
    assert "Weights: apart from step 0 on, by 1" in page
    assert "How far apart" in page
    assert "&lt;2&gt;" in page


def test_tensorboard_and_mlflow_are_given_curves_verdicts_and_the_report(tmp_path: Path) -> None:
    folder = made.write_output(tmp_path / "run", history=made.history(facts={"Backbone": "lite2"}))
    content, records = to_tensorboard(folder, tmp_path / "out").read_bytes(), list[bytes]()
    while content:
        (length,) = struct.unpack_from("<Q", content)
        records.append(content[12 : 12 + length])
        content = content[16 + length :]
    assert b"brain.Event:2" in records[0]
    assert {tag in b"".join(records) for tag in (b"losses/TRAIN", b"gradients/hidden.weight", b"rule/AllZero")} == {
        True
    }
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.create_experiment("watch", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.get_run(to_mlflow(folder, uri))
    assert run.data.params == {"Backbone": "lite2"}
    assert run.data.metrics["rule/AllZero"] == 0
    assert run.data.tags["diagnosis"] == "No problem found"
    assert list(tmp_path.glob("artifacts/*/artifacts/report/debugger.html"))
