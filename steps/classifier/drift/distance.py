"""How far captured images are from the training's, as one score: above 1 there is drift.

The distance is that of Fréchet between two normal distributions without correlations (Dowson and Landau, Journal of
Multivariate Analysis 12(3), 1982), |m1 - m2|^2 + |s1 - s2|^2, of the means and deviations of the coordinates (see
drift_baseline), divided by their number. Fréchet Inception Distance (Heusel et al., NeurIPS 2017) is the same of whole
covariances, which needs many more images than coordinates. The reference's coordinates have deviation 1, so the
distance is an average squared shift, in standard deviations.

Images of the same kind have some distance too, the more the fewer they are. How much is found by trying: captured and
reference images are thrown together, as many as were captured are drawn at random and compared with the rest, again and
again (a permutation test: Good, Permutation Tests, 2000). 99 of 100 draws stay below the quantile that makes the
threshold. Where captured images differ in nothing, theirs is one such draw: a false alarm in at most 1 of 100 checks.
With many images the smallest difference would be beyond chance, so the threshold is never below SMALL, a shift of a
fifth of a deviation in every coordinate: what Cohen (Statistical Power Analysis, 1988) calls a small effect.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classifier.drift.baseline import Array, Coordinates

FALSE_ALARM_RATE = 0.01
SMALL = 0.2**2
DRAWS = 1000
DRAWS_AT_ONCE = 100  # with as many images as there can be, some megabytes
SMALLEST_VARIANCE = 1e-6
LEAST_IMAGES = 30  # of fewer, deviations say little
UNUSUAL = 0.99  # of the reference's images so many are nearer to its centre than an unusual one


@dataclass(frozen=True)
class Drift:
    """The score and what it is made of."""

    distance: float
    threshold: float
    draws: Array  # (DRAWS,), sorted: distances by chance of as many images
    shifts: Array  # (K + 1,): mean of each coordinate of the captured images, less that of the reference
    spreads: Array  # (K + 1,): deviation of each, divided by that of the reference

    @property
    def score(self) -> float:
        """Above 1: drift."""
        return self.distance / self.threshold

    @property
    def alarm(self) -> bool:
        """Whether there is drift."""
        return self.score > 1

    @property
    def by_chance(self) -> float:
        """99 of 100 draws stay below."""
        return quantile(self.draws)

    @property
    def p_value(self) -> float:
        """How likely chance alone gives such a distance (Phipson and Smyth, 2010: never 0)."""
        return float((1 + (self.draws >= self.distance).sum()) / (1 + len(self.draws)))


def most_images(reference: Coordinates) -> int:
    """How many captured images can be compared: a draw must leave as many of the reference as it takes."""
    return len(reference) // 2


def compare(captured: Coordinates, reference: Coordinates) -> Drift:
    """The drift of captured images (N, K + 1), LEAST_IMAGES to most_images of them."""
    here, there = captured.astype(np.float64), reference.astype(np.float64)
    mean, std = moments(there)
    draws = np.sort(distances_by_chance(here, there))
    return Drift(
        distance=float(frechet(moments(here), (mean, std))),
        threshold=max(quantile(draws), SMALL),
        draws=draws,
        shifts=(here.mean(axis=0) - mean) / std,
        spreads=here.std(axis=0) / std,
    )


def quantile(draws: Array) -> float:
    """What all but the share FALSE_ALARM_RATE of the draws stay below."""
    return float(np.quantile(draws, 1 - FALSE_ALARM_RATE, method="higher"))


def moments(rows: Array) -> tuple[Array, Array]:
    """Mean and deviation of each coordinate."""
    return rows.mean(axis=0), rows.std(axis=0)


def frechet(found: tuple[Array, Array], usual: tuple[Array, Array]) -> Array:
    """(...): the squared differences of means and deviations, in the usual deviations, averaged over the K coordinates.

    Args:
        found: Means and deviations, (..., K) each.
        usual: The same, of what it is compared with.
    """
    (mean, std), (usual_mean, usual_std) = found, usual
    distance: Array = (np.square((mean - usual_mean) / usual_std) + np.square(std / usual_std - 1)).mean(axis=-1)
    return distance


def distances_by_chance(captured: Array, reference: Array) -> Array:
    """(DRAWS,): random parts of all images, as many as were captured, against the rest; always the same draws."""
    generator, pool, count = np.random.default_rng(0), np.concatenate([captured, reference]), len(captured)
    squared = np.square(pool)
    total, total_squared = pool.sum(axis=0), squared.sum(axis=0)
    found = []
    for first in range(0, DRAWS, DRAWS_AT_ONCE):
        drawn = np.zeros((min(DRAWS_AT_ONCE, DRAWS - first), len(pool)))  # 1 for each image of a draw
        for row in drawn:
            row[generator.choice(len(pool), count, replace=False, shuffle=False)] = 1
        sums, sums_squared = drawn @ pool, drawn @ squared
        rest = moments_of_sums(total - sums, total_squared - sums_squared, len(reference))
        found.append(frechet(moments_of_sums(sums, sums_squared, count), rest))
    return np.concatenate(found)


def moments_of_sums(sums: Array, sums_squared: Array, count: int) -> tuple[Array, Array]:
    """Mean and deviation of each coordinate, from the sums of so many values and of their squares."""
    mean = sums / count
    return mean, np.sqrt(np.maximum(sums_squared / count - np.square(mean), SMALLEST_VARIANCE))


def strangeness(coordinates: Coordinates) -> npt.NDArray[np.float64]:
    """(N,): how far each image is from the reference's centre, as a root mean square over the coordinates."""
    found: Array = np.sqrt(np.square(coordinates.astype(np.float64)).mean(axis=1))
    return found


def unusual(captured: Coordinates, reference: Coordinates) -> tuple[npt.NDArray[np.float64], float]:
    """The captured images' strangeness (N,), and the bound that 99 of 100 reference images stay below."""
    return strangeness(captured), float(np.quantile(strangeness(reference), UNUSUAL))
