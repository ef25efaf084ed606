"""Activity of a layer's nodes, for the rules on activations."""

import numpy as np
import numpy.typing as npt

from watch.rules.base import Array


def inactive_percent(active: Array, threshold_inactivity: float) -> float:
    """Per cent of a layer's nodes that are active in less than `threshold_inactivity` per cent of the cases.

    Args:
        active: (N, nodes) or (N, channels, ...) bool. A channel of a convolution is one node: its weights are shared,
            so that it lives or dies as a whole.
    """
    by_case = active.reshape(1, -1) if active.ndim < 2 else np.moveaxis(active, 1, -1)
    activity: npt.NDArray[np.float64] = 100 * by_case.reshape(-1, by_case.shape[-1]).mean(axis=0)
    return float(100 * np.mean(activity < threshold_inactivity))
