"""The plainest uses of a pretrained network: scikit-learn's classifiers on the embeddings of the centre crops.

Each is fitted on the training split, its settings chosen by five-fold cross-validation there.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

from classifier.data.training_data import open_embeddings

FOLDS = 5
MAX_ITERATIONS = 300
MODELS: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "logistic regression": (LogisticRegression(max_iter=MAX_ITERATIONS), {"C": [0.0001, 0.001, 0.01, 0.1]}),
    "SVC (RBF)": (SVC(), {"C": [1, 10], "gamma": [0.1, 0.3, 1.0]}),  # gamma: times 1 / features
    "nearest neighbours": (KNeighborsClassifier(weights="distance"), {"n_neighbors": [1, 3, 5, 9, 15]}),
}

Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]  # (N, D) and (N,)


def plain_accuracies(embeddings: Path) -> dict[str, float]:
    """Return each model's accuracy on the test split of the embeddings that PrepareData wrote to this folder."""
    (features, labels), (test_features, test_labels) = (examples(embeddings, split) for split in ("train", "test"))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class")
        for name, (model, settings) in MODELS.items():
            grid = {f"{type(model).__name__.lower()}__{key}": values for key, values in settings.items()}
            if isinstance(model, SVC):
                grid["svc__gamma"] = [gamma / features.shape[1] for gamma in settings["gamma"]]
            search = GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=folds)
            found[name] = float(search.fit(features, labels).score(test_features, test_labels))
    return found


def examples(embeddings: Path, split: str) -> Examples:
    """Return a split's plain views and labels."""
    plain = open_embeddings(embeddings, split)[:, 0]
    return plain.astype(np.float32), np.load(embeddings / f"{split}_labels.npy")
