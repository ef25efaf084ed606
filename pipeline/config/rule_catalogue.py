"""The debugger rules that exist, as pipeline.yaml may name them: those of `steps/classifier/watch/rules`.

The rules run inside the training job; here they only say whether an entry would be accepted there.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.paths import STEPS


def problems_of(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What is wrong with one entry of debug.rules, as the rest of a sentence about it."""
    with importable_steps():
        from classifier.watch.rules.registry import check

        sentences = check({name: entry})
    prefix = f"Rule '{name}': "
    return [f"is not accepted: {sentence.removeprefix(prefix)}" for sentence in sentences]


@contextmanager
def importable_steps() -> Iterator[None]:
    """`classifier` is imported from steps/, as in a job."""
    sys.path.insert(0, str(STEPS))
    try:
        yield
    finally:
        sys.path.remove(str(STEPS))
