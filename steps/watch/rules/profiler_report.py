"""ProfilerReport: what the other profiler rules found, together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from watch.rules.base import Profile, ProfilerRule
from watch.rules.parameters import flag


@dataclass(kw_only=True)
class ProfilerReport(ProfilerRule):
    """Fires where another profiler rule of this training did. It runs none itself, so its only parameter is
    `opt_out_telemetry`, which is accepted and means nothing here: nothing is sent anywhere.

    Source: AWS guide, "List of Debugger built-in profiler rules", ProfilerReport.
    """

    advice = "See the rules it names: each says what it found and what to do about it."
    needs = "no other profiler rule is configured"

    opt_out_telemetry: bool = flag(False)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        return None

    def summarise(self, fired: Mapping[str, Sequence[str]]) -> str | None:
        self.judged += bool(fired)
        found = [name for name, sentences in fired.items() if sentences]
        if not found:
            return None
        return f"{len(found)} of {len(fired)} profiler rules found issues: {', '.join(found)}."
