"""A watched training: each rule fires for its true reason, none in a sound one, and no trouble costs the model."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.data.training_data import Split, TrainingData, load
from classifier.job.failures import StepError
from classifier.training.debug_settings import DebugSettings
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import Checkpoint
from classifier.training.loop import Batch, Mode, train
from classifier.training.monitor import Monitor, WatchedJob
from classifier.training.results import TrainingResult
from tests.steps.prepared_data import STEPS, Prepared, run_step

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

SOUND = Hyperparameters(epochs=20, batch_size=16, hidden_units=8, lr=0.01)
Entries = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def data(prepared: Prepared) -> TrainingData:
    return load(prepared.embeddings, prepared.manifest)


class Watched:
    """A training under a monitor, without the export that follows it in a job."""

    def __init__(self, folder: Path, data: TrainingData, hyperparameters: Hyperparameters, rules: Entries) -> None:
        self.folder, self.rules = folder, rules
        self.stage = HeadTraining(data, hyperparameters)
        self.settings = DebugSettings(save_interval_steps=1, rules=rules, sample_interval_ms=100, profiled_steps=0)
        self.result: TrainingResult | None = None
        self.verdicts: dict[str, str] = {}

    def run(self, monitor_class: type[Monitor] = Monitor, checkpoint: Checkpoint | None = None) -> "Watched":
        stage = self.stage
        job = WatchedJob("job", "algo-1", self.folder, stage.data, stage.hyperparameters, stage.steps)
        with monitor_class(job, self.settings, head=stage.head, criterion=stage.criterion) as self.monitor:
            self.result = train(stage, watcher=self.monitor, checkpoint=checkpoint)
            self.monitor.training_ended(self.result)
            self.verdicts = self.monitor.judge()
        return self

    @property
    def status(self) -> dict[str, Any]:
        """Rule name -> its entry in status.json."""
        document = json.loads((self.folder / "rules" / "status.json").read_text())
        return {rule["name"]: rule for rule in document["rules"]}

    @property
    def history(self) -> dict[str, Any]:
        return json.loads((self.folder / "history.json").read_text())

    @property
    def report(self) -> str:
        return (self.folder / "report" / "debugger.html").read_text()


def shipped_rules() -> Entries:
    from pipeline.config.config import load as load_config

    return load_config(STEPS.parent / "pipeline.yaml").debug.rules


def test_no_rule_fires_and_none_is_in_error_in_a_sound_training(data: TrainingData, tmp_path: Path) -> None:
    watched = Watched(tmp_path, data, SOUND, shipped_rules())
    watched.settings = replace(watched.settings, save_interval_steps=None, profiled_steps=2)
    watched.run()
    assert set(watched.verdicts) == set(shipped_rules())
    assert {name: status for name, status in watched.verdicts.items() if status != "NoIssuesFound"} == {}
    assert (tmp_path / "profile" / "torch" / "trace.json.gz").is_file()
    assert (watched.history["outcome"], len(watched.history["epochs"])) == ("Completed", 20)
    assert all(epoch["seconds"] > 0 for epoch in watched.history["epochs"])


def test_what_watches_a_training_changes_nothing_in_it_and_leaves_nothing_behind(
    data: TrainingData, tmp_path: Path
) -> None:
    before = threading.active_count()
    watched = Watched(tmp_path, data, SOUND, shipped_rules()).run()
    process = watched.monitor.observation._process
    assert process is not None and process.poll() == 0
    assert threading.active_count() == before
    alone = train(HeadTraining(data, SOUND))
    assert watched.result is not None
    assert watched.result.epochs == alone.epochs
    assert all(
        torch.equal(watched.result.kept.parts["head"][name], alone.kept.parts["head"][name])
        for name in alone.kept.parts["head"]
    )


def test_a_training_that_was_lost_after_its_last_epoch_ends_well_with_nothing_left_to_do(
    data: TrainingData, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "training.pt", "a")
    done = train(HeadTraining(data, SOUND), checkpoint=checkpoint)
    watched = Watched(tmp_path, data, SOUND, {}).run(checkpoint=checkpoint)
    assert watched.result is not None and watched.result.epochs == done.epochs
    assert (watched.history["outcome"], len(watched.history["epochs"])) == ("Completed", 20)
    assert {epoch["seconds"] for epoch in watched.history["epochs"]} == {None}


# faults that are put into this training; benchmarks/debugger_corpus has them for networks of all kinds


def learning_rate_0(watched: Watched) -> None:
    watched.stage = HeadTraining(watched.stage.data, replace(SOUND, lr=0.0))


def biases_that_kill_every_relu(watched: Watched) -> None:
    with torch.no_grad():
        watched.stage.head.hidden.bias.fill_(-1000)


def labels_without_meaning(watched: Watched) -> None:
    """Nothing to learn, a head large enough to know every image by heart, and many epochs."""
    generator = np.random.default_rng(0)
    data = watched.stage.data
    few = Split(data.train.embeddings[:30, :1], generator.integers(0, 3, 30))
    validation = Split(data.validation.embeddings, generator.integers(0, 3, len(data.validation)))
    hyperparameters = replace(SOUND, epochs=60, hidden_units=256, dropout=0.0, label_smoothing=0.0)
    watched.stage = HeadTraining(replace(data, train=few, validation=validation), hyperparameters)


def images_never_normalised(watched: Watched) -> None:
    data = watched.stage.data
    splits = (
        replace(one, input_means=np.full((len(one), 3), 127.0, np.float32)) for one in (data.train, data.validation)
    )
    watched.stage = HeadTraining(TrainingData(data.manifest, *splits), SOUND)


UNCHANGED: Entries = {"LossNotDecreasing": {}, "UnchangedTensor": {"collection_names": ["weights"]}}
SCENARIOS: dict[str, tuple[Callable[[Watched], None], Entries]] = {
    "learning rate 0": (learning_rate_0, UNCHANGED),
    "every ReLU dead": (biases_that_kill_every_relu, {"DeadRelu": {}}),
    "labels without meaning, 60 epochs": (labels_without_meaning, {"Overfit": {}}),
    "images never normalised": (images_never_normalised, {"CheckInputImages": {}}),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rule_fires_for_its_true_reason_and_the_report_says_so(
    scenario: str, data: TrainingData, tmp_path: Path
) -> None:
    spoil, rules = SCENARIOS[scenario]
    watched = Watched(tmp_path, data, SOUND, rules)
    spoil(watched)
    watched.run()
    assert watched.verdicts == dict.fromkeys(rules, "IssuesFound")
    for name, rule in watched.status.items():
        assert rule["fired"], name
        assert rule["evidence"], name
        assert name in watched.report


def test_diverging_training_fails_in_one_sentence_and_the_rule_says_which_tensor(
    data: TrainingData, tmp_path: Path
) -> None:
    watched = Watched(tmp_path, data, replace(SOUND, lr=1e38), {"ExplodingTensor": {}})
    with pytest.raises(StepError, match=r"The training loss became (nan|inf) in epoch 1 at learning rate 1e\+38"):
        watched.run()
    assert watched.status["ExplodingTensor"]["status"] == "IssuesFound"
    assert watched.history["outcome"] == "Failed"
    assert "The training loss became" in watched.report


class SlowMonitor(Monitor):
    """Steps take their time, as those of a large network do; after some, something is done to the debugger."""

    harm: Callable[[Monitor], None] = staticmethod(lambda monitor: None)
    steps = 0

    def batches(self, source: Iterable[Batch], mode: Mode) -> Iterator[Batch]:
        for batch in super().batches(source, mode):
            time.sleep(0.02)
            self.steps += 1
            if self.steps == 50:
                type(self).harm(self)
            yield batch


def test_rule_with_the_action_stop_ends_the_training_within_5_seconds_and_the_best_model_is_kept(
    data: TrainingData, tmp_path: Path
) -> None:
    entry = {"rule": "LossNotDecreasing", "num_steps": 10, "action": "stop"}
    watched = Watched(tmp_path, data, replace(SOUND, lr=0.0, epochs=1000), {"NotLearning": entry}).run(SlowMonitor)
    assert watched.result is not None and watched.result.stopped
    assert len(watched.result.epochs) < 1000
    assert watched.result.kept.parts
    fired = watched.status["NotLearning"]["fired"][0]
    assert watched.history["outcome"] == "Stopped"
    assert watched.history["reason"] == watched.result.stopped == fired["sentence"]
    assert watched.result.stopped in watched.report.replace("&#x27;", "'")


def kill_observer(monitor: Monitor) -> None:
    process = monitor.observation._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


def corrupt_tensors(monitor: Monitor) -> None:
    for file in (monitor.job.output_dir / "tensors" / "events").rglob("*.tfevents"):
        file.write_bytes(os.urandom(file.stat().st_size // 2))


def forbid_tensors(monitor: Monitor) -> None:
    """As a full disk does: no more file can be made where the tensors go."""
    events = monitor.job.output_dir / "tensors" / "events"
    shutil.rmtree(events)
    events.write_text("")


HARMS = {"observer killed": kill_observer, "tensors corrupted": corrupt_tensors, "no room for tensors": forbid_tensors}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # a traceback in the log would be one
@pytest.mark.parametrize("harm", HARMS)
def test_training_ends_well_whatever_happens_to_what_watches_it(
    harm: str, data: TrainingData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rules: Entries = {"VanishingGradient": {}, "Overtraining": {}}
    monitor = type("Harmed", (SlowMonitor,), {"harm": staticmethod(HARMS[harm])})
    watched = Watched(tmp_path, data, SOUND, rules).run(monitor)
    assert watched.result is not None
    assert len(watched.result.epochs) == SOUND.epochs
    assert watched.verdicts.keys() == rules.keys()
    assert watched.report
    if harm == "observer killed":
        assert watched.verdicts == dict.fromkeys(rules, "Error")
        assert "\nrule_VanishingGradient=-1 rule_Overtraining=-1\n" in capfd.readouterr().out
        assert "killed by signal 9" in watched.report


def job_output(prepared: Prepared, folder: Path, *arguments: str) -> list[str]:
    names = {"SM_MODEL_DIR": "model", "SM_OUTPUT_DATA_DIR": "data", "JOB_STOP_FILE": "stopped"}
    environment = prepared.channels | {name: str(folder / file) for name, file in names.items()}
    process = run_step("train.py", *arguments, env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout.splitlines()


def test_training_job_prints_one_metric_line_and_puts_the_verdicts_into_the_model(
    prepared: Prepared, tmp_path: Path
) -> None:
    rules = {"Overtraining": {}, "AllZero": {"collection_names": ["weights"]}}
    arguments = ["--epochs", "6", "--hidden_units", "8", "--debug_rules", json.dumps(json.dumps(rules))]
    lines = job_output(prepared, tmp_path, *arguments)
    assert "rule_Overtraining=0 rule_AllZero=0" in lines
    verdicts = json.loads((tmp_path / "model" / "rules.json").read_text())
    assert verdicts == dict.fromkeys(rules, "NoIssuesFound")
    assert not (tmp_path / "stopped").exists()


def test_training_that_a_rule_stops_says_why_where_the_runner_looks(prepared: Prepared, tmp_path: Path) -> None:
    rules = {"NotLearning": {"rule": "LossNotDecreasing", "action": "stop"}}
    arguments = ["--epochs", "100000", "--batch_size", "16", "--lr", "1e-30", "--debug_rules", json.dumps(rules)]
    lines = job_output(prepared, tmp_path, *arguments)
    reason = (tmp_path / "stopped").read_text()
    assert lines[-1].endswith(f"of 100000 epochs: {reason}")
    assert (tmp_path / "model" / "model.pt").is_file()
