"""MaxInitializationTime: a training that does not get going."""

from dataclasses import dataclass

from watch.rules.base import Profile, ProfilerRule
from watch.rules.figures import finite_curves
from watch.rules.parameters import number


@dataclass(kw_only=True)
class MaxInitializationTime(ProfilerRule):
    """Fires where no step has begun `threshold` minutes after the first system metrics were sampled.

    Source: AWS guide, "List of Debugger built-in profiler rules", MaxInitializationTime; default of the rulesconfig
    package, which is the documented one.
    """

    advice = (
        "The training spends its time on getting ready. Do once, before the training, what it does every time: "
        "download data and weights, decode images, build caches; and read large data with Pipe or FastFile mode."
    )
    needs = "no system metrics were sampled"

    threshold: float = number(20, above=0)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        sampled = [times[0] for times, _ in finite_curves(profile, "CPUUtilization").values()]
        if not sampled:
            return None
        self.judged += 1
        starts = profile.steps()[0]
        begun = len(starts) > 0
        minutes = ((float(starts[0]) if begun else now) - min(sampled)) / 60
        if minutes <= self.threshold:
            return None
        what = (
            f"The first step began after {minutes:.3g} minutes" if begun else f"No step began in {minutes:.3g} minutes"
        )
        return f"{what} (threshold {self.threshold:g} minutes)."
