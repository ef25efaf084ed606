"""Logistic regression on embeddings of the centre crops: the plainest use of a pretrained network."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

from classifier.data.training_data import open_embeddings

INVERSE_PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C
MAX_ITERATIONS = 1000

Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]  # (N, D) and (N,)


class Regression(NamedTuple):
    """What it reaches, and the C that was best on validation."""

    validation_accuracy: float
    test_accuracy: float
    inverse_penalty: float


def regression(embeddings: Path) -> Regression:
    """Of the embeddings that PrepareData wrote to this folder."""
    examples = {split: _examples(embeddings, split) for split in ("train", "validation", "test")}
    found = [_fitted(examples, penalty) for penalty in INVERSE_PENALTIES]
    return max(found, key=lambda one: one.validation_accuracy)


def _fitted(examples: dict[str, Examples], penalty: float) -> Regression:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS))
    model.fit(*examples["train"])
    return Regression(float(model.score(*examples["validation"])), float(model.score(*examples["test"])), penalty)


def _examples(embeddings: Path, split: str) -> Examples:
    plain = open_embeddings(embeddings, split)[:, 0]
    return plain.astype(np.float32), np.load(embeddings / f"{split}_labels.npy")
