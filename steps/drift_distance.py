"""How far captured images are from the training's, as one score: above 1 there is drift.

The distance is that of Fréchet between two normal distributions without correlations (Dowson and Landau, Journal of
Multivariate Analysis 12(3), 1982), |m1 - m2|^2 + |s1 - s2|^2, of the means and deviations of the coordinates (see
drift_baseline), divided by their number. Fréchet Inception Distance (Heusel et al., NeurIPS 2017) is the same of whole
covariances, which needs many more images than coordinates. The reference's coordinates have deviation 1, so the
distance is an average squared shift, in standard deviations.

Images of the same kind have some distance too, the more the fewer they are. How much is found by trying: as many images
as were captured are drawn at random from the reference, again and again, and compared with the rest of it (a
permutation test: Good, Permutation Tests, 2000). 99 of 100 such draws stay below the quantile that makes the threshold,
hence a false alarm in at most 1 of 100 checks of images that differ in nothing. With many images the smallest
difference would be beyond chance, so the threshold is never below SMALL, a shift of a fifth of a deviation in every
coordinate: what Cohen (Statistical Power Analysis, 1988) calls a small effect.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drift_baseline import Array, Coordinates

FALSE_ALARM_RATE = 0.01
SMALL = 0.2**2
DRAWS = 1000
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
    found = frechet(moments(here), moments(there))
    draws = np.sort(distances_by_chance(there, len(here)))
    shifts, spreads = here.mean(axis=0) - there.mean(axis=0), here.std(axis=0) / there.std(axis=0)
    return Drift(float(found), max(quantile(draws), SMALL), draws, shifts, spreads)


def quantile(draws: Array) -> float:
    """What all but the share FALSE_ALARM_RATE of the draws stay below."""
    return float(np.quantile(draws, 1 - FALSE_ALARM_RATE, method="higher"))


def moments(rows: Array) -> tuple[Array, Array]:
    """Mean and deviation of each coordinate."""
    return rows.mean(axis=0), rows.std(axis=0)


def frechet(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """The average over the coordinates of the squared differences of their means and deviations."""
    return float((np.square(first[0] - second[0]) + np.square(first[1] - second[1])).mean())


def distances_by_chance(reference: Array, count: int) -> Array:
    """(DRAWS,): random parts of the reference, of so many images, against what is left of it; always the same draws."""
    generator = np.random.default_rng(0)
    total, squares = reference.sum(axis=0), np.square(reference).sum(axis=0)
    left = len(reference) - count
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        part = reference[generator.choice(len(reference), count, replace=False, shuffle=False)]
        rest_mean = (total - part.sum(axis=0)) / left
        rest_squares = (squares - np.square(part).sum(axis=0)) / left
        rest = rest_mean, np.sqrt(np.maximum(rest_squares - np.square(rest_mean), 0))
        found[draw] = frechet(moments(part), rest)
    return found


def strangeness(coordinates: Coordinates) -> npt.NDArray[np.float64]:
    """(N,): how far each image is from the reference's centre, as a root mean square over the coordinates."""
    found: Array = np.sqrt(np.square(coordinates.astype(np.float64)).mean(axis=1))
    return found


def unusual(captured: Coordinates, reference: Coordinates) -> tuple[npt.NDArray[np.float64], float]:
    """The captured images' strangeness (N,), and the bound that 99 of 100 reference images stay below."""
    return strangeness(captured), float(np.quantile(strangeness(reference), UNUSUAL))
