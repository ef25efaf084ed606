"""The final training: the winner's hyperparameters, tensors saved, rules judged, the whole network exported.

It repeats the best trial (trial.py) to the last digit; what watches it changes nothing in it.
"""

import argparse
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from classifier.data.images import Preprocess
from classifier.data.prepared_images import sample_files
from classifier.data.training_data import TrainingData
from classifier.drift.baseline import make_baseline
from classifier.job.failures import TRAINING_FAILURE, StepError, run, say
from classifier.model.backbone import Backbone, matching_backbone
from classifier.model.export import copy_code, export_network
from classifier.model.head import CalibratedHead
from classifier.training import hyperparameters as hp
from classifier.training import job as training_job
from classifier.training.calibration import Calibration, calibrate
from classifier.training.checkpoint import FIRST_STAGE_FILE, SECOND_STAGE_FILE, Checkpoints, checkpoint_directory
from classifier.training.head_training import HeadTraining, head_training
from classifier.training.job import channel, write_json
from classifier.training.loop import Kept, TrainingResult, Watcher, train, warnings_of
from classifier.training.processes import Processes, joined, restart_under_torchrun
from classifier.watch import debug_settings
from classifier.watch.debug_settings import DebugSettings
from classifier.watch.monitor import Monitor, WatchedJob

if TYPE_CHECKING:  # it brings timm and torchvision, two seconds, which only fine-tuning needs
    from classifier.finetuning.images import Images


@dataclass(frozen=True)
class Job:
    """What a process of the training knows before it begins."""

    arguments: argparse.Namespace
    processes: Processes
    data: TrainingData
    stage: HeadTraining
    backbone: Backbone
    images: "Images | None"  # None: no fine-tuning


def main() -> None:
    restart_under_torchrun()
    arguments = training_job.parse_arguments(__doc__, add_own_arguments)
    asked, settings = hp.parse(arguments), debug_settings.parse(arguments)
    with joined() as processes:
        try:
            data = training_job.open_data(arguments, processes.say)
            hyperparameters, images = hp.settled(asked, data.manifest), None
            if hyperparameters.fine_tunes:
                from classifier.finetuning.images import open_images

                images = open_images(arguments, data)
            backbone = matching_backbone(channel(arguments, "weights"), data.manifest)
            job = Job(arguments, processes, data, head_training(data, hyperparameters), backbone, images)
            if processes.leads:
                watch_and_export(job, settings)
            else:
                with training_job.stopped_by_sigterm(Watcher()) as watcher:
                    train_stages(job, watcher)
        except StepError:
            if processes.leads:
                raise
            raise SystemExit(1) from None  # the first process says it


def watch_and_export(job: Job, settings: DebugSettings) -> None:
    """The first process's part: it trains as all others do, watches, and writes the model."""
    stage, data = job.stage, job.data
    name, node = os.environ.get("TRAINING_JOB_NAME", "training"), os.environ.get("SM_CURRENT_HOST", "algo-1")
    watched = WatchedJob(name, node, Path(job.arguments.output_data_dir), data, stage.hyperparameters)
    monitor = Monitor(watched, settings, head=stage.head, criterion=stage.criterion) if settings.enabled else None
    with monitor or nullcontext(), training_job.stopped_by_sigterm(monitor or Watcher()) as watcher:
        result = train_stages(job, watcher)
        for warning in warnings_of(data, result):
            say(f"Warning: {warning}")
        if monitor:
            monitor.training_ended(result)
        model_dir, kept = training_job.make_model_dir(job.arguments), result.kept
        calibration = calibrate(kept.validation.logits.numpy(), kept.validation.labels.numpy())
        write_model(job, kept, calibration, model_dir)
        if monitor:
            write_json(model_dir / "rules.json", monitor.judge())
    say(
        f"Scores are calibrated with temperature {calibration.temperature:.4f}: expected calibration error on "
        f"validation {calibration.expected_calibration_error:.4f}, {calibration.uncalibrated_error:.4f} without it"
    )
    say(
        f"Kept epoch {kept.figures.epoch} with validation accuracy {kept.figures.validation_accuracy:.4f}; "
        f"the whole network is in {model_dir / 'model.pt'}"
    )
    if result.stopped:
        say(f"Stopped after {len(result.epochs)} of {stage.hyperparameters.all_epochs} epochs: {result.stopped}")
    if monitor and monitor.stopped_by_rule:
        training_job.end_as_stopped(monitor.stopped_by_rule)


def train_stages(job: Job, watcher: Watcher) -> TrainingResult:
    """The head, which the first process trains, and where it is asked for the backbone, which all do."""
    stage, processes, result, second = job.stage, job.processes, None, None
    if processes.leads:
        directory, decisive = checkpoint_directory(), fingerprint(job)
        first, second = (Checkpoints(directory, decisive, name) for name in (FIRST_STAGE_FILE, SECOND_STAGE_FILE))
        result = train(stage, watcher=watcher, checkpoints=first, patience=stage.hyperparameters.patience)
    trained: TrainingResult = processes.broadcast(result)
    if job.images is None or trained.stopped:
        return trained
    from classifier.finetuning.fine_tuning import fine_tune

    return fine_tune(
        trained,
        stage,
        backbone=job.backbone,
        images=job.images,
        processes=processes,
        watcher=watcher,
        checkpoints=second,
    )


def write_model(job: Job, kept: Kept, calibration: Calibration, model_dir: Path) -> None:
    """Everything but the rules' verdicts."""
    manifest, data = job.data.manifest, job.data
    backbone, head = job.backbone, job.stage.head.copy()
    if job.images:  # the job's own may have learned what is not kept
        backbone = matching_backbone(channel(job.arguments, "weights"), manifest)
    for name, module in (("head", head), ("backbone", backbone)):
        if name in kept.parts:
            module.load_state_dict(kept.parts[name])
            torch.save(kept.parts[name], model_dir / f"{name}.pt")
    preprocess = Preprocess.from_dict(manifest["preprocess"])
    photos = sample_files(channel(job.arguments, "manifest"))
    export_network(backbone, CalibratedHead(head, calibration.temperature), preprocess, model_dir, photos)
    if "backbone" in kept.parts and job.images:
        from classifier.finetuning.fine_tuning import fine_tuned_baseline

        baseline = fine_tuned_baseline(backbone, job.images)
    else:
        baseline = make_baseline(data.train.embeddings, data.validation.embeddings)
    baseline.save(model_dir)
    description = {  # what evaluation, the endpoint and a reader need to know about model.pt
        "schema_version": 1,
        "classes": data.classes,
        "preprocess": manifest["preprocess"],
        "backbone": manifest["backbone"]["name"],
        "hyperparameters": job.stage.hyperparameters.to_dict(),
        "validation": asdict(kept.figures),
        "calibration": asdict(calibration),  # on the validation split
    }
    write_json(model_dir / "model.json", description)
    copy_code(model_dir / "code")


def fingerprint(job: Job) -> str:
    """What decides the training's result, as a hash: a checkpoint of anything else is of no use."""
    manifest = job.data.manifest
    data = [manifest["dataset_sha256"], manifest["backbone"]]
    decisive = [job.stage.hyperparameters.to_dict(), *data, *map(version, ("torch", "timm", "numpy"))]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    debug_settings.add_arguments(parser)
    parser.add_argument("--output-data-dir", default=os.environ.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data"))


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
