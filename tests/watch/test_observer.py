"""The observer beside a real training: its verdicts and stops; and nothing that happens to it harms the training."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from watch import watch
from watch.collect.observation import Observation
from watch.files import module_environment

TENSOR_RULES = {"VanishingGradient": None, "ExplodingTensor": None, "WeightUpdateRatio": None}
SCRIPT = """
import os, signal, sys, time
import torch
from watch import watch

net, loss = torch.nn.Linear(3, 2), torch.nn.MSELoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
with watch(net, loss, optimizer):
    for step in range(20):
        optimizer.zero_grad()
        loss(net(torch.ones(4, 3)), torch.zeros(4, 2)).backward()
        optimizer.step()
    exec(sys.argv[1])
"""


def train(folder: Path, *, steps: int = 10, lr: float = 0.05) -> None:
    """Save a small training, observed by no one but the test's own observer."""
    torch.manual_seed(0)
    net, criterion = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    labels = torch.arange(12) % 3
    inputs = torch.randn(3, 6)[labels] + 0.1 * torch.randn(12, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WATCH_OBSERVED", "1")
        with watch(net, criterion, optimizer, out=folder, every=1):
            for _ in range(steps):
                optimizer.zero_grad()
                criterion(net(inputs), labels).backward()
                optimizer.step()


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "rules/status.json").read_text(), parse_constant=pytest.fail)  # no NaN in it


def rule(folder: Path, name: str) -> dict[str, Any]:
    return next(entry for entry in status(folder)["rules"] if entry["name"] == name)


def memory_bytes(folder: Path) -> list[float]:
    """Of the training process, at each sample."""
    rows = [json.loads(line) for path in (folder / "profile").rglob("*.algo-1.json") for line in path.open()]
    return [row["Value"] for row in rows if row["Dimension"] == "ProcessMemoryBytes"]


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    assert found, f"still waiting after {seconds} seconds"
    return found


def observers() -> list[psutil.Process]:
    """Those of this process and of what it started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            found += [child] * ("watch.collect.observer" in " ".join(child.cmdline()))
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert observers() == []


def test_a_healthy_training_ends_without_issues(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Observation(tmp_path, TENSOR_RULES) as observation:
        train(tmp_path)
        wait_for(lambda: memory_bytes(tmp_path))
        assert observation.finish() == dict.fromkeys(TENSOR_RULES, "NoIssuesFound")
    assert observation.stop_requested is None
    assert capfd.readouterr() == ("", "")
    written = status(tmp_path)
    assert (written["schema_version"], written["diagnosis"]) == (2, [])
    assert written["observer"] == {"state": "finished", "detail": None}
    assert {entry["note"] for entry in written["rules"]} == {None}
    series = json.loads((tmp_path / "rules/series.json").read_text())
    assert series["gradients"]["0.weight"]["step"] == list(range(10))
    assert series["losses"]["TRAIN"]["value"][0] > series["losses"]["TRAIN"]["value"][-1] > 0
    assert min(memory_bytes(tmp_path)) > 50e6  # of this process, with torch in it


def test_a_rule_with_the_action_asks_for_a_stop_while_the_training_goes_on(tmp_path: Path) -> None:
    plateau = {"rule": "LossNotDecreasing", "num_steps": 5, "mode": "TRAIN", "action": "stop", "semantics": "aws"}
    with Observation(tmp_path, {"Plateau": plateau, "VanishingGradient": None}) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)  # the observer has started
        train(tmp_path, lr=0.0)
        sentence = wait_for(lambda: observation.stop_requested, seconds=5)
        assert observation.finish() == {"Plateau": "IssuesFound", "VanishingGradient": "NoIssuesFound"}
    found = rule(tmp_path, "Plateau")
    assert (found["rule"], found["action"]) == ("LossNotDecreasing", "stop")
    assert found["fired"][0]["sentence"] == sentence


def test_every_worker_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lr in (("0", 0.05), ("1", 1e30)):
        monkeypatch.setenv("RANK", rank)
        train(tmp_path, lr=lr)
    with Observation(tmp_path, {"ExplodingTensor": None}) as observation:
        assert observation.finish() == {"ExplodingTensor": "IssuesFound"}
    assert {firing["worker"] for firing in rule(tmp_path, "ExplodingTensor")["fired"]} == {"worker_1"}


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "the observer was killed by signal 9"), (signal.SIGSTOP, "the observer is stopped")],
)
def test_an_observer_that_dies_or_hangs_costs_its_verdicts_alone(
    number: int, reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Observation(tmp_path, TENSOR_RULES) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)
        observers()[0].send_signal(number)
        train(tmp_path)
        began = time.monotonic()
        assert observation.finish() == dict.fromkeys(TENSOR_RULES, "Error")
        assert time.monotonic() - began < 5
    assert capfd.readouterr().out.startswith(f"Debugger: {reason}. The training goes on without it.\n")
    assert status(tmp_path)["observer"]["state"] == "killed"
    assert {entry["note"] for entry in status(tmp_path)["rules"]} == {f"no verdict: {reason}"}


OWN_RULE = """
import time
from dataclasses import dataclass
from watch.rules.base import TensorRule

@dataclass(kw_only=True)
class Mine(TensorRule):
    advice, needs = "None.", "steps"

    def evaluate(self, trial, step, mode):
        BODY
