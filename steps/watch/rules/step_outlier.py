"""StepOutlier: steps that take much longer than the others."""

from dataclasses import dataclass

import numpy as np

from watch.rules.base import Profile, ProfilerRule
from watch.rules.evidence import Evidence
from watch.rules.figures import Floats
from watch.rules.parameters import choice, integer, number

MODES = ("TRAIN", "EVAL", "PREDICT", "GLOBAL")
FEWEST_STEPS = 100  # of a mode: with fewer, a mean and a deviation say little; the service asks for as many


@dataclass(kw_only=True)
class StepOutlier(ProfilerRule):
    """Fires where more than `n_outliers` steps of a mode are longer than the mean by more than `stddev` standard
    deviations. Judges the steps of `mode`, or each mode by itself, once there are more than 100.

    Of a long training the profile holds every second, fourth ... step only, and only those are judged.

    Source: AWS guide, "List of Debugger built-in profiler rules", StepOutlier; defaults of the rulesconfig package.
    """

    advice = (
        "Some steps take far longer than the rest. Look at what happens at them: a checkpoint, tensors being saved, a "
        "log line that waits for the disk, slow images in a batch, or another process on the machine."
    )
    needs = "no mode has more than 100 steps in the profile"

    stddev: float = number(3, above=0)
    mode: str | None = choice(None, MODES)
    n_outliers: int = integer(10, at_least=0)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        starts, durations, modes = profile.steps()
        known = np.isfinite(durations) & np.isfinite(starts)
        sentences = []
        for mode in [self.mode] if self.mode else sorted(set(modes)):
            of_mode = known & (np.array(modes) == mode)
            if of_mode.sum() > FEWEST_STEPS:
                self.judged += 1
                sentences.append(self._judge(mode, starts[of_mode] - starts[0], 1000 * durations[of_mode]))
        return " ".join(filter(None, sentences)) or None

    def _judge(self, mode: str, seconds: Floats, milliseconds: Floats) -> str | None:
        limit = float(milliseconds.mean() + self.stddev * milliseconds.std())
        outliers = milliseconds > limit
        count = int(outliers.sum())
        if self.evidence is None:
            self.evidence = Evidence("Step durations", "seconds since the first step", "duration (ms)")
        self.evidence.thresholds[f"mean + {self.stddev:g} standard deviations, {mode}"] = limit
        self.evidence.replace(f"{mode} steps", seconds.tolist(), milliseconds.tolist())
        self.evidence.replace(f"{mode} outliers", seconds[outliers].tolist(), milliseconds[outliers].tolist())
        if count <= self.n_outliers:
            return None
        return (
            f"{count} of {len(milliseconds)} {mode} steps took longer than {limit:.3g} ms, the mean of "
            f"{milliseconds.mean():.3g} ms and {self.stddev:g} standard deviations (n_outliers {self.n_outliers})."
        )
