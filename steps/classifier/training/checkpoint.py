"""Checkpoints of a training, written so that a kill at any moment leaves the last one readable.

SageMaker copies `/opt/ml/checkpoints` to S3 while the job runs, and back when an interrupted job starts again (AWS
guide, "model-checkpoints"). A training that goes on from a checkpoint ends as one that was never interrupted.
"""

import json
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from classifier.job.failures import say

FIRST_STAGE_FILE, SECOND_STAGE_FILE = "training.pt", "fine_tuning.pt"
SECONDS_BETWEEN = 5.0  # at least, of two checkpoints
SHARE_OF_TIME = 0.05  # that writing them may take
DEFAULT_DIRECTORY = "/opt/ml/checkpoints"
UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError)


@dataclass
class Checkpoints:
    """The newest checkpoint of one training.

    Args:
        directory: Where the file lies; None keeps nothing.
        fingerprint: What decides the training's result. A checkpoint of another training is not taken up.
        name: Of the file.
    """

    directory: Path | None
    fingerprint: str
    name: str = FIRST_STAGE_FILE
    due_at: float = 0.0  # seconds on the monotonic clock

    @property
    def file(self) -> Path:
        """The checkpoint's path."""
        assert self.directory is not None
        return self.directory / self.name

    def load(self) -> dict[str, Any] | None:
        """The state that `save` was last given, if it is of this training."""
        if self.directory is None or not self.file.is_file():
            return None
        try:
            document: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            if document["fingerprint"] == self.fingerprint:
                return document["state"]  # type: ignore[no-any-return]
            say(f"The checkpoint {self.file} is of other data or hyperparameters: training starts anew.")
        except UNREADABLE as error:
            say(f"The checkpoint {self.file} cannot be read ({type(error).__name__}): training starts anew.")
        return None

    def due(self) -> bool:
        """Whether the last writing was long enough ago."""
        return self.directory is not None and time.monotonic() >= self.due_at

    def save(self, state: dict[str, Any]) -> None:
        """Write the state. A full disk costs the checkpoint, not the training."""
        if self.directory is None:
            return
        began = time.monotonic()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            unfinished = self.file.with_suffix(".unfinished")  # one name, so that kills leave one such file at most
            with unfinished.open("wb") as stream:
                torch.save({"fingerprint": self.fingerprint, "state": state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(self.file)
        except (OSError, RuntimeError) as error:
            say(f"The checkpoint could not be written ({error}); training goes on.")
        ended = time.monotonic()
        self.due_at = ended + max(SECONDS_BETWEEN, (ended - began) / SHARE_OF_TIME)


def checkpoint_directory() -> Path | None:
    """Where SageMaker keeps checkpoints: checkpointconfig.json is there if the job asked for them."""
    config = Path(os.environ.get("SM_INPUT_CONFIG_DIR", "/opt/ml/input/config")) / "checkpointconfig.json"
    if not config.is_file():
        return None
    return Path(json.loads(config.read_text(encoding="utf-8")).get("LocalPath", DEFAULT_DIRECTORY))
