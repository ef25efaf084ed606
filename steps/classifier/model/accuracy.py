"""What an accuracy is worth: of how many images it is the share, and between which bounds the true one lies.

Wilson's interval (1927) at 95 %, which holds for few images and for shares near 0 and 1, too.
"""

from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def wilson(share: float, images: int) -> tuple[float, float]:
    """Return the bounds, 0 to 1, of a share of so many images; of none it may be anything."""
    if not images:
        return 0.0, 1.0
    weight = Z**2 / images
    middle, reach = share + weight / 2, Z * sqrt(share * (1 - share) / images + weight / (4 * images))
    return max(0.0, (middle - reach) / (1 + weight)), min(1.0, (middle + reach) / (1 + weight))


def figure(share: float, images: int) -> dict[str, float]:
    """Return an accuracy as evaluation.json has it: `value`, `lower_bound`, `upper_bound` and `images`."""
    low, high = wilson(share, images)
    return {"value": float(share), "lower_bound": low, "upper_bound": high, "images": int(images)}


def interval_text(share: float, images: int) -> str:
    """Return `268 images, 95 %: 0.957 to 0.992`."""
    low, high = wilson(share, images)
    return f"{images:,} image{'' if images == 1 else 's'}, {100 * CONFIDENCE:.0f} %: {low:.3f} to {high:.3f}"


def accuracy_text(share: float, images: int) -> str:
    """Return `0.9813 (268 images, 95 %: 0.957 to 0.992)`."""
    return f"{share:.4f} ({interval_text(share, images)})"
