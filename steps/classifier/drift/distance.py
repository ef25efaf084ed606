"""How far captured images are from the training's, as one score: above 1 there is drift.

The distance is that of Fréchet between two normal distributions without correlations (Dowson and Landau, Journal of
Multivariate Analysis 12(3), 1982), |m1 - m2|^2 + |s1 - s2|^2, of the means and deviations of the coordinates (see
`baseline`), divided by their number. Fréchet Inception Distance (Heusel et al., NeurIPS 2017) is the same of whole
covariances, which needs many more images than coordinates. The reference's coordinates have deviation 1, so the
distance is an average squared shift, in standard deviations.

Images of the same kind have some distance too, the more the fewer they are. How much is found by a permutation test
(Good, 2000): of all images together, as many as were captured are drawn at random and compared with the rest, again and
again. 99 of 100 draws stay below the threshold: captured images that differ in nothing are one such draw. With many
images the smallest difference would be beyond chance, so the threshold is never below SMALL, a shift of a fifth of a
deviation in every coordinate: what Cohen (Statistical Power Analysis, 1988) calls a small effect.
"""

from dataclasses import dataclass

import numpy as np

from classifier.drift.baseline import Array, Coordinates

FALSE_ALARM_RATE = 0.01
SMALL = 0.2**2
DRAWS = 1000
SMALLEST_STD = 1e-3
LEAST_IMAGES = 30  # of fewer, deviations say little
UNUSUAL = 0.99  # of the reference's images so many are nearer to its centre than an unusual one


@dataclass(frozen=True)
class Drift:
    """The score and what it is made of."""

    distance: float
    draws: Array  # (DRAWS,): distances by chance of as many images
    shifts: Array  # (K + 1,): mean of each coordinate of the captured images, less that of the reference
    spreads: Array  # (K + 1,): deviation of each, divided by that of the reference

    @property
    def by_chance(self) -> float:
        """What all but the share FALSE_ALARM_RATE of the draws stay below."""
        return float(np.quantile(self.draws, 1 - FALSE_ALARM_RATE, method="higher"))

    @property
    def threshold(self) -> float:
        """The distance from which on there is drift."""
        return max(self.by_chance, SMALL)

    @property
    def score(self) -> float:
        """Above 1: drift."""
        return self.distance / self.threshold

    @property
    def alarm(self) -> bool:
        """Whether there is drift."""
        return self.score > 1

    @property
    def p_value(self) -> float:
        """How likely chance alone gives such a distance (Phipson and Smyth, 2010: never 0)."""
        return float((1 + (self.draws >= self.distance).sum()) / (1 + len(self.draws)))


def most_images(reference: Coordinates) -> int:
    """How many captured images can be compared: a draw must leave as many of the reference as it takes."""
    return len(reference) // 2


def compare(captured: Coordinates, reference: Coordinates) -> Drift:
    """The drift of captured images (N, K + 1), LEAST_IMAGES to most_images of them; the same images, the same draws."""
    here, there = captured.astype(np.float64), reference.astype(np.float64)
    generator, pool, draws = np.random.default_rng(0), np.concatenate([here, there]), []
    for _ in range(DRAWS):
        drawn = np.zeros(len(pool), dtype=bool)
        drawn[generator.choice(len(pool), len(here), replace=False, shuffle=False)] = True
        draws.append(frechet(pool[drawn], pool[~drawn]))
    std = np.maximum(there.std(axis=0), SMALLEST_STD)
    return Drift(
        distance=frechet(here, there),
        draws=np.array(draws),
        shifts=(here.mean(axis=0) - there.mean(axis=0)) / std,
        spreads=here.std(axis=0) / std,
    )


def frechet(found: Array, usual: Array) -> float:
    """The distance of rows (N, K) from others (M, K), in the deviations of these, averaged over the K coordinates."""
    usual_std = np.maximum(usual.std(axis=0), SMALLEST_STD)
    shifts, spreads = (found.mean(axis=0) - usual.mean(axis=0)) / usual_std, found.std(axis=0) / usual_std
    return float((np.square(shifts) + np.square(spreads - 1)).mean())


def strangeness(coordinates: Coordinates) -> Array:
    """(N,): how far each image is from the reference's centre, as a root mean square over the coordinates."""
    found: Array = np.sqrt(np.square(coordinates.astype(np.float64)).mean(axis=1))
    return found


def unusual_from(reference: Coordinates) -> float:
    """The strangeness that 99 of 100 reference images stay below."""
    return float(np.quantile(strangeness(reference), UNUSUAL))
