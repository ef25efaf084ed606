"""The champion, the model in service, on the test split that a new model is judged by.

The deploy function keeps it as `model.tar.gz`, with `champion.json`, which says which version it is (see `champion`).
A champion that cannot be compared counts as none, since no retrain could replace it otherwise; why is said.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifier.job.failures import StepError, cause

UNREADABLE = (StepError, KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # torch's are RuntimeErrors
DIGITS = 6  # of a difference of accuracies: less is the floating point's

Score = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """The new model's accuracy beside the champion.

    Args:
        metrics: The champion's multiclass_classification_metrics; None if there is none that can be compared.
        model_package_arn: Its version; None in the moment in which it is replaced.
        is_same_model: The new model is the champion, as when nothing has changed.
        reason: Why there is none to compare with, as a part of a sentence.
        accuracy: The new model's, a share.
        margin: By how much it is to exceed the champion's, a share.
    """

    metrics: dict[str, Any] | None = None
    model_package_arn: str | None = None
    is_same_model: bool = False
    reason: str = ""
    accuracy: float = 0.0
    margin: float = 0.0

    def __str__(self) -> str:
        if self.metrics is None:
            return f"champion=none improvement={self.improvement:.4f} ({self.reason})"
        same = ", which is this very model" if self.is_same_model else ""
        return f"champion={self.champion_accuracy:.4f} improvement={self.improvement:.4f} (over {self.name}{same})"

    @property
    def name(self) -> str:
        """What a person calls the champion."""
        version = (self.model_package_arn or "").rpartition("model-package/")[2]
        return version or "the model in service"

    @property
    def champion_accuracy(self) -> float:
        """A share; 0 without a champion."""
        return float(self.metrics["accuracy"]["value"]) if self.metrics else 0.0

    @property
    def improvement(self) -> float:
        """How much the accuracy is above the champion's; without a champion, the accuracy itself.

        Where no model would be replaced by another it is never below the margin: a first run and a run in which nothing
        has changed are no failures.
        """
        if self.metrics is None:
            return max(self.accuracy, self.margin)
        difference = round(self.accuracy - self.champion_accuracy, DIGITS)
        return max(difference, self.margin) if self.is_same_model else difference

    def document(self) -> dict[str, Any]:
        """`champion` and `improvement` of evaluation.json; their texts are for AccuracyTooLow's message."""
        improvement = {"value": self.improvement, "margin": self.margin}
        if self.metrics is None:
            return {"champion": None, "improvement": {**improvement, "champion": "no model", "reason": self.reason}}
        figures = {name: self.metrics[name]["value"] for name in ("accuracy", "macro_f1", "top_5_accuracy", "loss")}
        champion = {"model_package_arn": self.model_package_arn, **figures, "is_same_model": self.is_same_model}
        said = f"{self.name} with accuracy {self.champion_accuracy:.4f}"
        return {"champion": champion, "improvement": {**improvement, "champion": said}}


def compare(champion_dir: Path, archive: Path, metrics: dict[str, Any], score: Score) -> Comparison:
    """Score the champion as the new model was scored, unless it is the new model.

    Args:
        champion_dir: Holds model.tar.gz and champion.json, or neither.
        archive: The new model's model.tar.gz.
        metrics: The new model's.
        score: The metrics of a model.tar.gz on the test split.
    """
    kept = champion_dir / "model.tar.gz"
    if not kept.is_file():
        return Comparison(reason="no model has been approved and deployed yet")
    version = version_of(champion_dir)
    if digest(kept) == digest(archive):
        return Comparison(metrics, version, is_same_model=True)
    try:
        return Comparison(score(kept), version)
    except UNREADABLE as error:
        return Comparison(reason=f"the model in service cannot be compared: {why(error)}")


def why(error: Exception) -> str:
    """Our own sentence without its remedy, which is for a model that somebody can train again; else the library's."""
    if isinstance(error, StepError):
        return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}, {cause(error)}"


def version_of(champion_dir: Path) -> str | None:
    """The ARN in champion.json, None if that says none."""
    try:
        content = json.loads((champion_dir / "champion.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    arn = content.get("model_package_arn") if isinstance(content, dict) else None
    return arn if isinstance(arn, str) else None


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
