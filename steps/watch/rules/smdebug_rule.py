"""Rules written against smdebug: subclasses of smdebug.rules.Rule, shown smdebug's own trial of the run.

They run as they are. Their trial is made when smdebug has written its collections file, since create_trial waits for
that; and they are asked about steps that are complete only, since Rule.invoke waits for others. smdebug's import takes
a second: it happens only where such a rule is configured.
"""

import bisect
import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watch.read.tensors import COLLECTIONS_FILE
from watch.rules.judge import Capture, Judge

# smdebug is told by its environment to be quiet, and not to sleep once it sees the end marker
ENVIRONMENT = {"SMDEBUG_LOG_LEVEL": "warning", "SMDEBUG_TRAINING_END_DELAY_REFRESH": "0"}
ADVICE = "This rule was written for this project: its own code says what it looks for."


@dataclass
class SmdebugJudge(Judge):
    """A judge of an smdebug rule. A configured action is taken by the judge, not by the rule's own action_str."""

    trial: Any = None
    module: str = ""
    _smdebug_rule: Any = None
    _next_step: int = 0  # global
    _asked: int = 0

    def look(self, tensors_dir: Path, now: float) -> None:
        """Ask the rule about all complete steps that it has not seen."""
        if self.traceback or not (tensors_dir / COLLECTIONS_FILE).is_file():
            return
        with Capture() as capture:
            if self._smdebug_rule is None:
                self._make(tensors_dir)
            steps = self._smdebug_rule.base_trial.steps()
            for step in steps[bisect.bisect_left(steps, self._next_step) :]:
                self._next_step = step + 1
                self._ask(step, now)
        self._note_error(capture.error)

    def as_json(self) -> dict[str, Any]:
        note = None if self._asked else "too little data: no steps were saved"
        return super().as_json() | {"advice": ADVICE, "note": note}

    def _make(self, tensors_dir: Path) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with _without_torch():
            from smdebug.rules import Rule
            from smdebug.trials import create_trial

        # AWS's examples call super().__init__(base_trial), which smdebug 1.0.34 refuses: it wants an action_str
        Rule.__init__.__defaults__ = ("", None)
        rule_class = getattr(importlib.import_module(self.module), self.rule_name)
        wanted = inspect.signature(rule_class).parameters
        action = {"action_str": ""} if "action_str" in wanted else {}
        self._smdebug_rule = rule_class(create_trial(str(tensors_dir)), **action, **self.given)

    def _ask(self, step: int, now: float) -> None:
        from smdebug import exceptions

        try:
            self._asked += 1
            self._smdebug_rule.invoke(step)
        except exceptions.RuleEvaluationConditionMet:
            trial = self._smdebug_rule.base_trial
            mode, mode_step = trial.mode_modestep(step)
            sentence = f"{self.rule_name} met its condition at step {mode_step}, mode {mode.name}."
            self._note(sentence, now, step=mode_step, mode=mode.name)
        except (
            exceptions.NoMoreData,
            exceptions.StepUnavailable,
            exceptions.TensorUnavailable,
            exceptions.TensorUnavailableForStep,
        ):
            return  # the rule looked for something that this step does not have


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """smdebug imports torch where it finds it, which doubles the time and takes 200 MB, and reads trials without it."""
    modules: dict[str, Any] = sys.modules
    hidden = "torch" not in modules
    if hidden:
        modules["torch"] = None
    try:
        yield
    finally:
        if hidden:
            del modules["torch"]
