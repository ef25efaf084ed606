"""One trial of the search: trains the head on PrepareData's embeddings and reports its metrics, within seconds.

The final training (train.py) repeats the best trial to the last digit, under the debugger's eyes. What it needs beyond
a trial is not imported here: a trial lasts about two seconds, and a change to a rule does not repeat the search.
"""

import sys
from dataclasses import asdict

import torch

import hyperparameters as hp
from failures import TRAINING_FAILURE, run
from training_job import head_training, model_dir_of, opened_data, parse_arguments, write_json
from training_loop import train


def main() -> None:
    arguments = parse_arguments(__doc__)
    hyperparameters = hp.parse(arguments)
    data = opened_data(arguments)
    result = train(head_training(data, hyperparameters))
    model_dir = model_dir_of(arguments)
    torch.save(result.state["head"], model_dir / "head.pt")
    write_json(model_dir / "metrics.json", {"hyperparameters": hyperparameters.to_dict(), **asdict(result.best)})


if __name__ == "__main__":
    sys.exit(run(main, TRAINING_FAILURE))
