"""One trial of the search: trains the head on PrepareData's embeddings and reports its metrics, within seconds.

Where the search covers fine-tuning, that follows.

The final training (train.py) repeats the best trial to the last digit, under the debugger's eyes. What it needs beyond
a trial is not imported here: a trial lasts about two seconds, and a change to a rule does not repeat the search.
"""

import argparse
import sys
from dataclasses import asdict

import torch

from classifier.data.training_data import TrainingData
from classifier.finetuning.choices import settled
from classifier.job.failures import TRAINING_FAILURE, run
from classifier.training import hyperparameters as hp
from classifier.training.head_training import HeadTraining
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import channel, head_training, model_dir_of, opened_data, parse_arguments, write_json
from classifier.training.loop import TrainingResult, train
from classifier.training.processes import ALONE


def main() -> None:
    arguments = parse_arguments(__doc__)
    asked = hp.parse(arguments)
    data = opened_data(arguments)
    hyperparameters = settled(asked, data.manifest)
    stage = head_training(data, hyperparameters)
    result = train(stage, patience=hyperparameters.patience)
    if hyperparameters.fine_tunes:
        result = with_images(result, stage, arguments, data, hyperparameters)
    model_dir = model_dir_of(arguments)
    kept = result.kept
    torch.save(kept.parts["head"], model_dir / "head.pt")
    write_json(model_dir / "metrics.json", {"hyperparameters": hyperparameters.to_dict(), **asdict(kept.figures)})


def with_images(
    result: TrainingResult,
    stage: HeadTraining,
    arguments: argparse.Namespace,
    data: TrainingData,
    hyperparameters: Hyperparameters,
) -> TrainingResult:
    """What fine-tuning makes of the head. Imported only where the search covers it."""
    from classifier.finetuning.second_stage import fine_tuned, open_images
    from classifier.model.backbone import matching_backbone

    return fine_tuned(
        result,
        backbone=matching_backbone(channel(arguments, "weights"), data.manifest),
        head=stage.head,
        criterion=stage.criterion,
        images=open_images(arguments, data),
        hyperparameters=hyperparameters,
        processes=ALONE,
    )


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
