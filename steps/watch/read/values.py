import math
from typing import Any

from watch.read.run import items as items
from watch.read.run import mapping as mapping
from watch.read.run import number as number
from watch.read.run import numbers as numbers
from watch.read.run import read_json as read_json
from watch.read.run import text as text
from watch.read.run import whole as whole


def plain(value: Any) -> Any:
    """The same JSON value without infinities and NaN, which are no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
