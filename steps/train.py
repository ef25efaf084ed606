"""Training: one script for every tuning trial and for the final training.

A trial trains the head on PrepareData's embeddings and reports its metrics, within seconds. The final training
(`--final true`) does the same with the winner's hyperparameters, saves tensors for the debugger, and exports the whole
network.

Hyperparameters come as arguments; channels and output directories come from the environment that SageMaker sets (AWS
guide, "your-algorithms-training-algo-running-container"), and each channel can be given as an argument too.
"""

import argparse
import json
import os
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import hyperparameters as hp
from debugger import Debugger, save_intervals
from failures import TRAINING_FAILURE, ArgumentParser, StepError, run, say
from head import ClassifierHead
from hyperparameters import Hyperparameters
from training_data import TrainingData, load
from training_loop import EVALUATION_ROWS, TrainingResult, steps_per_epoch, train

CHANNELS = ("embeddings", "manifest", "weights")
LAUNCHER_ARGUMENTS = ("--sagemaker_", "--_tuning_objective_metric")  # launchers add them; they are not for this script


def main() -> None:
    arguments = parse_arguments()
    hyperparameters = hp.parse(arguments)
    # One thread unless told otherwise: a head is so small that trials side by side only hinder each other with more.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))
    data = load(channel(arguments, "embeddings"), channel(arguments, "manifest"))
    say(
        f"Training on {len(data.train)} images of {len(data.classes)} classes, "
        f"{data.train.embeddings.shape[1]} views each; validating on {len(data.validation)}"
    )
    model_dir = Path(arguments.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    if hyperparameters.final:
        final_training(data, hyperparameters, channel(arguments, "weights"), model_dir, Path(arguments.output_data_dir))
    else:
        trial(data, hyperparameters, model_dir)


def trial(data: TrainingData, hyperparameters: Hyperparameters, model_dir: Path) -> None:
    """Train, and keep the head and its metrics."""
    head, criterion = new_head(data, hyperparameters)
    result = train(head, criterion, data, hyperparameters)
    torch.save(result.state, model_dir / "head.pt")
    write_json(model_dir / "metrics.json", {"hyperparameters": hyperparameters.to_dict(), **asdict(result.best)})


def final_training(
    data: TrainingData, hyperparameters: Hyperparameters, weights_dir: Path, model_dir: Path, output_data_dir: Path
) -> None:
    """Train under the debugger's eyes, then export the network that the endpoint serves."""
    from export import copy_code, export_network, matching_backbone  # with its imports as slow as a whole trial

    backbone = matching_backbone(weights_dir, data.manifest)
    head, criterion = new_head(data, hyperparameters)
    result = debugged_training(head, criterion, data, hyperparameters, output_data_dir / "tensors")

    trained_head = untrained_head(data, hyperparameters)  # without the debugger's hooks
    trained_head.load_state_dict(result.state)
    torch.save(result.state, model_dir / "head.pt")
    export_network(backbone, trained_head, data.manifest["preprocess"]["image_size"], model_dir)
    write_json(model_dir / "model.json", description(data, hyperparameters, result))
    copy_code(model_dir / "code")
    say(
        f"Kept epoch {result.best.epoch} with validation accuracy {result.best.validation_accuracy:.4f}; "
        f"the whole network is in {model_dir / 'model.pt'}"
    )


def new_head(data: TrainingData, hyperparameters: Hyperparameters) -> tuple[ClassifierHead, torch.nn.Module]:
    """An untrained head that knows the features' scale, and its loss.

    The seed is set here, so that a final training repeats its trial to the last digit.
    """
    torch.manual_seed(hyperparameters.seed)
    head = untrained_head(data, hyperparameters)
    head.standardise(data.train.embeddings)
    return head, torch.nn.CrossEntropyLoss(label_smoothing=hyperparameters.label_smoothing)


def untrained_head(data: TrainingData, hyperparameters: Hyperparameters) -> ClassifierHead:
    return ClassifierHead(
        data.feature_dim,
        len(data.classes),
        hidden_units=hyperparameters.hidden_units,
        dropout=hyperparameters.dropout,
    )


def debugged_training(
    head: ClassifierHead,
    criterion: torch.nn.Module,
    data: TrainingData,
    hyperparameters: Hyperparameters,
    tensors_dir: Path,
) -> TrainingResult:
    """Train with smdebug's hook on head and loss."""
    epochs, validation_images = hyperparameters.epochs, len(data.validation)
    intervals = save_intervals(
        head,
        hyperparameters.debug_save_interval_steps,
        steps={
            "TRAIN": epochs * steps_per_epoch(len(data.train), hyperparameters.batch_size),
            "EVAL": epochs * steps_per_epoch(validation_images, EVALUATION_ROWS),
        },
        rows={"TRAIN": hyperparameters.batch_size, "EVAL": min(validation_images, EVALUATION_ROWS)},
        epochs=epochs,
    )
    with closing(Debugger(tensors_dir, intervals)) as debugger:
        debugger.watch(head, criterion)
        return train(head, criterion, data, hyperparameters, set_mode=debugger.set_mode)


def description(data: TrainingData, hyperparameters: Hyperparameters, result: TrainingResult) -> dict[str, Any]:
    """model.json: what evaluation, the endpoint and a reader need to know about model.pt."""
    return {
        "schema_version": 1,
        "classes": data.classes,
        "preprocess": data.manifest["preprocess"],
        "backbone": data.manifest["backbone"]["name"],
        "hyperparameters": hyperparameters.to_dict(),
        "validation": asdict(result.best),
    }


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def channel(arguments: argparse.Namespace, name: str) -> Path:
    """The directory of an input channel, which must exist."""
    directory = getattr(arguments, name)
    if not directory:
        raise StepError(
            f"train.py needs the channel {name}, but neither SM_CHANNEL_{name.upper()} nor --{name} is set. "
            f"Add it to the training job's input channels."
        )
    if not Path(directory).is_dir():
        raise StepError(f"The channel {name} is {directory}, which is no directory. Check the job's input channels.")
    return Path(directory)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    hp.add_arguments(parser)
    for name in CHANNELS:
        parser.add_argument(f"--{name}", default=os.environ.get(f"SM_CHANNEL_{name.upper()}"), metavar="DIR")
    parser.add_argument("--model-dir", default=os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
    parser.add_argument("--output-data-dir", default=os.environ.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data"))
    arguments, unknown = parser.parse_known_args()
    unknown = [option for option in unknown if option.startswith("--") and not option.startswith(LAUNCHER_ARGUMENTS)]
    if unknown:
        say(f"Ignored arguments: {' '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
