"""Reads a profile as it grows: system metrics, steps and phases, from the files that SageMaker's layout puts them in.

Each refresh() reads what has been added since the one before; a half-written line is read once it is whole. System
metrics are below `system/incremental/`, with or without the hour's folder (jobs of 2020); step timelines (Chrome trace
events) in `framework/pevents/<hour>/`, and in `framework/` while they are written.
"""

import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from watch.read.records import read_file

Times = npt.NDArray[np.float64]  # (N,) epoch seconds, ascending
Values = npt.NDArray[np.float64]  # (N,)
Mode = Literal["TRAIN", "EVAL"]
MODES: tuple[Mode, ...] = ("TRAIN", "EVAL")
PHASE_TOTALS, STEP_TOTALS, STEP_COUNTS = "PhaseMicroseconds", "StepMicroseconds", "StepCounts"
STEP_PREFIX = "Step:ModeKeys."
DIMENSIONS = (
    "CPUUtilization", "I/OWaitPercentage", "MemoryUsedPercent", "GPUUtilization", "GPUMemoryUtilization",
    "ReadThroughputInBytesPerSecond", "WriteThroughputInBytesPerSecond", "ProcessCPUUtilization", "ProcessMemoryBytes",
)  # fmt: skip
NETWORK = "Algorithm"  # the dimension of both directions, as SageMaker's profiler calls it; their names tell them apart
DIRECTIONS = ("ReceiveBytesPerSecond", "TransmitBytesPerSecond")
FILES_STILL_READ = 3  # of a folder: the newest ones; those before have been closed for minutes
HOURS_STILL_READ = 2
PIECE_BYTES = 16 << 20  # that are read at once; a longer line is none
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass
class Timeline:
    """The events of one training process, of ours or of smdebug's own timeline."""

    steps: list[tuple[float, float, str]] = field(default_factory=list)  # start (epoch s), seconds, mode; as they came
    numbers: list[int] = field(default_factory=list)  # of these steps, which their phases have, too
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
            self.counters[name] = {key: _finite(value) for key, value in event["args"].items()}
        elif kind == "X" and name.startswith(STEP_PREFIX):
            start_us, duration_us = _finite(self.start_us + event["ts"]), _finite(event["dur"])
            number = int(_finite(event.get("args", {}).get("step_num", -1)))
            self.steps.append((start_us / 1e6, duration_us / 1e6, name.removeprefix(STEP_PREFIX)))
            self.numbers.append(number)
        elif kind == "X":
            phase = name.partition("-")[0]  # smdebug appends the module, as in "Forward-node-Net"
            self.phase_us[phase] = self.phase_us.get(phase, 0.0) + _finite(event["dur"])
            if phase == "DataWait" and "args" in event:
                self.waits[int(event["args"]["step_num"])] = event["dur"] / 1e6

    def step_total(self, mode: str) -> tuple[int, float]:
        """Return number and seconds of all steps of a mode, whether they are in the trace or not."""
        counts, totals = self.counters.get(STEP_COUNTS), self.counters.get(STEP_TOTALS)
        if counts is not None and totals is not None:
            return int(counts.get(mode, 0)), totals.get(mode, 0.0) / 1e6
        durations = [duration for _, duration, step_mode in self.steps if step_mode == mode]
        return len(durations), sum(durations)


