"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) between the two images of a pair.

Rows 2i and 2i + 1 of a batch are a pair, and each becomes a mixture of both. What is drawn, is drawn for the whole
batch, so that a process can mix its share of it alone. Of an odd batch the last image stays as it is.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAIR = 2  # images, which stay in one process


@dataclass(frozen=True)
class Mixes:
    """How each pair is mixed."""

    cut: bool  # CutMix, or else mixup
    shares: npt.NDArray[np.float64]  # (P,) of an image that stays, at least a half
    places: npt.NDArray[np.float64]  # (P, 2) from 0 to 1: where in the image the box is that is exchanged

    def of(self, pairs: slice) -> "Mixes":
        """Those of some pairs."""
        return Mixes(self.cut, self.shares[pairs], self.places[pairs])


def draw_mixes(pairs: int, *, mixup_alpha: float, cutmix_alpha: float, draw: np.random.Generator) -> Mixes | None:
    """Shares from the beta distribution with the given alpha; 0 leaves a way out, and where both are wanted, one of
    them is taken by chance."""
    if not mixup_alpha and not cutmix_alpha:
        return None
    cut = not mixup_alpha or (bool(cutmix_alpha) and bool(draw.random() < 0.5))
    alpha = cutmix_alpha if cut else mixup_alpha
    shares = draw.beta(alpha, alpha, pairs)
    return Mixes(cut, np.maximum(shares, 1 - shares), draw.random((pairs, 2)))


def mixed(images: Tensor, targets: Tensor, mixes: Mixes) -> tuple[Tensor, Tensor]:
    """Mix the pairs.

    Args:
        images: (B, 3, H, W) float32; CutMix changes them in place.
        targets: (B, C) float32, probabilities.
        mixes: Of B // 2 pairs.
    """
    shares = _cut(images, mixes) if mixes.cut else mixes.shares
    own = torch.ones(len(images))  # (B,)
    own[: 2 * len(shares)] = torch.from_numpy(np.repeat(shares, 2)).float()
    own = own.to(images.device)
    if not mixes.cut:
        images = _blend(images, own.view(-1, 1, 1, 1))
    return images, _blend(targets, own.view(-1, 1))


def _blend(values: Tensor, own: Tensor) -> Tensor:
    """Each row and its partner's; of an odd number of rows the last stays alone."""
    paired = PAIR * (len(values) // PAIR)
    first, second = slice(0, paired, PAIR), slice(1, paired, PAIR)
    blended = torch.empty_like(values)
    torch.lerp(values[second], values[first], own[first], out=blended[first])
    torch.lerp(values[first], values[second], own[second], out=blended[second])
    blended[paired:] = values[paired:]
    return blended


def _cut(images: Tensor, mixes: Mixes) -> npt.NDArray[np.float64]:
    """Exchange a box of each pair, in place; returns the share that each image keeps, (P,)."""
    height, width = images.shape[2:]
    kept = np.empty_like(mixes.shares)
    for pair, (share, place) in enumerate(zip(mixes.shares, mixes.places, strict=True)):
        tall, wide = (round(side * float(np.sqrt(1 - share))) for side in (height, width))
        top, left = round(place[0] * (height - tall)), round(place[1] * (width - wide))
        box = images[2 * pair : 2 * pair + 2, :, top : top + tall, left : left + wide]
        box.copy_(box.flip(0).clone())
        kept[pair] = 1 - tall * wide / (height * width)
    return kept
