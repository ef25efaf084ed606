"""The observer beside a real training: its verdicts and actions; and nothing that happens to it harms the training."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_training import STEPS_PER_EPOCH, SmallTraining

from classifier.job import system
from watch.collect import observation as observation_module
from watch.collect import observer
from watch.collect.observation import Observation

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

STEPS = Path(observer.__file__).parents[2]
TIMEOUT_SECONDS = 30.0
HEALTHY = {"VanishingGradient": None, "ExplodingTensor": None, "WeightUpdateRatio": None, "DeadRelu": None}


def config(output_dir: Path, rules: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(output_dir),
        "tensors_dir": str(output_dir / "tensors"),
        "rules": dict(rules),
        "sample_interval_ms": 500,
        "node": "algo-1",
        "job_name": "job",
    }


def status(output_dir: Path) -> dict[str, Any]:
    return json.loads((output_dir / "rules/status.json").read_text())


def rule_status(output_dir: Path, name: str) -> dict[str, Any]:
    return next(rule for rule in status(output_dir)["rules"] if rule["name"] == name)


def wait_for(condition: Callable[[], Any], seconds: float = TIMEOUT_SECONDS) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found, f"still waiting after {seconds} seconds"
    return found


def observer_processes() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "watch.collect.observer" in " ".join(child.cmdline())
    ]


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert observer_processes() == []


@pytest.fixture
def copied_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """steps/ as a user has it, to which a rule can be added."""
    copy = Path(shutil.copytree(STEPS, tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(system, "ROOT", copy)
    return copy


def test_a_healthy_training_ends_without_issues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = SmallTraining(tmp_path / "tensors")
    with Observation(config(tmp_path, HEALTHY)) as observation:
        training.epochs(3)
        training.close()
        verdicts = observation.finish(TIMEOUT_SECONDS)
    assert verdicts == dict.fromkeys(HEALTHY, "NoIssuesFound")
    assert observation.stop_requested is None
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Debugger: ")]
    assert lines == [*(f"{name}: InProgress" for name in HEALTHY), *(f"{name}: NoIssuesFound" for name in HEALTHY)]

    written = status(tmp_path)
    assert written["schema_version"] == 2
    assert written["observer"]["state"] == "finished"
    assert [rule["name"] for rule in written["rules"]] == list(HEALTHY)
    check_gradient(rule_status(tmp_path, "VanishingGradient"))
    check_series(json.loads((tmp_path / "rules/series.json").read_text()), training)


def check_gradient(gradient: dict[str, Any]) -> None:
    assert gradient["evidence"]["series"][0]["x"] == list(range(3 * STEPS_PER_EPOCH))
    assert gradient["evidence"]["thresholds"] == [{"name": "threshold", "y": 1e-7}]
    assert (gradient["kind"], gradient["parameters"], gradient["note"]) == ("tensor", {"threshold": 1e-7}, None)


def check_series(series: dict[str, Any], training: SmallTraining) -> None:
    names = ["classifier.weight", "hidden.weight"]
    assert sorted(series["weights"]) == names
    assert sorted(series["gradients"]) == ["classifier.bias", "classifier.weight", "hidden.bias", "hidden.weight"]
    assert sorted(series["biases"]) == ["classifier.bias", "hidden.bias"]
    for name in names:
        assert series["weights"][name]["step"] == list(range(3 * STEPS_PER_EPOCH))
        first = float(training.first_weights[name].abs().mean())
        assert series["weights"][name]["abs_mean"][0] == pytest.approx(first, rel=1e-5)
        assert series["weights"][name]["abs_mean"][-1] != series["weights"][name]["abs_mean"][0]
    assert series["losses"]["EVAL"]["step"] == [0, 1, 2]
    assert series["losses"]["TRAIN"]["value"][0] > series["losses"]["TRAIN"]["value"][-1] > 0


def test_a_rule_with_the_action_asks_for_a_stop_while_the_training_goes_on(tmp_path: Path) -> None:
    rules: dict[str, Any] = {
        "Plateau": {"rule": "LossNotDecreasing", "num_steps": STEPS_PER_EPOCH, "mode": "TRAIN", "action": "stop"}
    }
    rules |= {"WeightUpdateRatio": {"action": "none"}, "StalledTraining": {"stop_training_on_fire": False}}
    training = SmallTraining(tmp_path / "tensors", lr=0.0)
    with Observation(config(tmp_path, rules)) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)
        training.epochs(2)
        sentence = wait_for(lambda: observation.stop_requested, seconds=5)
        training.close()
        verdicts = observation.finish(TIMEOUT_SECONDS)
    assert verdicts == {
        "Plateau": "IssuesFound",
        "WeightUpdateRatio": "IssuesFound",
        "StalledTraining": "NoIssuesFound",
    }
    assert observation.stop_requested == sentence
    assert sentence == (
        "CrossEntropyLoss_output_0 of mode TRAIN decreased by 0 % from step 0 to step 5, "
        "less than diff_percent (0.1 %)."
    )
    found = rule_status(tmp_path, "Plateau")
    assert (found["rule"], found["action"], found["status"]) == ("LossNotDecreasing", "stop", "IssuesFound")
    assert (found["fired"][0]["step"], found["fired"][0]["mode"]) == (5, "TRAIN")
    assert abs(found["fired"][0]["time"] - time.time()) < 60
    assert found["fired"][0]["sentence"] == sentence


def test_diverging_training_explodes(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path / "tensors", lr=1e30)
    with Observation(config(tmp_path, {"ExplodingTensor": {"action": "stop"}, "Overfit": None})) as observation:
        training.epochs(2)
        training.close()
        verdicts = observation.finish(TIMEOUT_SECONDS)
    assert verdicts["ExplodingTensor"] == "IssuesFound"
    assert observation.stop_requested
    found = json.loads((tmp_path / "rules/status.json").read_text(), parse_constant=pytest.fail)  # no NaN in it
    assert found["observer"]["state"] == "finished"
    losses = json.loads((tmp_path / "rules/series.json").read_text(), parse_constant=pytest.fail)["losses"]["EVAL"]
    assert None in losses["value"]


def test_a_killed_observer_is_reported_and_harms_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = SmallTraining(tmp_path / "tensors")
    with Observation(config(tmp_path, HEALTHY)) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)
        observer_processes()[0].send_signal(signal.SIGKILL)
        training.epochs(2)
        training.close()
        verdicts = observation.finish(TIMEOUT_SECONDS)
    assert verdicts == dict.fromkeys(HEALTHY, "Error")
    out = capsys.readouterr().out
    assert "Debugger: the observer was killed by signal 9. The training goes on without it.\n" in out
    assert out.endswith("".join(f"{name}: Error\n" for name in HEALTHY))
    written = status(tmp_path)
    assert written["observer"] == {"state": "killed", "detail": "The observer was killed by signal 9."}
    assert {(rule["status"], rule["note"]) for rule in written["rules"]} == {
        ("Error", "no verdict: the observer was killed by signal 9")
    }
    assert list((tmp_path / "tensors").glob("*.ts"))


def test_a_damaged_tensor_file_is_passed_over_and_reported(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path / "tensors")
    training.epochs(2)
    training.close()
    name = "events/000000000003/000000000003_worker_0.tfevents"
    content = (tmp_path / "tensors" / name).read_bytes()
    (tmp_path / "tensors" / name).write_bytes(content[: len(content) // 2])
    with Observation(config(tmp_path, HEALTHY)) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == dict.fromkeys(HEALTHY, "NoIssuesFound")
    written = status(tmp_path)
    assert written["observer"]["state"] == "finished"
    assert f"Rules did not see every tensor: {name} cannot be read: " in written["observer"]["detail"]
    assert rule_status(tmp_path, "WeightUpdateRatio")["traceback"] is None


def test_a_training_without_tensors_leaves_rules_with_too_little_data(tmp_path: Path) -> None:
    with Observation(config(tmp_path, HEALTHY)) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == dict.fromkeys(HEALTHY, "NoIssuesFound")
    assert rule_status(tmp_path, "VanishingGradient")["note"] == "too little data: no gradients were saved"


def test_tensors_without_an_end_marker_are_reported(tmp_path: Path) -> None:
    training = SmallTraining(tmp_path / "tensors")
    training.epochs(1)
    training.close()
    (tmp_path / "tensors" / observer.END_MARKER).unlink()
    with Observation(config(tmp_path, HEALTHY)) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == dict.fromkeys(HEALTHY, "NoIssuesFound")
    detail = "The tensors have no end marker: saving them had stopped before the training did."
    assert detail in status(tmp_path)["observer"]["detail"]


def test_an_observer_that_cannot_write_still_gives_its_verdicts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Observation(config(tmp_path, HEALTHY)) as observation:
        wait_for((tmp_path / "rules/status.json").is_file)
        (tmp_path / "rules/status.json").unlink()
        (tmp_path / "rules/status.json").mkdir()
        (tmp_path / "finished.json").mkdir()  # it cannot be written either
        assert observation.finish(TIMEOUT_SECONDS) == dict.fromkeys(HEALTHY, "NoIssuesFound")
    assert "Findings could not be written (IsADirectoryError: " in capfd.readouterr().err


def test_an_observer_that_cannot_be_started_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    with Observation(config(tmp_path / "output", {"Overfit": None})) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == {"Overfit": "Error"}
    assert "Debugger: the observer could not be started ([Errno 20] Not a directory: " in capsys.readouterr().out


def test_a_training_that_fails_takes_its_observer_with_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Observation(config(tmp_path, HEALTHY)):
        wait_for((tmp_path / "rules/status.json").is_file)
        raise RuntimeError
    assert observer_processes() == []
    written = status(tmp_path)
    assert written["observer"]["state"] == "killed"
    assert {rule["status"] for rule in written["rules"]} == {"Stopped"}


def test_an_observer_ends_when_the_training_was_killed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config(tmp_path, HEALTHY)))
    code = (
        "import json, sys, time; from watch.collect.observation import Observation\n"
        "with Observation(json.load(open(sys.argv[1]))): time.sleep(600)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "config.json")]
    training = subprocess.Popen(arguments, cwd=STEPS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "rules/status.json").is_file)
    (process,) = observer_processes()
    training.kill()
    training.wait()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    assert status(tmp_path)["observer"]["state"] == "killed"


RAISES = '''
from dataclasses import dataclass

from watch.rules.base import Mode, TensorRule, Trial


@dataclass(kw_only=True)
class Raises(TensorRule):
    """Prints, then fails at its third step."""

    advice = "None."
    needs = "steps"

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        print('{"event": "status", "rule": "VanishingGradient", "status": "Error"}')
        self.judged += 1
        if self.judged == 3:
            raise ZeroDivisionError("of the rule's own")
        return None
'''


def test_a_rule_that_raises_ends_in_error_alone(copied_steps: Path, tmp_path: Path) -> None:
    (copied_steps / "watch/rules/my_rule.py").write_text(RAISES)
    training = SmallTraining(tmp_path / "out/tensors")
    with Observation(config(tmp_path / "out", {"Raises": None, **HEALTHY})) as observation:
        training.epochs(1)
        training.close()
        verdicts = observation.finish(TIMEOUT_SECONDS)
    assert verdicts == {"Raises": "Error", **dict.fromkeys(HEALTHY, "NoIssuesFound")}
    found = rule_status(tmp_path / "out", "Raises")
    assert found["traceback"].endswith("ZeroDivisionError: of the rule's own\n")
    assert "my_rule.py" in found["traceback"]


HANGS = '''
import time
from dataclasses import dataclass

from watch.rules.base import TensorRule


@dataclass(kw_only=True)
class Hangs(TensorRule):
    """Never answers."""

    advice = "None."
    needs = "steps"

    def idle(self, now: float) -> str | None:
        time.sleep(600)
        return None
'''


def test_a_rule_that_hangs_does_not_hold_up_the_training(
    copied_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(observation_module, "SECONDS_TO_END", 0.2)
    (copied_steps / "watch/rules/my_rule.py").write_text(HANGS)
    with Observation(config(tmp_path / "out", {"Hangs": None})) as observation:
        wait_for((tmp_path / "out/rules/status.json").is_file)
        assert observation.finish(0.5) == {"Hangs": "Error"}
    trouble = "the observer had not finished after 0.5 seconds"
    assert f"Debugger: {trouble}. The training goes on without it.\n" in capsys.readouterr().out
    assert status(tmp_path / "out")["observer"]["detail"] == "The observer had not finished after 0.5 seconds."


CUSTOM = '''
from smdebug.rules.rule import Rule


class CustomGradientRule(Rule):
    """The example of AWS's guide, "Create custom rules"."""

    def __init__(self, base_trial, threshold=10.0):
        super().__init__(base_trial)
        self.threshold = float(threshold)

    def invoke_at_step(self, step):
        for tname in self.base_trial.tensor_names(collection="gradients"):
            t = self.base_trial.tensor(tname)
            abs_mean = t.reduction_value(step, "mean", abs=True)
            if abs_mean > self.threshold:
                return True
        return False
