"""Which labels look wrong: what a model says of images that it has not learned from, judged by cleanlab.

The model is a logistic regression on the embeddings of plain views. Each image is judged by one that learned from the
other folds; images of one group (near-duplicates, a patient) share a fold, or one would vouch for the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.dataset import find_overlapping_classes
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifier.job.failures import StepError

FOLDS = 5
INVERSE_PENALTY = 0.003  # scikit-learn's C; a weaker penalty learns wrong labels
MOST_ITERATIONS = 200
LEARNED_IMAGES = 20_000  # at most, by a fold's model, and as neighbours of all: memory and time stay bounded
BLOCK = 4096  # images in float32 at a time
NEIGHBOURS = 10
OVERLAP_COLUMNS = ("Class Name A", "Class Name B", "Num Overlapping Examples")

Features = npt.NDArray[np.float16]  # (N, D)
Labels = npt.NDArray[np.int64]  # (N,) index into the classes
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Suspicion:
    """What is said of each image, (N,)."""

    quality: npt.NDArray[np.float64]  # of the label, 0..1: the probability of the given class
    suggested: Labels  # the likeliest class
    probability: npt.NDArray[np.float64]  # of the suggested class
    wrong: npt.NDArray[np.bool_]  # the label is among the least probable, of so many that are estimated to be wrong
    judged: npt.NDArray[np.bool_]  # False where no other fold had an image of the class
    overlaps: list[tuple[str, str, int]]  # two classes and how many images are estimated to bear the other's label

    @property
    def order(self) -> Rows:
        """The rows, the most suspicious first."""
        return np.argsort(self.quality, kind="stable")


def suspect(features: Features, labels: Labels, groups: Labels, classes: Sequence[str]) -> Suspicion:
    """Judge every label."""
    probabilities, judged = out_of_fold(features, labels, groups, len(classes))
    quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
    wrong = find_label_issues(labels, probabilities, filter_by="low_self_confidence")
    pairs = find_overlapping_classes(labels, probabilities, class_names=classes)
    pairs = pairs[pairs["Num Overlapping Examples"] > 0]
    return Suspicion(
        quality=quality,
        suggested=probabilities.argmax(axis=1),
        probability=probabilities.max(axis=1),
        wrong=wrong & judged,
        judged=judged,
        overlaps=list(zip(*(pairs[name].tolist() for name in OVERLAP_COLUMNS), strict=True)),
    )


def out_of_fold(
    features: Features, labels: Labels, groups: Labels, class_count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return each image's probabilities (N, C) by a model that has not seen it, and whether that knew its class."""
    probabilities, judged = np.zeros((len(labels), class_count)), np.zeros(len(labels), np.bool_)
    for seen, unseen in folds(labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=MOST_ITERATIONS))
        some = sample(seen, labels)
        known = np.unique(labels[some])
        judged[unseen] = np.isin(labels[unseen], known)
        if len(known) > 1:
            model.fit(features[some].astype(np.float32), labels[some])
            for rows in blocks(unseen):
                probabilities[np.ix_(rows, known)] = model.predict_proba(features[rows].astype(np.float32))
    probabilities[~judged] = np.eye(class_count)[labels[~judged]]  # nothing speaks against the label
    return probabilities, judged


def folds(labels: Labels, groups: Labels) -> Iterator[tuple[Rows, Rows]]:
    """Yield the rows to learn from and those to judge; groups are spread by the class of their first image."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    count = min(FOLDS, int(np.bincount(labels[first]).max()))
    if count < 2:
        raise StepError(f"The {len(labels)} images cannot be judged: no class has images of more than one group.")
    for seen, unseen in StratifiedKFold(count, shuffle=True, random_state=0).split(first, labels[first]):
        yield np.flatnonzero(np.isin(group, seen)), np.flatnonzero(np.isin(group, unseen))


def sample(rows: Rows, labels: Labels) -> Rows:
    """Return some of the rows, as many as are learned from, of rare classes all."""
    shuffled = np.random.default_rng(0).permutation(rows)
    turns = pd.Series(shuffled).groupby(labels[shuffled]).cumcount().to_numpy()
    return np.sort(shuffled[np.argsort(turns, kind="stable")[:LEARNED_IMAGES]])


def strangeness(features: Features, labels: Labels) -> npt.NDArray[np.float64]:
    """Return (N,): the mean cosine distance to an image's nearest other ones, in medians of all."""
    rows = np.arange(len(labels))
    usual = sample(rows, labels)
    count = min(NEIGHBOURS, len(usual) - 1)
    search = NearestNeighbors(n_neighbors=count + 1, metric="cosine").fit(features[usual].astype(np.float32))
    found = np.concatenate([search.kneighbors(features[some].astype(np.float32))[0] for some in blocks(rows)])
    is_own = np.isin(rows, usual)  # the nearest is then the image itself
    distances = np.where(is_own, found[:, 1:].mean(axis=1), found[:, :-1].mean(axis=1))
    return np.asarray(distances / max(float(np.median(distances)), 1e-6), np.float64)


def blocks(rows: Rows) -> Iterator[Rows]:
    """Yield so many rows at a time as fit into memory."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
