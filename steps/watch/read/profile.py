"""Reads a profile as it grows: system metrics, steps and phases, from the files that SageMaker's layout puts them in.

Each refresh() reads what has been added since the one before; a half-written line is read once it is whole. System
metrics are below `system/incremental/`, with or without the hour's folder (jobs of 2020); step timelines (Chrome trace
events) in `framework/pevents/<hour>/`, and in `framework/` while they are written.
"""

import json
import math
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from watch.read.records import read_file

Floats = npt.NDArray[np.float64]
Mode = Literal["TRAIN", "EVAL"]
MODES: tuple[Mode, ...] = ("TRAIN", "EVAL")
PHASE_TOTALS, STEP_TOTALS, STEP_COUNTS = "PhaseMicroseconds", "StepMicroseconds", "StepCounts"
STEP_PREFIX = "Step:ModeKeys."
NETWORK = "Algorithm"  # the dimension of both directions, as SageMaker's profiler calls it; their names tell them apart
FILES_STILL_READ = 3  # of a folder: the newest ones; those before have been closed for minutes
HOURS_STILL_READ = 2
PIECE_BYTES = 16 << 20  # that are read at once; a longer line is none
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass
class Timeline:
    """The events of one training process, of ours or of smdebug's own timeline."""

    steps: list[tuple[float, float, str, int]] = field(default_factory=list)  # start (epoch s), seconds, mode, number
    waits: dict[int, float] = field(default_factory=dict)  # seconds for which a step waited for its data, by its number
    start_us: float = 0.0
    phase_us: dict[str, float] = field(default_factory=dict)  # sums over the events in the trace
    counters: dict[str, dict[str, float]] = field(default_factory=dict)  # exact totals, where the writer keeps them

    def add(self, line: str) -> None:
        """Take one line of a trace; raises one of DAMAGE where it is no part of one."""
        text = line.strip().removeprefix("[").rstrip(",]").strip()
        event: Any = json.loads(text) if text else {"name": ""}
        kind, name = event.get("ph"), event["name"]
        if kind == "M":
            self.start_us = float(event["args"].get("start_time_since_epoch_in_micros", self.start_us))
        elif kind == "C":
            self.counters[name] = {key: figure(value) for key, value in event["args"].items()}
        elif kind == "X" and name.startswith(STEP_PREFIX):
            start_us, duration_us = figure(self.start_us + event["ts"]), figure(event["dur"])
            number = int(figure(event.get("args", {}).get("step_num", -1)))
            self.steps.append((start_us / 1e6, duration_us / 1e6, name.removeprefix(STEP_PREFIX), number))
        elif kind == "X":
            phase = name.partition("-")[0]  # smdebug appends the module, as in "Forward-node-Net"
            self.phase_us[phase] = self.phase_us.get(phase, 0.0) + figure(event["dur"])
            if phase == "DataWait" and "args" in event:
                self.waits[int(event["args"]["step_num"])] = event["dur"] / 1e6

    def step_total(self, mode: str) -> tuple[int, float]:
        """Return number and seconds of all steps of a mode, whether they are in the trace or not."""
        counts, totals = self.counters.get(STEP_COUNTS), self.counters.get(STEP_TOTALS)
        if counts is not None and totals is not None:
            return int(counts.get(mode, 0)), totals.get(mode, 0.0) / 1e6
        durations = [seconds for _, seconds, step_mode, _ in self.steps if step_mode == mode]
        return len(durations), sum(durations)


