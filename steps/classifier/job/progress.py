"""Progress of a long loop: a plain line every two seconds at most, for a log that people read."""

import time

from classifier.job.failures import say

SECONDS_BETWEEN_LINES = 2.0


class Progress:
    """Counts images: `embedded 500/1797 images, 210 images/s`."""

    def __init__(self, verb: str, total: int) -> None:
        self.verb, self.total, self.done, self.known = verb, total, 0, 0
        self.started = self.last_line = time.monotonic()

    def advance(self, images: int, *, known: bool = False) -> None:
        """So many more are done; `known` if there was nothing to be done for them."""
        self.done += images
        self.known += images if known else 0
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            say(f"{self.verb} {self.done}/{self.total} images, {self.done / (now - self.started):.0f} images/s")
