"""The Chrome trace events of one training process's step timeline, read line by line as StepTimeline writes them."""

import json
import math
from typing import Any, Literal

Mode = Literal["TRAIN", "EVAL"]
MODES: tuple[Mode, ...] = ("TRAIN", "EVAL")
PHASE_TOTALS, STEP_TOTALS, STEP_COUNTS = "PhaseMicroseconds", "StepMicroseconds", "StepCounts"
STEP_PREFIX = "Step:ModeKeys."


class TimelineTrace:
    """Collects the events of one writer's files; those of other writers, such as smdebug's own, are read as well.

    Attributes:
        steps: (start in epoch seconds, duration in seconds, mode) of every step in the trace, as they came.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, str]] = []
        self._start_us = 0.0
        self._phase_us: dict[str, float] = {}  # sums over the events in the trace
        self._counters: dict[str, dict[str, float]] = {}  # exact totals, where the writer keeps them

    def add(self, line: str) -> None:
        """Take one line of a trace.

        Raises:
            ValueError: It is no part of a trace.
        """
        text = line.strip().removeprefix("[").rstrip(",]").strip()
        if not text:
            return
        try:
            self._add_event(json.loads(text))
        except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"No trace event: {text[:80]}") from error

    def step_total(self, mode: str) -> tuple[int, float]:
        """(number, seconds) of all steps of a mode, whether they are in the trace or not."""
        counts, totals = self._counters.get(STEP_COUNTS), self._counters.get(STEP_TOTALS)
        if counts is not None and totals is not None:
            return int(counts.get(mode, 0)), totals.get(mode, 0.0) / 1e6
        durations = [duration for _, duration, step_mode in self.steps if step_mode == mode]
        return len(durations), sum(durations)

    def phase_totals(self) -> dict[str, float]:
        """Seconds of every phase that occurred."""
        totals = self._counters.get(PHASE_TOTALS, self._phase_us)
        return {phase: microseconds / 1e6 for phase, microseconds in totals.items() if microseconds > 0}

    def _add_event(self, event: dict[str, Any]) -> None:
        kind, name = event.get("ph"), event["name"]
        if kind == "M":
            self._start_us = float(event["args"].get("start_time_since_epoch_in_micros", self._start_us))
        elif kind == "C":
            self._counters[name] = {key: _finite(value) for key, value in event["args"].items()}
        elif kind == "X" and name.startswith(STEP_PREFIX):
            start_us, duration_us = self._start_us + _finite(event["ts"]), _finite(event["dur"])
            self.steps.append((start_us / 1e6, duration_us / 1e6, name.removeprefix(STEP_PREFIX)))
        elif kind == "X":
            phase = name.partition("-")[0]  # smdebug appends the module, as in "Forward-node-Net"
            self._phase_us[phase] = self._phase_us.get(phase, 0.0) + _finite(event["dur"])


def _finite(value: float) -> float:
    """A figure of a trace, which must be one.

    Raises:
        ValueError, TypeError, OverflowError: It is none.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no time")
    return float(value)
