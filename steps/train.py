"""The final training: the winner's hyperparameters, tensors saved, rules judged, the whole network exported.

It repeats the best trial (trial.py) to the last digit; what watches it changes nothing in it.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from classifier.data.images import Preprocess
from classifier.data.prepared_images import SAMPLES
from classifier.data.training_data import read_listing
from classifier.drift.baseline import make_baseline
from classifier.job.failures import TRAINING_FAILURE, StepError, run, say
from classifier.job.system import write_json
from classifier.model.accuracy import accuracy_text
from classifier.model.archive import FAULTS_FILE, RULES_FILE, write_seen
from classifier.model.backbone import matching_backbone
from classifier.model.export import export_network
from classifier.training import debug_settings, job
from classifier.training import hyperparameters as hp
from classifier.training.abstaining import measure
from classifier.training.calibration import Calibration, calibrate, softmax
from classifier.training.debug_objects import uploaded
from classifier.training.debug_settings import DebugSettings
from classifier.training.head_training import HeadTraining
from classifier.training.job import Checkpoint, Processes, channel
from classifier.training.loop import Watcher, train
from classifier.training.monitor import Monitor, WatchedJob
from classifier.training.results import Kept, TrainingResult, warnings_of


def main() -> None:
    job.restart_under_torchrun()
    arguments = job.parse_arguments(__doc__, debug_settings.add_arguments)
    asked, settings = hp.parse(arguments), debug_settings.parse(arguments)
    with job.joined() as processes:
        try:
            training = FinalTraining(arguments, asked, processes)
            if processes.leads:
                watch_and_export(training, settings)
            else:
                training.train(Watcher())
        except StepError:
            if processes.leads:
                raise
            raise SystemExit(1) from None  # the first process says it


class FinalTraining:
    """The head, which the first process trains, and where it is asked for the backbone, which all do."""

    def __init__(self, arguments: argparse.Namespace, asked: hp.Hyperparameters, processes: Processes) -> None:
        self.arguments, self.processes = arguments, processes
        self.data = job.open_data(arguments, processes)
        self.hyperparameters = hp.settled(asked, self.data.manifest)
        self.images = None
        if self.hyperparameters.fine_tunes:
            from classifier.finetuning.images import open_images  # with torchvision, which takes a second

            self.images = open_images(arguments, self.data)
        self.backbone = matching_backbone(channel(arguments, "weights"), self.data.manifest)
        self.stage = HeadTraining(self.data, self.hyperparameters)

    def train(self, watcher: Watcher) -> TrainingResult:
        """SIGTERM (StopTrainingJob, the end of MaxRuntime, spot capacity taken back) ends it after the step."""

        def on_signal(number: int, frame: object) -> None:
            watcher.stop_requested = "The job was asked to stop (SIGTERM)."

        signal.signal(signal.SIGTERM, on_signal)
        result = None
        if self.processes.leads:
            checkpoint, patience = self.checkpoint("training.pt"), self.hyperparameters.patience
            result = train(self.stage, watcher=watcher, checkpoint=checkpoint, patience=patience)
        trained = self.processes.gather(result)[0]  # the first one's
        assert trained is not None
        if self.images is None or trained.stopped:
            return trained
        from classifier.finetuning.fine_tuning import FineTuning

        self.stage.head.load_state_dict(trained.kept.parts["head"])
        stage = FineTuning(self.stage, self.backbone, self.images, self.processes)
        return train(stage, watcher=watcher, checkpoint=self.checkpoint("fine_tuning.pt"), earlier=trained)

    def checkpoint(self, name: str) -> Checkpoint | None:
        """The first process's, if the job keeps any; of no use to a training that anything else decides."""
        directory, manifest = job.checkpoint_directory(), self.data.manifest
        if directory is None or not self.processes.leads:
            return None
        data = [manifest["dataset_sha256"], manifest["backbone"]]
        decisive = [self.hyperparameters.to_dict(), *data, *map(version, ("torch", "timm", "numpy"))]
        fingerprint = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return Checkpoint(directory / name, fingerprint)

    def write_model(self, kept: Kept, calibration: Calibration) -> None:
        """Everything but the rules' verdicts."""
        model_dir, manifest, data = self.arguments.model_dir, self.data.manifest, self.data
        unseen = kept.validation.selection
        scores = softmax(unseen.logits.numpy(), calibration.temperature)
        model_dir.mkdir(parents=True, exist_ok=True)
        backbone, head = self.backbone, self.stage.head.copy()
        if self.images:  # the training's own may have learned what is not kept
            backbone = matching_backbone(channel(self.arguments, "weights"), manifest)
        for name, module in (("head", head), ("backbone", backbone)):
            if name in kept.parts:
                module.load_state_dict(kept.parts[name])
                torch.save(kept.parts[name], model_dir / f"{name}.pt")
        preprocess = Preprocess.from_dict(manifest["preprocess"])
        if (photos := channel(self.arguments, "manifest") / SAMPLES).is_dir():
            shutil.copytree(photos, model_dir / SAMPLES, dirs_exist_ok=True)
        listing = read_listing(channel(self.arguments, "manifest"))
        write_seen(model_dir, [image["sha256"] for image in listing if image["split"] != "test"])
        export_network(backbone, head, preprocess, model_dir, calibration.temperature)
        if "backbone" in kept.parts and self.images:
            from classifier.finetuning.fine_tuning import fine_tuned_baseline

            baseline = fine_tuned_baseline(backbone, self.images)
        else:
            baseline = make_baseline(data.train.embeddings, data.validation.embeddings)
        baseline.save(model_dir)
        description = {  # what evaluation, the endpoint and a reader need to know about model.pt
            "schema_version": 1,
            "classes": data.classes,
            "preprocess": manifest["preprocess"],
            "backbone": manifest["backbone"]["name"],
            "hyperparameters": self.hyperparameters.to_dict(),
            "validation": asdict(kept.figures),
            "calibration": asdict(calibration),  # on images that who answered had not seen
            "abstaining": measure(scores, unseen.labels.numpy()),
        }
        write_json(model_dir / "model.json", description)


