"""StalledTraining: a training from which nothing comes any more."""

from dataclasses import dataclass

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import flag, number, state


@dataclass(kw_only=True)
class StalledTraining(TensorRule):
    """Fires when no tensor has been saved for more than `threshold` seconds; once for each time it stalls.

    With `stop_training_on_fire` the training is then asked to stop, as with the action stop; one that hangs for good
    does not hear it.

    Source: AWS guide, "List of Debugger built-in rules", StalledTrainingRule.
    """

    advice = (
        "Look at the last lines of the log and at the use of CPU and GPU: it may wait for data, a full disk or another "
        "worker. If a step simply takes this long, raise the threshold or save tensors more often."
    )
    needs = "no tensors were saved"

    threshold: float = number(1800.0, above=0)
    stop_training_on_fire: bool = flag(False)

    fresh: bool = state(lambda: True)  # something was saved since the last look at the clock
    stalled: bool = state(bool)
    last_saved: float = state(float)  # epoch seconds

    @property
    def wants_stop(self) -> bool:
        return self.stop_training_on_fire

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        self.judged += 1
        self.fresh = True
        return None

    def idle(self, now: float) -> str | None:
        if self.fresh:
            self.last_saved, self.fresh, self.stalled = now, False, False
        waited = now - self.last_saved
        if self.stalled or waited <= self.threshold:
            return None
        self.stalled = True
        return f"No tensor has been saved for {waited:.0f} seconds (threshold {self.threshold:g} seconds)."


@dataclass(kw_only=True)
class StalledTrainingRule(StalledTraining):
    """StalledTraining by the name that AWS's documentation has for it."""