'''


def test_a_rule_written_for_smdebug_runs_as_it_is(copied_steps: Path, tmp_path: Path) -> None:
    (copied_steps / "watch/rules/my_rule.py").write_text(CUSTOM)
    rules = {
        "CustomGradientRule": None,
        "Strict": {"rule": "CustomGradientRule", "threshold": "1e-6", "action": "stop"},
        "VanishingGradient": None,
    }
    training = SmallTraining(tmp_path / "out/tensors")
    with Observation(config(tmp_path / "out", rules)) as observation:
        training.epochs(2)
        training.close()
        verdicts = observation.finish(2 * TIMEOUT_SECONDS)
    assert verdicts == {
        "CustomGradientRule": "NoIssuesFound",
        "Strict": "IssuesFound",
        "VanishingGradient": "NoIssuesFound",
    }
    assert observation.stop_requested == "CustomGradientRule met its condition at step 0, mode TRAIN."
    found = rule_status(tmp_path / "out", "Strict")
    assert (found["kind"], found["parameters"], found["fired"][0]["step"]) == ("custom", {"threshold": "1e-6"}, 0)
    assert len(found["fired"]) == 2 * STEPS_PER_EPOCH  # validation has no gradients


def test_a_wrong_configuration_is_the_verdict_of_its_rule_alone(tmp_path: Path) -> None:
    with Observation(config(tmp_path, {"Overfit": {"patience": 0}, "DeadRelu": None})) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == {"Overfit": "Error", "DeadRelu": "NoIssuesFound"}
    assert rule_status(tmp_path, "Overfit")["traceback"] == "Rule 'Overfit': patience must be at least 1, but got 0."


def test_the_observer_imports_nothing_slow() -> None:
    code = (
        "import sys; from watch.collect import observer; "
        "print([name for name in ('torch', 'smdebug', 'boto3', 'pandas') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=STEPS, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


def test_observers_without_smdebug_judge_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken/smdebug").mkdir(parents=True)
    (tmp_path / "broken/smdebug/__init__.py").write_text("raise AttributeError('tostring')")
    training = SmallTraining(tmp_path / "tensors")
    training.epochs(1)
    training.close()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")]))
    with Observation(config(tmp_path, HEALTHY)) as observation:
        assert observation.finish(TIMEOUT_SECONDS) == dict.fromkeys(HEALTHY, "NoIssuesFound")
    assert rule_status(tmp_path, "VanishingGradient")["note"] is None


def test_curves_stay_small_and_keep_their_ends() -> None:
    from watch.rules.evidence import MAXIMUM_POINTS, Curve

    curve = Curve()
    for step in range(10_000):
        curve.add(step, math.sin(step))
    assert MAXIMUM_POINTS // 2 <= len(curve.x) <= MAXIMUM_POINTS
    assert set(np.diff(curve.x)) == {32.0}
    assert curve.x[0] == 0 and curve.x[-1] >= 10_000 - 32
