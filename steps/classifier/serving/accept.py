"""Which of the endpoint's answer formats a request's Accept header asks for (RFC 9110, section 12.5.1)."""

from dataclasses import dataclass
from functools import lru_cache

from classifier.serving.refusals import Refusal

JSON, CSV, JSON_LINES, NPY = "application/json", "text/csv", "application/jsonlines", "application/x-npy"
OFFERED = (JSON, CSV, JSON_LINES, NPY)
SYNONYMS = {
    "*/*": JSON,
    "application/*": JSON,
    "text/*": CSV,
    "application/jsonl": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
}


@dataclass(frozen=True)
class Format:
    """How an answer is written."""

    media_type: str  # one of OFFERED
    verbose: bool = False  # labels and scores of the best instead of all probabilities, in the JSON formats


@lru_cache(maxsize=64)
def accepted_format(accept: str) -> Format:
    """The most wanted format that can be answered; refused with 406 if there is none."""
    ranges = [parse(text) for text in accept.split(",") if text.strip()] or [("*/*", {})]
    wanted = [
        (_quality(parameters), Format(SYNONYMS.get(media_type, media_type), parameters.get("verbose") == "1"))
        for media_type, parameters in ranges
        if SYNONYMS.get(media_type, media_type) in OFFERED
    ]
    quality, chosen = max(wanted, key=lambda choice: choice[0], default=(0.0, None))
    if quality <= 0 or chosen is None:
        raise Refusal(
            406,
            f"Accept {accept} cannot be answered: ask for {', '.join(OFFERED[:-1])} or {NPY}; "
            f"{JSON};verbose=1 names the labels.",
        )
    return chosen


def parse(text: str) -> tuple[str, dict[str, str]]:
    """`application/json;verbose=1` -> ("application/json", {"verbose": "1"}), in lower case but for the values."""
    media_type, *parameters = (part.strip() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