class ProfileReader:
    """The profile of one job, whose folder, with `system/` and `framework/`, need not exist yet."""

    def __init__(self, profile_dir: Path) -> None:
        self.skipped_lines = 0  # that were whole, but not what they should be
        self.unreadable: dict[Path, str] = {}  # files, and why
        self._dir = profile_dir
        self._offsets: dict[tuple[int, int], int] = {}  # (device, inode) -> bytes read: files are renamed when closed
        self._done: set[Path] = set()
        self._samples: dict[str, dict[tuple[str, str], tuple[array[float], array[float]]]] = {}
        self._nodes: set[str] = set()
        self._timelines: dict[str, Timeline] = {}  # by "<pid>-<node>"

    def refresh(self) -> None:
        """Read what has been written since the last call."""
        for path in self._new_files(self._dir / "system" / "incremental", "*.json"):
            for line in self._new_lines(path):
                self._take(self._add_sample, line)
        framework = self._dir / "framework"
        unfinished = sorted(filter(Path.is_file, framework.glob("*.tmp")))
        for path in (*unfinished, *self._new_files(framework / "pevents", "*.json")):
            writer = path.name.split("_")[1] if path.name.count("_") >= 2 else path.name
            timeline = self._timelines.setdefault(writer, Timeline())
            for line in self._new_lines(path):
                self._take(timeline.add, line)

    def samples(self, dimension: str, name: str | None = None) -> dict[str, tuple[Times, Values]]:
        """Return the figures of a dimension by name, {"gpu0": (times, values)}, or of one `name` only.

        Metrics without a dimension, as MemoryUsedPercent, go by their name. Of several nodes, names are "algo-2/gpu0".
        """
        found = {}
        for (node, metric), (times, values) in sorted(self._samples.get(dimension, {}).items()):
            if name in (None, metric):
                key = f"{node}/{metric}" if len(self._nodes) > 1 else metric
                order = np.argsort(times, kind="stable")  # figures come in order unless the clock was set back
                found[key] = np.array(times)[order], np.array(values)[order]
        return found

    def steps(self) -> tuple[Times, Values, list[str]]:
        """Return start (epoch seconds, ascending), duration (seconds) and mode of the steps in the trace: (N,) each."""
        steps = sorted(step for timeline in self._timelines.values() for step in timeline.steps)
        starts, durations, modes = zip(*steps, strict=True) if steps else ((), (), ())
        return np.array(starts, dtype=np.float64), np.array(durations, dtype=np.float64), list(modes)

    def timed_steps(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return of each mode (3, N): starts (epoch seconds, ascending), seconds, and seconds of waiting for data."""
        found: dict[str, list[tuple[float, float, float]]] = {}
        for timeline in self._timelines.values():
            for (start, seconds, mode), number in zip(timeline.steps, timeline.numbers, strict=True):
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

    def _new_files(self, root: Path, pattern: str) -> Iterator[Path]:
        """Files below a folder and its hours that may have grown, oldest first."""
        hours = sorted(path for path in root.glob("*") if path.is_dir())
        for folder in (root, *(hour for hour in hours if hour not in self._done)):
            files = sorted(path for path in folder.glob(pattern) if path not in self._done and path.is_file())
            yield from files
            self._done.update(files[:-FILES_STILL_READ])
        self._done.update(hours[:-HOURS_STILL_READ])

    def _new_lines(self, path: Path) -> Iterator[str]:
        """Whole lines that have not been read yet."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = status.st_dev, status.st_ino
                while True:
                    file.seek(self._offsets.get(key, 0))
                    piece = file.read(PIECE_BYTES)
                    end = piece.rfind(b"\n") + 1 or (len(piece) if len(piece) == PIECE_BYTES else 0)
                    self._offsets[key] = self._offsets.get(key, 0) + end
                    yield from piece[:end].decode("utf-8", errors="replace").splitlines()
                    if len(piece) < PIECE_BYTES:
                        return
        except FileNotFoundError:  # it was closed and renamed meanwhile; the next refresh finds it
            return
        except OSError as error:
            self.unreadable[path] = error.strerror or type(error).__name__

    def _take(self, add: Any, line: str) -> None:
        try:
            add(line)
        except DAMAGE:
            self.skipped_lines += 1

    def _add_sample(self, line: str) -> None:
        row = json.loads(line)
        metric, node = str(row.get("Name") or row["Type"]), str(row["NodeId"])
        time, value = _finite(row["Timestamp"]), float(row["Value"])
        if not math.isfinite(value):  # what a device did not tell
            return
        self._nodes.add(node)
        series = self._samples.setdefault(str(row["Dimension"] or metric), {})
        times, values = series.setdefault((node, metric), (array("d"), array("d")))
        times.append(time)
        values.append(value)


@dataclass(frozen=True)
class Samples:
    """One quantity of one device over time; finite, and at least one."""

    times: list[float]  # epoch seconds
    values: list[float]


@dataclass(frozen=True)
class Profile:
    """What was measured, all at once; empty where nothing was."""

    samples: Mapping[str, Mapping[str, Samples]]  # by quantity (dimension, or direction of the network) and device
    steps: tuple[tuple[float, float, str], ...]  # start (epoch seconds), seconds and mode of those in the trace
    step_totals: Mapping[str, tuple[int, float]]  # by mode: number and seconds of all steps
    phases: Mapping[str, float]  # seconds
    measured: Mapping[str, str]  # what the figures are figures of, by resource
    missing: tuple[str, ...]  # sentences


def read_profile(folder: Path) -> Profile:
    """Read everything that is there; lines that cannot be read are counted."""
    reader = ProfileReader(folder)
    reader.refresh()
    wanted = [(dimension, dimension, None) for dimension in DIMENSIONS]
    samples: dict[str, dict[str, Samples]] = {}
    for quantity, dimension, name in (*wanted, *((direction, NETWORK, direction) for direction in DIRECTIONS)):
        for device, (times, values) in reader.samples(dimension, name).items():
            samples.setdefault(quantity, {})[device] = Samples(times.tolist(), values.tolist())
    starts, durations, modes = reader.steps()
    missing = [f"{path.relative_to(folder)} cannot be read ({why})." for path, why in reader.unreadable.items()]
    if not samples:
        missing.append("The profile holds no system metrics, so the machine's utilisation is not known.")
    if not modes:
        missing.append("The profile holds no step times, so where a step's time goes is not known.")
    if reader.skipped_lines:
        missing.append(f"{reader.skipped_lines:,} lines of the profile could not be read and are left out.")
    steps = tuple(zip(starts.tolist(), durations.tolist(), modes, strict=True))
    return Profile(samples, steps, reader.step_totals(), reader.phases(), reader.measured(), tuple(missing))


def _finite(value: Any) -> float:
    """A figure; raises one of DAMAGE where it is none."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value} is no figure")
    return found
