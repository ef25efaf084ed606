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
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classifier.data import sample_files
from classifier.data.images import Preprocess
from classifier.data.training_data import TrainingData
from classifier.drift.baseline import make_baseline
from classifier.finetuning.baseline import fine_tuned_baseline
from classifier.finetuning.choices import settled
from classifier.finetuning.fine_tuning import Images
from classifier.finetuning.second_stage import fine_tuned, open_images
from classifier.job.failures import TRAINING_FAILURE, StepError, run, say
from classifier.model.backbone import Backbone, matching_backbone
from classifier.model.export import copy_code, export_network
from classifier.model.head import CalibratedHead, ClassifierHead
from classifier.training import hyperparameters as hp
from classifier.training.calibration import Calibration, calibrate
from classifier.training.checkpoint import FIRST_STAGE_FILE, SECOND_STAGE_FILE, Checkpoints, checkpoint_directory
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import (
    channel,
    head_training,
    loss_of,
    model_dir_of,
    opened_data,
    parse_arguments,
    untrained_head,
    write_json,
)
from classifier.training.job_stop import end_as_stopped, stopped_by_sigterm
from classifier.training.loop import EpochResult, Kept, TrainingResult, Watcher, train
from classifier.training.processes import Processes, joined
from classifier.training.torchrun import restart_under_torchrun
from classifier.training.warnings import warnings_of
from classifier.watch import debug_settings
from classifier.watch.debug_settings import DebugSettings
from classifier.watch.monitor import Monitor, WatchedJob


@dataclass(frozen=True)
class Job:
    """What every process of the training knows."""

    arguments: argparse.Namespace
    hyperparameters: Hyperparameters
    processes: Processes
    data: TrainingData
    backbone: Backbone
    images: Images | None  # None: no fine-tuning

    def fine_tuned(
        self,
        earlier: TrainingResult | None,
        head: ClassifierHead,
        criterion: nn.Module,
        watcher: Watcher,
        checkpoints: Checkpoints | None,
    ) -> TrainingResult:
        """What the second stage makes of the first one's result; nothing where there is none, or the first stopped.

        Args:
            earlier: The first process's; it tells the others, which pass None.
        """
        told: TrainingResult = self.processes.told(earlier)
        if self.images is None or told.stopped:
            return told
        return fine_tuned(
            told,
            backbone=self.backbone,
            head=head,
            criterion=criterion,
            images=self.images,
            hyperparameters=self.hyperparameters,
            processes=self.processes,
            watcher=watcher,
            checkpoints=checkpoints,
        )


def main() -> None:
    restart_under_torchrun()
    arguments = parse_arguments(__doc__, add_own_arguments)
    asked, settings = hp.parse(arguments), debug_settings.parse(arguments)
    with joined() as processes:
        data = opened_data(arguments, processes.say)
        hyperparameters = settled(asked, data.manifest)
        backbone = matching_backbone(channel(arguments, "weights"), data.manifest)
        images = open_images(arguments, data) if hyperparameters.fine_tunes else None
        job = Job(arguments, hyperparameters, processes, data, backbone, images)
        if processes.leads:
            lead(job, settings)
        else:
            follow(job)


def lead(job: Job, settings: DebugSettings) -> None:
    """The process that trains the head, watches, and writes the model."""
    stage = head_training(job.data, job.hyperparameters)
    watched = WatchedJob(job_name(), node_name(), Path(job.arguments.output_data_dir), job.data, job.hyperparameters)
    monitor = Monitor(watched, settings, head=stage.head, criterion=stage.criterion) if settings.enabled else None
    decisive = fingerprint(job)
    first, second = (
        Checkpoints(checkpoint_directory(), decisive, name) for name in (FIRST_STAGE_FILE, SECOND_STAGE_FILE)
    )
    with monitor or nullcontext(), stopped_by_sigterm(monitor or Watcher()) as watcher:
        result = train(stage, watcher=watcher, checkpoints=first, patience=job.hyperparameters.patience)
        result = job.fine_tuned(result, stage.head, stage.criterion, watcher, second)
        for warning in warnings_of(job.data, result):
            say(f"Warning: {warning}")
        if monitor:
            monitor.training_ended(result)
        model_dir = model_dir_of(job.arguments)
        kept = result.kept
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
        say(f"Stopped after {len(result.epochs)} of {job.hyperparameters.all_epochs} epochs: {result.stopped}")
    if monitor and monitor.stopped_by_rule:
        end_as_stopped(monitor.stopped_by_rule)


def follow(job: Job) -> None:
    """One of the other processes: takes its share of the second stage. What goes wrong, the first one says."""
    head, criterion = untrained_head(job.data, job.hyperparameters), loss_of(job.data, job.hyperparameters)
    try:
        with stopped_by_sigterm(Watcher()) as watcher:
            job.fine_tuned(None, head, criterion, watcher, None)
    except StepError:
        raise SystemExit(1) from None


def write_model(job: Job, kept: Kept, calibration: Calibration, model_dir: Path) -> None:
    """Everything but the rules' verdicts."""
    head = untrained_head(job.data, job.hyperparameters)  # without the debugger's hooks
    head.load_state_dict(kept.parts["head"])
    torch.save(kept.parts["head"], model_dir / "head.pt")
    backbone = job.backbone
    if job.images:  # the job's own may have learned what is not kept
        backbone = matching_backbone(channel(job.arguments, "weights"), job.data.manifest)
    if "backbone" in kept.parts:
        backbone.load_state_dict(kept.parts["backbone"])
        torch.save(kept.parts["backbone"], model_dir / "backbone.pt")
    manifest_dir = channel(job.arguments, "manifest")
    preprocess = Preprocess.from_dict(job.data.manifest["preprocess"])
    calibrated = CalibratedHead(head, calibration.temperature)
    export_network(backbone, calibrated, preprocess, model_dir, sample_files.paths(manifest_dir))
    if "backbone" in kept.parts and job.images:
        baseline = fine_tuned_baseline(backbone, job.images)
    else:
        baseline = make_baseline(job.data.train.embeddings, job.data.validation.embeddings)
    baseline.save(model_dir)
    write_json(model_dir / "model.json", description(job.data, job.hyperparameters, kept.figures, calibration))
    copy_code(model_dir / "code")


def description(
    data: TrainingData, hyperparameters: Hyperparameters, kept: EpochResult, calibration: Calibration
) -> dict[str, Any]:
    """model.json: what evaluation, the endpoint and a reader need to know about model.pt."""
    return {
        "schema_version": 1,
        "classes": data.classes,
        "preprocess": data.manifest["preprocess"],
        "backbone": data.manifest["backbone"]["name"],
        "hyperparameters": hyperparameters.to_dict(),
        "validation": asdict(kept),
        "calibration": asdict(calibration),  # on the validation split
    }


def fingerprint(job: Job) -> str:
    """What decides the training's result, as a hash: a checkpoint of anything else is of no use."""
    decisive = [
        job.hyperparameters.to_dict(),
        job.data.manifest["dataset_sha256"],
        job.data.manifest["backbone"],
        torch.__version__,
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def job_name() -> str:
    """The training job's name, as SageMaker gives it."""
    return os.environ.get("TRAINING_JOB_NAME", "training")


def node_name() -> str:
    """This instance among those of the job."""
    return os.environ.get("SM_CURRENT_HOST", "algo-1")


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    debug_settings.add_arguments(parser)
    parser.add_argument("--output-data-dir", default=os.environ.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data"))


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