"""


def own_rule(folder: Path, body: str) -> dict[str, str]:
    (folder / "own").mkdir()
    (folder / "own" / "mine.py").write_text(OWN_RULE.replace("BODY", body))
    return {"rules_folder": str(folder / "own")}


def test_a_rule_that_raises_ends_in_error_alone(tmp_path: Path) -> None:
    settings = own_rule(tmp_path, "raise ZeroDivisionError('of its own')")
    with Observation(tmp_path, {"Mine": None, **TENSOR_RULES}, **settings) as observation:
        train(tmp_path)
        assert observation.finish() == {"Mine": "Error", **dict.fromkeys(TENSOR_RULES, "NoIssuesFound")}
    assert rule(tmp_path, "Mine")["traceback"].endswith("ZeroDivisionError: of its own\n")


def test_a_rule_that_hangs_holds_up_the_end_for_the_time_allowed(tmp_path: Path) -> None:
    with Observation(tmp_path, {"Mine": None}, **own_rule(tmp_path, "time.sleep(600)")) as observation:
        train(tmp_path)
        assert observation.finish(1.0) == {"Mine": "Error"}
    assert status(tmp_path)["observer"]["detail"] == "The observer had not finished after 1 seconds."


def test_damaged_missing_and_unmarked_tensors_are_reported(tmp_path: Path) -> None:
    train(tmp_path)
    name = "events/000000000003/000000000003_worker_0.tfevents"
    (tmp_path / "tensors" / name).write_bytes(b"")
    (tmp_path / "tensors/training_job_end.ts").unlink()
    with Observation(tmp_path, {**TENSOR_RULES, "Overfit": {"patience": 0}}) as observation:
        assert observation.finish() == {**dict.fromkeys(TENSOR_RULES, "NoIssuesFound"), "Overfit": "Error"}
    detail = status(tmp_path)["observer"]["detail"]
    assert "The tensors have no end marker: saving them had stopped before the training did." in detail
    assert f"Rules did not see every tensor: {name} cannot be read" in detail
    assert rule(tmp_path, "Overfit")["traceback"] == "Rule 'Overfit': patience must be at least 1, but got 0."


def test_an_observer_that_cannot_start_or_write_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("where a folder is needed")
    with Observation(tmp_path / "file", TENSOR_RULES) as observation:
        assert observation.finish() == dict.fromkeys(TENSOR_RULES, "Error")
    assert "Debugger: the observer could not be started ([Errno 20] Not a directory: " in capfd.readouterr().out
    with Observation(tmp_path, TENSOR_RULES) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)
        (tmp_path / "finished.json").mkdir()  # the end is said by a signal then
        (tmp_path / "rules/status.json").unlink()
        (tmp_path / "rules/status.json").mkdir()
        assert observation.finish() == dict.fromkeys(TENSOR_RULES, "Error")
    assert "Findings could not be written (IsADirectoryError: " in capfd.readouterr().err


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Python beside train.py, a training that does something at its end, with watch() alone."""
    (folder / "train.py").write_text(SCRIPT)
    settings = module_environment() | environment
    return subprocess.Popen([sys.executable, *arguments], cwd=folder, env=settings, stdout=subprocess.PIPE, text=True)


def test_a_training_that_fails_is_judged_and_reported(tmp_path: Path) -> None:
    process = started(tmp_path, "train.py", "raise SystemExit(3)", WATCH_DIR=str(tmp_path))
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 3
    assert " rules found something, " in out.splitlines()[-1]
    assert out.splitlines()[-1].endswith(f"had too little to judge. Report: {tmp_path / 'report/debugger.html'}")
    assert status(tmp_path)["observer"]["state"] == "finished"
    assert (tmp_path / "report/debugger.html").is_file()


def test_a_training_that_was_killed_is_judged_on_what_it_had_written(tmp_path: Path) -> None:
    last = "os.kill(os.getpid(), signal.SIGKILL)"
    process = started(tmp_path, "train.py", last, WATCH_DIR=str(tmp_path))
    process.communicate(timeout=100)
    wait_for((tmp_path / "report/debugger.html").is_file)
    written = status(tmp_path)
    assert written["observer"]["detail"].startswith("The training's process ended without a last word")
    assert "InProgress" not in {entry["status"] for entry in written["rules"]}


RUN = "import sys; from watch.collect.observation import run_observed; sys.exit(run_observed(sys.argv[1:]))"


def test_any_command_runs_with_an_observer_beside_it(tmp_path: Path) -> None:
    process = started(tmp_path, "-c", RUN, sys.executable, "train.py", "sys.exit(7)")
    out, _ = process.communicate(timeout=100)
    (folder,) = (tmp_path / "watch").iterdir()
    assert process.returncode == 7
    assert str(folder / "report/debugger.html") in out
    assert rule(folder, "VanishingGradient")["judged"] > 0
    assert "<b>Failed.</b> The command ended with exit code 7." in (folder / "report/debugger.html").read_text()
    assert len([line for line in out.splitlines() if "Report: " in line]) == 1


def test_signals_reach_the_command_and_its_end_is_passed_on(tmp_path: Path) -> None:
    trapping = ("sh", "-c", "trap 'exit 5' TERM; touch ready; while :; do sleep 0.1; done")
    process = started(tmp_path, "-c", RUN, *trapping)
    wait_for((tmp_path / "ready").is_file)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=100) and process.returncode == 5
    for command, code in ((("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL), (("no-such-command",), 127)):
        process = started(tmp_path, "-c", RUN, *command)
        assert process.communicate(timeout=100) and process.returncode == code


def test_the_observer_imports_nothing_slow() -> None:
    code = "import sys; from watch.collect import observer; print({'torch', 'smdebug', 'boto3'} & sys.modules.keys())"
    process = subprocess.run([sys.executable, "-c", code], env=module_environment(), capture_output=True, text=True)
    assert process.stdout == "set()\n", process.stderr
    assert os.environ.get("WATCH_OBSERVED") is None