class ProfileReader:
    """The profile of one job, whose folder, with `system/` and `framework/`, need not exist yet."""

    def __init__(self, profile_dir: Path) -> None:
        self._dir = profile_dir
        self._skipped = 0  # lines that were whole, but not what they should be
        self._unreadable: dict[Path, str] = {}  # files, and why
        self._offsets: dict[tuple[int, int], int] = {}  # (device, inode) -> bytes read: files are renamed when closed
        self._done: set[Path] = set()
        self._samples: dict[str, dict[tuple[str, str], tuple[array[float], array[float]]]] = {}
        self._nodes: set[str] = set()
        self._timelines: dict[str, Timeline] = {}  # by "<pid>-<node>"

    def refresh(self) -> None:
        """Read what has been written since the last call."""
        for path in self._new_files(self._dir / "system" / "incremental", "*.json"):
            self._take_lines(path, self._add_sample)
        framework = self._dir / "framework"
        unfinished = sorted(filter(Path.is_file, framework.glob("*.tmp")))
        for path in (*unfinished, *self._new_files(framework / "pevents", "*.json")):
            writer = path.name.split("_")[1] if path.name.count("_") >= 2 else path.name
            self._take_lines(path, self._timelines.setdefault(writer, Timeline()).add)

    def samples(self, quantity: str) -> dict[str, tuple[Floats, Floats]]:
        """Return times (epoch seconds, ascending) and values by device, as {"gpu0": ...}; finite, at least one each.

        A quantity is a dimension; a metric without one, as MemoryUsedPercent, and a direction of the network go by
        their names. Of several nodes, devices are "algo-2/gpu0".
        """
        found = {}
        for (node, device), (times, values) in sorted(self._samples.get(quantity, {}).items()):
            order = np.argsort(times, kind="stable")  # figures come in order unless the clock was set back
            name = f"{node}/{device}" if len(self._nodes) > 1 else device
            found[name] = np.array(times)[order], np.array(values)[order]
        return found

    def timed_steps(self) -> dict[str, Floats]:
        """Return of each mode (3, N): starts (epoch seconds, ascending), seconds, and seconds of waiting for data.

        The trace of a long training holds every second, fourth ... step.
        """
        found: dict[str, list[tuple[float, float, float]]] = {}
        for timeline in self._timelines.values():
            for start, seconds, mode, number in timeline.steps:
                found.setdefault(mode, []).append((start, seconds, timeline.waits.get(number, 0.0)))
        return {mode: np.array(sorted(steps)).T for mode, steps in sorted(found.items())}

    def step_totals(self) -> dict[str, tuple[int, float]]:
        """Return {mode: (number, seconds)} of all steps, of which a long training's trace holds a part."""
        parts = {mode: [timeline.step_total(mode) for timeline in self._timelines.values()] for mode in MODES}
        totals = {mode: (sum(n for n, _ in found), sum(s for _, s in found)) for mode, found in parts.items()}
        return {mode: total for mode, total in totals.items() if total[0]}

    def phases(self) -> dict[str, float]:
        """Return the total seconds of every phase that occurred, in the order of a step."""
        totals: dict[str, float] = {}
        for timeline in self._timelines.values():
            for phase, microseconds in timeline.counters.get(PHASE_TOTALS, timeline.phase_us).items():
                if microseconds > 0:
                    totals[phase] = totals.get(phase, 0.0) + microseconds / 1e6
        return totals

    def measured(self) -> dict[str, str]:
        """Return what the system metrics are figures of, one sentence a resource; empty where nobody wrote it."""
        try:
            sentences = json.loads(read_file(self._dir / "measured.json"))
            return {str(key): str(value) for key, value in sentences.items()}
        except (OSError, *DAMAGE):
            return {}

    def missing(self) -> Iterator[str]:
        """Yield a sentence for whatever there is not, or could not be read."""
        for path, why in self._unreadable.items():
            yield f"{path.relative_to(self._dir)} cannot be read ({why})."
        if not self._samples:
            yield "The profile holds no system metrics, so the machine's utilisation is not known."
        if not any(timeline.steps for timeline in self._timelines.values()):
            yield "The profile holds no step times, so where a step's time goes is not known."
        if self._skipped:
            yield f"{self._skipped:,} lines of the profile could not be read and are left out."

    def _new_files(self, root: Path, pattern: str) -> Iterator[Path]:
        """Files below a folder and its hours that may have grown, oldest first."""
        hours = sorted(path for path in root.glob("*") if path.is_dir() and path not in self._done)
        for folder in (root, *hours):
            files = sorted(path for path in folder.glob(pattern) if path not in self._done and path.is_file())
            yield from files
            self._done.update(files[:-FILES_STILL_READ])
        self._done.update(hours[:-HOURS_STILL_READ])

    def _take_lines(self, path: Path, add: Callable[[str], None]) -> None:
        """Take the whole lines that have not been read yet."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key, is_full = (status.st_dev, status.st_ino), True
                while is_full:
                    file.seek(self._offsets.get(key, 0))
                    piece = file.read(PIECE_BYTES)
                    is_full = len(piece) == PIECE_BYTES
                    end = piece.rfind(b"\n") + 1 or len(piece) * is_full
                    self._offsets[key] = self._offsets.get(key, 0) + end
                    for line in piece[:end].decode("utf-8", errors="replace").splitlines():
                        try:
                            add(line)
                        except DAMAGE:
                            self._skipped += 1
        except FileNotFoundError:  # it was closed and renamed meanwhile; the next refresh finds it
            return
        except OSError as error:
            self._unreadable[path] = error.strerror or type(error).__name__

    def _add_sample(self, line: str) -> None:
        row = json.loads(line)
        metric, node, dimension = str(row.get("Name") or row["Type"]), str(row["NodeId"]), row["Dimension"]
        time, value = figure(row["Timestamp"]), float(row["Value"])
        if math.isfinite(value):  # else a device did not tell
            self._nodes.add(node)
            quantity = metric if dimension == NETWORK or not dimension else str(dimension)
            times, values = self._samples.setdefault(quantity, {}).setdefault((node, metric), (array("d"), array("d")))
            times.append(time)
            values.append(value)


def figure(value: Any) -> float:
    """Return a finite number; raises one of DAMAGE where it is none."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value} is no figure")
    return found
