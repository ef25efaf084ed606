"""LossNotDecreasing: a loss that does not go down."""

import math
from collections import deque
from dataclasses import dataclass, field

from watch.rules.base import Mode, Trial
from watch.rules.losses import scalar_losses
from watch.rules.parameters import choice, flag, integer, number, state
from watch.rules.selection import ChosenTensorsRule

PREFERENCE = ("EVAL", "TRAIN", "GLOBAL")
MAXIMUM_LOSSES = 1000  # of one name that wait to be compared with


@dataclass
class Losses:
    """Of one name and mode: what the next comparison needs."""

    saved: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MAXIMUM_LOSSES))
    compared_at: int | None = None  # step


@dataclass(kw_only=True)
class LossNotDecreasing(ChosenTensorsRule):
    """Fires at a step where a loss, against the last one that was saved at least `num_steps` steps before, has
    decreased by less than `diff_percent` per cent, or increased by more than `increase_threshold_percent`.

    An increase up to that is let pass; a loss that is not a number is not. It looks once in `num_steps` steps. Without
    `mode` the losses of EVAL are looked at; those of TRAIN as long as there are none of EVAL; else those of GLOBAL.

    Source: AWS guide, "List of Debugger built-in rules", LossNotDecreasing; what the two percentages mean together is
    our reading of it.
    """

    advice = (
        "The training has stopped to make progress, or never began to. Try another learning rate (lower if the loss "
        "jumps, higher if it creeps), and check that labels and images belong together. If it had converged before, it "
        "may simply be over: use fewer epochs."
    )
    needs = "no scalar loss was saved at two steps num_steps apart"
    choice_required = False

    use_losses_collection: bool = flag(True)
    num_steps: int = integer(10, at_least=1)
    diff_percent: float = number(0.1, above=0, at_most=100)
    increase_threshold_percent: float = number(5.0, above=0, at_most=100)
    mode: str | None = choice(None, PREFERENCE)

    losses: dict[tuple[str, str], Losses] = state(dict)
    modes: set[str] = state(set)

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        own = ("losses",) if self.use_losses_collection else ()
        collections = (*own, *(self.collection_names or ()))
        found = scalar_losses(self, trial, step, mode, collections=collections, regex=self.tensor_regex or ())
        if not found or self.mode not in (None, mode.name):
            return None
        self.modes.add(mode.name)
        preferred = next((name for name in PREFERENCE if name in self.modes), mode.name)
        if preferred != mode.name:
            return None
        sentences = [self._compare(name, loss, step, mode) for name, loss in found.items()]
        return next((sentence for sentence in sentences if sentence), None)

    def _compare(self, name: str, loss: float, step: int, mode: Mode) -> str | None:
        losses = self.losses.setdefault((mode.name, name), Losses())
        losses.saved.append((step, loss))
        self.plot("Loss", "loss", {}, "step of the mode").add(f"{name} ({mode.name})", step, loss)
        due = (losses.saved[0][0] if losses.compared_at is None else losses.compared_at) + self.num_steps
        if step < due:
            return None
        while len(losses.saved) > 1 and losses.saved[1][0] <= step - self.num_steps:
            losses.saved.popleft()
        losses.compared_at = step
        old_step, old = losses.saved[0]
        self.judged += 1
        return self._judge(f"{name} of mode {mode.name}", loss, old, f"from step {old_step} to step {step}")

    def _judge(self, name: str, loss: float, old: float, steps: str) -> str | None:
        if not math.isfinite(loss):
            return f"{name} became {loss} {steps}."
        if old == 0 or not math.isfinite(old):
            return None
        decrease = 100 * (old - loss) / abs(old)
        if 0 <= decrease < self.diff_percent:
            return f"{name} decreased by {decrease:.3g} % {steps}, less than diff_percent ({self.diff_percent:g} %)."
        if -decrease > self.increase_threshold_percent:
            limit = f"increase_threshold_percent ({self.increase_threshold_percent:g} %)"
            return f"{name} increased by {-decrease:.3g} % {steps}, more than {limit}."
        return None
