"""The section on time: where a step's time goes, and how long each step took."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from watch.read.profile_figures import Profile
from watch.read.run import Record
from watch.report.charts import Chart, Line, chart
from watch.report.page import counted, duration_text, percent

SHOWN_PHASES = 7
TRAINING_MODES = ("TRAIN", "GLOBAL")
OTHER = "Other"
Values = Sequence[float]


def time(record: Record) -> dict[str, Any]:
    """Phases of a step, and how long steps took."""
    profile = record.profile
    durations = training_durations(profile)
    phases = phases_of_a_step(profile)
    words = [_durations_in_words(durations, training_steps(profile))] if durations else []
    total = sum(phases.values())
    if total:
        first = next(iter(phases))
        words.append(f"Most of the measured time, {percent(phases[first] / total)}, went into {first.lower()}.")
    return {
        "time_words": " ".join(words),
        "phases": phases,
        "phase_texts": {
            name: f"{percent(seconds / (total or 1))} ({duration_text(seconds)})" for name, seconds in phases.items()
        },
        "durations": [chart(found) for found in _durations(profile)],
    }


def _durations_in_words(durations: Values, every: int) -> str:
    kept = f", of which the trace holds {len(durations):,}," if every > len(durations) else ""
    return (
        f"{counted(every, 'training step')}{kept} took {duration_text(statistics.median(durations))} each (median); "
        f"19 of 20 took less than {duration_text(quantile(durations, 0.95))}, and the longest "
        f"{duration_text(max(durations))}."
    )


def training_durations(profile: Profile) -> list[float]:
    """Seconds of every training step in the trace."""
    return [duration for _, duration, mode in profile.steps if mode in TRAINING_MODES]


def training_steps(profile: Profile) -> int:
    """How many there were; the trace of a long training holds every second, fourth ... one only."""
    return sum(count for mode, (count, _) in profile.step_totals.items() if mode in TRAINING_MODES)


def phases_of_a_step(profile: Profile) -> dict[str, float]:
    """Total seconds by phase, the longest first; the time of steps that no phase covers is `Other`."""
    steps = sum(seconds for _, seconds in profile.step_totals.values())
    phases = {_spoken(name): seconds for name, seconds in profile.phases.items() if seconds > 0}
    ordered = dict(sorted(phases.items(), key=lambda item: -item[1]))
    shown = dict(itertools.islice(ordered.items(), SHOWN_PHASES))
    rest = sum(ordered.values()) - sum(shown.values()) + max(0.0, steps - sum(ordered.values()))
    return {**shown, OTHER: shown.get(OTHER, 0.0) + rest} if rest > 0.001 * (sum(ordered.values()) + steps) else shown


def _spoken(phase: str) -> str:
    """`data_wait` and `DataWait` are `Data wait`."""
    words = "".join(f" {letter}" if letter.isupper() and not phase.isupper() else letter for letter in phase)
    return " ".join(words.replace("_", " ").split()).capitalize()


def quantile(values: Values, share: float) -> float:
    """The smallest value that is not below `share` of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _durations(profile: Profile) -> Iterator[Chart]:
    """How long each step took; each mode counts steps of its own, so each has its own axis."""
    for modes, name in ((TRAINING_MODES, "training"), (("EVAL",), "validation")):
        found = [duration * 1e3 for _, duration, mode in profile.steps if mode in modes]
        every = sum(count for mode, (count, _) in profile.step_totals.items() if mode in modes)
        if found:
            line = Line(name, [float(number) for number in range(1, len(found) + 1)], found)
            label = f"{name} step" if every == len(found) else f"{name} step in the trace"
            yield Chart(f"Duration of each {name} step", label, "duration (ms)", [line], whole_x=True)
