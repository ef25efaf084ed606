"""One trial of the search: trains the head on PrepareData's embeddings and reports its metrics, within seconds.

Where the search covers fine-tuning, that follows. The final training (train.py) repeats the best trial to the last
digit. What it needs beyond a trial is not imported here: a change to a rule does not repeat the search.
"""

import sys
from dataclasses import asdict

import torch

from classifier.job.failures import TRAINING_FAILURE, run
from classifier.job.system import write_json
from classifier.training import hyperparameters as hp
from classifier.training.head_training import HeadTraining
from classifier.training.job import channel, open_data, parse_arguments
from classifier.training.loop import train


def main() -> None:
    arguments = parse_arguments(__doc__)
    asked = hp.parse(arguments)
    data = open_data(arguments)
    hyperparameters = hp.settled(asked, data.manifest)
    stage = HeadTraining(data, hyperparameters)
    result = train(stage, patience=hyperparameters.patience)
    if hyperparameters.fine_tunes:
        from classifier.finetuning.fine_tuning import FineTuning  # with timm, which takes two seconds
        from classifier.finetuning.images import open_images
        from classifier.model.backbone import matching_backbone

        backbone = matching_backbone(channel(arguments, "weights"), data.manifest)
        stage.head.load_state_dict(result.kept.parts["head"])
        result = train(FineTuning(stage, backbone, open_images(arguments, data)), earlier=result)
    arguments.model_dir.mkdir(parents=True, exist_ok=True)
    torch.save(result.kept.parts["head"], arguments.model_dir / "head.pt")
    metrics = {"hyperparameters": hyperparameters.to_dict(), **asdict(result.kept.figures)}
    write_json(arguments.model_dir / "metrics.json", metrics)


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
