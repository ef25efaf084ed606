"""What the training images look like to the network: the baseline that later requests are compared with.

Each image becomes a few coordinates. Its features, compressed and standardised, are projected on the principal
components of the training images; and what the components leave of it is one more coordinate, the logarithm of its
length. The first say how images vary that are like those of the training. The last is large for an image that is not,
whichever way it differs (the Q statistic: Jackson and Mudholkar, Technometrics 21(3), 1979).

Some training images give the components. Others, and the validation images, give the reference: coordinates of images
that the components have not seen, as they have not seen those of a request.
"""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError

BASELINE_FILE = "drift_baseline.npz"
COMPONENTS = 16
FITTED_ROWS = 1024  # training images that give the components
REFERENCE_ROWS = 4096
FITTED_SHARE = 3  # of so many training images one gives components
ROWS_PER_COMPONENT = 4  # with fewer, a component describes single images
SMALLEST_STD = 1e-3

Features = npt.NDArray[np.float32]  # (N, D)
Coordinates = npt.NDArray[np.float32]  # (N, K + 1)
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DriftBaseline:
    """How an image's features become coordinates, and the reference images' coordinates."""

    mean: npt.NDArray[np.float32]  # (D,) of the compressed features of training images
    std: npt.NDArray[np.float32]  # (D,)
    components: npt.NDArray[np.float32]  # (K, D), orthonormal
    centre: npt.NDArray[np.float32]  # (K + 1,) of the reference's coordinates before they are standardised
    scale: npt.NDArray[np.float32]  # (K + 1,)
    reference: Coordinates  # (R, K + 1): each coordinate with mean 0 and deviation 1

    def coordinates(self, features: Features) -> Coordinates:
        """(N, D) of the network -> (N, K + 1), in standard deviations of the reference."""
        raw = project(features, self.mean, self.std, self.components)
        return ((raw - self.centre) / self.scale).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write drift_baseline.npz; the same baseline gives the same bytes."""
        np.savez_compressed(folder / BASELINE_FILE, **vars(self))

    @classmethod
    def load(cls, folder: Path) -> "DriftBaseline":
        """Read drift_baseline.npz; nothing is unpickled."""
        path = folder / BASELINE_FILE
        try:
            with np.load(path) as stored:
                return cls(**{field.name: stored[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise StepError(
                f"The model holds no {BASELINE_FILE}, which the final training writes. Train the model again."
            ) from None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StepError(f"{path} cannot be read ({error}). Train the model again.") from None


def make_baseline(training: Any, validation: Any) -> DriftBaseline:
    """The baseline of embeddings (N, views, D), arrays or what reads rows as one, of which the plain views count."""
    rows = np.arange(len(training))
    fitted, rest = rows[::FITTED_SHARE], rows[rows % FITTED_SHARE > 0]
    kept = REFERENCE_ROWS * len(rest) // (len(rest) + len(validation))
    chosen = (
        training[spread(fitted, FITTED_ROWS), 0],
        training[spread(rest, kept), 0],
        validation[spread(np.arange(len(validation)), REFERENCE_ROWS - kept), 0],
    )
    first, *held_out = (features.astype(np.float32) for features in chosen)
    return fit(first, np.concatenate(held_out))


def fit(fitted: Features, held_out: Features) -> DriftBaseline:
    """The baseline with components from some images' features and the reference from others'."""
    known = compressed(fitted)
    mean, std = known.mean(axis=0), np.maximum(known.std(axis=0), SMALLEST_STD)
    components = principal_components((known - mean) / std, max(1, min(COMPONENTS, len(fitted) // ROWS_PER_COMPONENT)))
    raw = project(held_out, mean, std, components)
    centre, scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), SMALLEST_STD)
    found = (mean, std, components, centre, scale, (raw - centre) / scale)
    return DriftBaseline(*(array.astype(np.float32) for array in found))


def spread(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """At most `count` rows, evenly: as the images are listed by class, each class keeps its share."""
    return rows if len(rows) <= count else rows[np.arange(count) * len(rows) // count]


def compressed(features: npt.NDArray[Any]) -> Array:
    """Signed square roots: the features of a pooled network are skewed, as the head knows too."""
    return np.asarray(np.sign(features).astype(np.float64) * np.sqrt(np.abs(features).astype(np.float64)))


def project(features: Features, mean: npt.NDArray[Any], std: npt.NDArray[Any], components: npt.NDArray[Any]) -> Array:
    """(N, D) -> (N, K + 1): the components' scores, and the logarithm of the length of what they leave."""
    standardised = (compressed(features) - mean) / std
    scores = standardised @ components.T.astype(np.float64)
    left = np.maximum(np.square(standardised).sum(axis=1) - np.square(scores).sum(axis=1), 0)
    return np.column_stack([scores, 0.5 * np.log(left + SMALLEST_STD)])


def principal_components(centred: Array, count: int) -> Array:
    """(N, D) -> (count, D), randomised with one seed: a whole decomposition of 1,000 images takes seconds."""
    import torch  # not needed to read a baseline

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        columns = min(count + 8, *centred.shape)  # a few more than are kept make these exact
        _, _, directions = torch.pca_lowrank(torch.from_numpy(centred), columns, center=False, niter=4)
    return np.asarray(directions.T[:count])
