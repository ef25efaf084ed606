"""The baseline and the distance: false alarms and power on populations that are known, and what does not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from classifier.data.training_data import StoredArray
from classifier.drift.baseline import DriftBaseline, fit, make_baseline, principal_components
from classifier.drift.distance import SMALL, compare, frechet, most_images, strangeness, unusual_from
from classifier.job.failures import StepError

FEATURES = 60
MIXING = np.random.default_rng(0).normal(size=(12, FEATURES)) * np.linspace(3, 0.3, 12)[:, None]


def features(count: int, seed: int, *, classes: int = 5, noise: float = 1.0) -> npt.NDArray[np.float32]:
    """Features of a pooled network, (count, 60): never negative, skewed, heavy-tailed, in clusters, correlated."""
    generator = np.random.default_rng(seed)
    factors = generator.standard_t(4, size=(count, 12))
    factors[:, :5] += 2 * np.eye(5)[generator.integers(0, classes, count)]
    return np.maximum(factors @ MIXING + noise * generator.normal(size=(count, FEATURES)), 0).astype(np.float32)


def embeddings(count: int, seed: int) -> npt.NDArray[np.float16]:
    """The same with two views; the second view is of something else."""
    return np.stack([features(count, seed), np.zeros((count, FEATURES))], axis=1).astype(np.float16)


def in_parts(folder: Path, name: str, rows: npt.NDArray[np.float16], parts: int) -> StoredArray:
    """The same in so many files."""
    files = [folder / f"{name}-{number:05}.npy" for number in range(parts)]
    for file, part in zip(files, np.array_split(rows, parts), strict=True):
        np.save(file, part)
    return StoredArray(files)


@pytest.mark.parametrize("images", [30, 100])
def test_images_of_the_same_kind_raise_an_alarm_in_one_of_a_hundred_checks(images):
    alarms = 0
    for seed in range(10):  # trainings
        baseline = make_baseline(embeddings(300, 100 + seed), embeddings(60, 200 + seed))
        for check in range(6):
            captured = baseline.coordinates(features(images, 1000 + 10 * seed + check))
            alarms += compare(captured, baseline.reference).alarm
    assert alarms <= 3  # of 60; of 1 in 100, more than 3 would be seen in 0.3 % of such experiments


@pytest.mark.parametrize(
    "changed",
    [
        features(40, 7, classes=1),  # one class instead of five
        features(40, 7) * 0.5,  # paler
        features(40, 7, noise=4),  # unlike the training's in ways that no component knows
        features(40, 7)[:, np.random.default_rng(3).permutation(FEATURES)],  # something else altogether
    ],
    ids=["one class", "paler", "noise", "other"],
)
def test_forty_images_of_another_kind_raise_the_alarm(changed):
    baseline = make_baseline(embeddings(300, 1), embeddings(60, 2))
    drift = compare(baseline.coordinates(changed), baseline.reference)
    assert drift.score > 1.5
    assert drift.p_value == pytest.approx(1 / 1001)


def test_a_small_difference_is_no_drift_even_where_many_images_prove_it():
    reference = np.random.default_rng(0).normal(size=(4000, 5)).astype(np.float32)
    captured = np.random.default_rng(1).normal(size=(2000, 5)).astype(np.float32)
    slight, clear = compare(captured + 0.15, reference), compare(captured + 0.25, reference)
    assert (slight.threshold, slight.p_value < 0.01, slight.alarm) == (SMALL, True, False)
    assert clear.alarm


def test_the_distance_is_frechets_for_normal_distributions_without_correlations():
    usual = np.array([[-1.0, -1.0], [1.0, 1.0]])  # means 0, deviations 1
    assert frechet(usual, usual) == 0
    other = usual * [1, 3] + [3, 0]
    assert frechet(other, usual) == pytest.approx((3**2 + 2**2) / 2)
    assert frechet(2 * other, 2 * usual) == pytest.approx((3**2 + 2**2) / 2)


def test_the_residual_notices_what_no_component_knows():
    """Training images vary in one direction only; a captured one that leaves it is strange."""
    line = np.random.default_rng(0).uniform(1, 2, (400, 1)) * np.linspace(1, 3, 20)
    line += np.random.default_rng(1).normal(size=line.shape) * 0.01
    baseline = fit(line[:200].astype(np.float32), line[200:].astype(np.float32))
    beside = line[:1].copy()
    beside[0, 0] += 0.5
    usual, strange = (strangeness(baseline.coordinates(rows.astype(np.float32))) for rows in (line[:1], beside))
    assert usual[0] < unusual_from(baseline.reference) < strange[0]


def test_the_baseline_does_not_depend_on_how_many_parts_the_embeddings_come_in(tmp_path):
    for name, parts in (("one", 1), ("many", 7)):
        folder = tmp_path / name
        folder.mkdir()
        training = in_parts(folder, "training", embeddings(300, 1), parts)
        make_baseline(training, in_parts(folder, "validation", embeddings(60, 2), parts)).save(folder)
    first, second = ((tmp_path / name / "drift_baseline.npz").read_bytes() for name in ("one", "many"))
    assert first == second
    baseline = DriftBaseline.load(tmp_path / "one")
    assert baseline.reference.shape == (260, 17)  # two thirds of the training images, and the validation images
    assert baseline.reference.mean(axis=0) == pytest.approx(np.zeros(17), abs=1e-4)
    assert np.allclose(baseline.components @ baseline.components.T, np.eye(16), atol=1e-5)


def test_the_baseline_does_not_grow_with_the_data_set():
    """Two million images: what is read of them is a few thousand rows."""

    class Rows:
        read = 0

        def __len__(self) -> int:
            return 2_000_000

        def __getitem__(self, key: Any) -> npt.NDArray[np.float16]:
            self.read += len(key[0])
            return features(len(key[0]), 1).astype(np.float16)

    rows = Rows()
    baseline = make_baseline(rows, embeddings(500, 2))
    assert (rows.read, len(baseline.reference)) == (1024 + 4094, 4096)


def test_small_data_sets_have_fewer_components():
    baseline = make_baseline(embeddings(45, 1), embeddings(10, 2))
    assert baseline.components.shape == (3, FEATURES)
    assert (len(baseline.reference), most_images(baseline.reference)) == (40, 20)


def test_principal_components_are_those_of_a_whole_decomposition():
    rows = features(200, 5)
    centred = (rows - rows.mean(axis=0)).astype(np.float64)
    _, _, whole = np.linalg.svd(centred, full_matrices=False)
    found = principal_components(centred, 5)
    assert np.abs((found * whole[:5]).sum(axis=1)) == pytest.approx(np.ones(5), abs=1e-3)


def test_a_model_without_a_readable_baseline_is_a_sentence(tmp_path):
    with pytest.raises(StepError, match=r"^The model holds no drift_baseline\.npz, .* Train the model again\.$"):
        DriftBaseline.load(tmp_path)
    (tmp_path / "drift_baseline.npz").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(StepError, match=r"drift_baseline\.npz cannot be read \(.*\)\. Train the model again\.$"):
        DriftBaseline.load(tmp_path)