def watch_and_export(training: FinalTraining, settings: DebugSettings) -> None:
    """The first process's part: it trains as all others do, watches, and writes the model."""
    arguments, stage, data = training.arguments, training.stage, training.data
    name, node = os.environ.get("TRAINING_JOB_NAME", "training"), os.environ.get("SM_CURRENT_HOST", "algo-1")
    watched = WatchedJob(name, node, arguments.output_data_dir, data, training.hyperparameters, stage.steps)
    monitor = Monitor(watched, settings, head=stage.head, criterion=stage.criterion) if settings.enabled else None
    objects = uploaded(arguments.output_data_dir, settings.output_uri if monitor else "")
    with objects, monitor or nullcontext():
        result = training.train(monitor or Watcher())
        for warning in warnings_of(data, result):
            say(f"Warning: {warning}")
        if monitor:
            monitor.training_ended(result)
        kept = result.kept
        selection = kept.validation.selection
        calibration = calibrate(selection.logits.numpy(), selection.labels.numpy())
        training.write_model(kept, calibration)
        if monitor:
            write_json(arguments.model_dir / RULES_FILE, monitor.judge())
            if faults := training_faults(arguments.output_data_dir / "rules/status.json"):
                write_json(arguments.model_dir / FAULTS_FILE, faults)
    say(
        f"Scores are calibrated with temperature {calibration.temperature:.4f} on {len(selection.labels)} images, each "
        f"answered by who had not seen it: expected calibration error {calibration.expected_calibration_error:.4f}, "
        f"{calibration.uncalibrated_error:.4f} without it"
    )
    say(
        f"Kept epoch {kept.figures.epoch}, selected on validation accuracy "
        f"{accuracy_text(kept.figures.validation_accuracy, len(kept.validation.labels))}; "
        f"the whole network is in {arguments.model_dir / 'model.pt'}"
    )
    if result.stopped:
        say(f"Stopped after {len(result.epochs)} of {training.hyperparameters.all_epochs} epochs: {result.stopped}")
    if monitor and monitor.stopped_by_rule:
        job.end_as_stopped(monitor.stopped_by_rule)


def training_faults(status_file: Path) -> dict[str, str]:
    """Return what rules found that makes the model worthless: a rule's name -> its first finding; empty if unknown."""
    try:
        rules = json.loads(status_file.read_bytes())["rules"]
        fatal = [rule for rule in rules if rule["status"] == "IssuesFound" and rule["severity"] == "fatal"]
        return {rule["name"]: rule["fired"][0]["sentence"] for rule in fatal}
    except (OSError, ValueError, LookupError, TypeError) as error:
        say(f"What the rules found could not be read: {error}")
        return {}


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
