"""The known word that a misspelt or shortened one stands for."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to append to a sentence, with its leading space; empty when no known word is near."""
    match = nearest(word, known)
    return f" Did you mean '{match}'?" if match else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelt most alike, else the shortest that begins with it; case does not count."""
    written = word.lower()
    by_lower = {candidate.lower(): candidate for candidate in known}
    alike = get_close_matches(written, by_lower, n=1)
    longer = [other for other in by_lower if len(written) > 2 and other.startswith(written)]
    match = alike[0] if alike else min(longer, key=len, default=None)
    return by_lower[match] if match else None
