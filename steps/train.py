"""The final training: the winner's hyperparameters, tensors saved, rules judged, the whole network exported.

It repeats the best trial (trial.py) to the last digit; what watches it changes nothing in it.
"""

import argparse
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import debug_settings
import hyperparameters as hp
import sample_files
from calibration import Calibration, calibrate
from checkpoint import Checkpoints, checkpoint_directory
from drift_baseline import make_baseline
from export import copy_code, export_network, matching_backbone
from failures import TRAINING_FAILURE, run, say
from head import CalibratedHead
from hyperparameters import Hyperparameters
from images import Preprocess
from job_stop import end_as_stopped, stopped_by_sigterm
from monitor import Monitor, WatchedJob
from training_data import TrainingData
from training_job import (
    channel,
    head_training,
    model_dir_of,
    opened_data,
    parse_arguments,
    untrained_head,
    write_json,
)
from training_loop import TrainingResult, Watcher, train


def main() -> None:
    arguments = parse_arguments(__doc__, add_own_arguments)
    hyperparameters, settings = hp.parse(arguments), debug_settings.parse(arguments)
    data = opened_data(arguments)
    backbone = matching_backbone(channel(arguments, "weights"), data.manifest)
    stage = head_training(data, hyperparameters)
    job = WatchedJob(job_name(), node_name(), Path(arguments.output_data_dir), data, hyperparameters)
    monitor = Monitor(job, settings, head=stage.head, criterion=stage.criterion) if settings.enabled else None
    watcher = monitor or Watcher()
    checkpoints = Checkpoints(checkpoint_directory(), fingerprint(data, hyperparameters))
    with monitor or nullcontext(), stopped_by_sigterm(watcher):
        result = train(stage, watcher=watcher, checkpoints=checkpoints)
        if monitor:
            monitor.training_ended(result)
        model_dir = model_dir_of(arguments)
        trained_head = untrained_head(data, hyperparameters)  # without the debugger's hooks
        trained_head.load_state_dict(result.state["head"])
        torch.save(result.state["head"], model_dir / "head.pt")
        calibration = calibrate(result.validation.logits.numpy(), result.validation.labels.numpy())
        calibrated = CalibratedHead(trained_head, calibration.temperature)
        preprocess, photos = Preprocess.from_dict(data.manifest["preprocess"]), channel(arguments, "manifest")
        export_network(backbone, calibrated, preprocess, model_dir, sample_files.paths(photos))
        make_baseline(data.train.embeddings, data.validation.embeddings).save(model_dir)
        write_json(model_dir / "model.json", description(data, hyperparameters, result, calibration))
        copy_code(model_dir / "code")
        if monitor:
            write_json(model_dir / "rules.json", monitor.judge())
    say(
        f"Scores are calibrated with temperature {calibration.temperature:.4f}: expected calibration error on "
        f"validation {calibration.expected_calibration_error:.4f}, {calibration.uncalibrated_error:.4f} without it"
    )
    say(
        f"Kept epoch {result.best.epoch} with validation accuracy {result.best.validation_accuracy:.4f}; "
        f"the whole network is in {model_dir / 'model.pt'}"
    )
    if result.stopped:
        say(f"Stopped after {len(result.epochs)} of {hyperparameters.epochs} epochs: {result.stopped}")
    if monitor and monitor.stopped_by_rule:
        end_as_stopped(monitor.stopped_by_rule)


def description(
    data: TrainingData, hyperparameters: Hyperparameters, result: TrainingResult, calibration: Calibration
) -> dict[str, Any]:
    """model.json: what evaluation, the endpoint and a reader need to know about model.pt."""
    return {
        "schema_version": 1,
        "classes": data.classes,
        "preprocess": data.manifest["preprocess"],
        "backbone": data.manifest["backbone"]["name"],
        "hyperparameters": hyperparameters.to_dict(),
        "validation": asdict(result.best),
        "calibration": asdict(calibration),  # on the validation split
    }


def fingerprint(data: TrainingData, hyperparameters: Hyperparameters) -> str:
    """What decides the training's result, as a hash: a checkpoint of anything else is of no use."""
    decisive = [
        hyperparameters.to_dict(),
        data.manifest["dataset_sha256"],
        data.manifest["backbone"],
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
