"""Evidence by its former module."""

from watch.rules.base import MAXIMUM_CURVES, MAXIMUM_POINTS, Curve, Evidence, finite

__all__ = ["MAXIMUM_CURVES", "MAXIMUM_POINTS", "Curve", "Evidence", "finite"]
