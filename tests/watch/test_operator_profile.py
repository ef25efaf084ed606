"""torch.profiler on real training steps; and whatever breaks it, the training goes on."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.steps.prepared_data import STEPS
from watch.collect import operators as operators_module
from watch.collect.operators import ChosenSteps, OperatorProfile, choose_steps


def train(profile: OperatorProfile, steps: int) -> float:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        with profile.step():
            loss = nn.functional.cross_entropy(net(torch.ones(8, 64)), torch.zeros(8, dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    profile.close()
    return loss.item()


def operators(profile_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((profile_dir / "torch" / "operators.json").read_text())
    return found


def trace(profile_dir: Path) -> list[dict[str, Any]]:
    with gzip.open(profile_dir / "torch" / "trace.json.gz", "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def test_the_chosen_steps_are_profiled_and_no_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(OperatorProfile(tmp_path, 4, 3), 12)
    found = operators(tmp_path)
    assert (found["device"], found["steps"]) == ("cpu", [4, 5, 6])
    by_name = {row["name"]: row for row in found["operators"]}
    assert by_name["aten::addmm"]["calls"] == 3 * 2  # two linear layers
    assert set(by_name["aten::addmm"]) == {"name", "calls", "self_cpu_us", "cpu_us", "self_device_us"}
    assert by_name["aten::linear"]["cpu_us"] > by_name["aten::linear"]["self_cpu_us"] > 0
    assert len(found["operators"]) <= 40
    times = [row["self_cpu_us"] for row in found["operators"]]
    assert times == sorted(times, reverse=True)
    assert not [name for name in by_name if "#" in name or name.startswith("ProfilerStep")]
    assert "aten::addmm" in {event["name"] for event in trace(tmp_path)}
    assert capfd.readouterr() == ("", "")


def test_a_training_that_ends_meanwhile_keeps_what_was_measured(tmp_path: Path) -> None:
    train(OperatorProfile(tmp_path, 2, 5), 4)
    assert operators(tmp_path)["steps"] == [2, 3]
    assert trace(tmp_path)


def test_a_training_that_ends_before_writes_nothing(tmp_path: Path) -> None:
    train(OperatorProfile(tmp_path, 10, 5), 4)
    assert not (tmp_path / "torch").exists()


def test_a_large_trace_keeps_its_longest_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(OperatorProfile(tmp_path / "whole", 2, 5), 8)
    monkeypatch.setattr(operators_module, "TRACE_BYTES", 4000)
    train(OperatorProfile(tmp_path / "short", 2, 5), 8)
    assert (tmp_path / "short" / "torch" / "trace.json.gz").stat().st_size <= 4000
    kept, whole = trace(tmp_path / "short"), trace(tmp_path / "whole")
    assert 10 < len(kept) < len(whole)
    assert "ProfilerStep#4" in {event["name"] for event in kept}


def test_a_profiler_that_cannot_start_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(profiler: Any) -> None:
        raise RuntimeError("CUPTI could not\n be initialised")

    monkeypatch.setattr(torch.profiler.profile, "start", start)
    assert train(OperatorProfile(tmp_path, 2, 3), 8) < 1.5
    assert capsys.readouterr().out.splitlines() == [
        "Profiler: the operator profile is not complete, since torch.profiler failed "
        "(RuntimeError: CUPTI could not be initialised)."
    ]


def test_a_training_that_ends_in_the_warm_up_writes_nothing(tmp_path: Path) -> None:
    train(OperatorProfile(tmp_path, 2, 3), 2)
    assert not (tmp_path / "torch").exists()


@pytest.mark.parametrize(
    ("room_bytes", "files", "reason"),
    [
        (1000, set(), "[Errno 27] File too large"),
        (20000, {"operators.json"}, "only 0 bytes of the trace could be written"),
    ],
)
def test_a_full_disk_leaves_whole_files_or_none(room_bytes: int, files: set[str], reason: str, tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
import torch
from watch.collect.operators import OperatorProfile
profile = OperatorProfile(Path({str(tmp_path)!r}), 2, 3)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room_bytes}, resource.RLIM_INFINITY))  # no file may grow beyond it
net = torch.nn.Linear(4, 2)
for _ in range(8):
    with profile.step():
        net(torch.ones(3, 4)).sum().backward()
profile.close()
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=STEPS, capture_output=True, text=True, check=True, timeout=60
    )
    assert process.stdout.splitlines() == [
        f"Profiler: the operator profile is not complete, since torch.profiler failed (OSError: {reason})."
    ]
    assert {path.name for path in (tmp_path / "torch").iterdir()} == files
    assert not files or operators(tmp_path)["steps"] == [2, 3, 4]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torch").write_text("not a folder")
    assert train(OperatorProfile(tmp_path, 2, 3), 8) < 1.5
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith(
        "Profiler: the operator profile is not complete, since torch.profiler failed (FileExistsError:"
    )


def test_an_error_in_a_step_passes_through(tmp_path: Path) -> None:
    profile = OperatorProfile(tmp_path, 1, 3)
    with profile.step():
        pass
    with pytest.raises(KeyError), profile.step():
        raise KeyError("loss")
    profile.close()
    assert operators(tmp_path)["steps"] == [1]


def test_steps_before_the_warm_up_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^first_step and steps must be at least 1, but got 0 and 5\.$"):
        OperatorProfile(tmp_path, 0)


@pytest.mark.parametrize(
    ("total", "per_epoch", "chosen"),
    [
        (1000, 20, ChosenSteps(22, 5)),  # the second epoch, past its first two steps
        (20, 20, ChosenSteps(2, 5)),  # there is no second one
        (30, 20, ChosenSteps(2, 5)),  # nor a whole second one
        (12, 6, ChosenSteps(8, 4)),  # as many as fit into the epoch
        (60, 3, ChosenSteps(5, 1)),
        (40, 1, ChosenSteps(1, 1)),
        (2, 1, ChosenSteps(1, 1)),
        (2, 2, ChosenSteps(1, 1)),
        (1, 1, None),
        (1, 5, None),
    ],
)
def test_steps_are_chosen_within_one_epoch(total: int, per_epoch: int, chosen: ChosenSteps | None) -> None:
    assert choose_steps(total, per_epoch=per_epoch) == chosen
