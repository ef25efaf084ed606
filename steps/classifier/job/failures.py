"""Mistakes of the user's and broken inputs: one sentence on stderr, in the job's failure file, and exit code 1.

SageMaker shows the file's first 1,024 characters as the reason why a job failed (AWS guide,
"your-algorithms-training-algo-output" and "your-own-processing-container").
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

FAILURE_FILE_CHARACTERS = 1024
TRAINING_FAILURE = ("SM_OUTPUT_FAILURE", "/opt/ml/output/failure")  # environment variable, and path where it is not set
PROCESSING_MESSAGE = ("SM_OUTPUT_MESSAGE", "/opt/ml/output/message")


class StepError(Exception):
    """One sentence for the user: where, what was found, what is accepted, the remedy."""


class ArgumentParser(argparse.ArgumentParser):
    """Treats a wrong argument as any other mistake of the user's; options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise StepError(f"{self.prog}: {message}. See {self.prog} --help.")


def run(main: Callable[[], None], failure_file: tuple[str, str] | None = None) -> int:
    """Run an entry point and return its exit code; a StepError is told on stderr and in the failure file."""
    try:
        main()
    except StepError as error:
        print(error, file=sys.stderr, flush=True)
        if failure_file and (file := Path(os.environ.get(*failure_file))).parent.is_dir():
            file.write_text(str(error)[:FAILURE_FILE_CHARACTERS], encoding="utf-8")
        return 1
    return 0


def cause(error: BaseException) -> str:
    """Return the first line of a library's message, or the exception's name if it says nothing, for a sentence."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")


def say(line: str) -> None:
    """Print one line at once, so that logs and metric scrapers see it when it happens."""
    print(f"{line}\n", end="", flush=True)  # one write, so that lines of two threads do not mix
