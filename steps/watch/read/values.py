"""Values out of files that may be damaged: what is not of the expected kind becomes nothing, never an exception."""

import json
import math
from pathlib import Path
from typing import Any


def read_json(path: Path) -> tuple[Any, str | None]:
    """The document, or None with why there is none: "is missing", "cannot be read (...)"."""
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace")), None
    except FileNotFoundError:
        return None, "is missing"
    except OSError as error:
        return None, f"cannot be read ({error.strerror or type(error).__name__})"
    except (ValueError, RecursionError):
        return None, "is damaged: it is not JSON"


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def numbers(value: Any) -> list[float | None]:
    """A list's finite numbers, None in the place of each other entry."""
    return [number(item) for item in items(value)]


def whole(value: Any) -> int | None:
    """A whole number, or None."""
    found = number(value)
    return None if found is None else int(found)


def text(value: Any, default: str = "") -> str:
    """A text that can be written as UTF-8, or the default."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else default


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def plain(value: Any) -> Any:
    """The same JSON value without infinities and NaN, which are no JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
