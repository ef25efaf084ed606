"""Reads a profile as it grows: system metrics, steps and phases, from the files that SageMaker's layout puts them in.

Each refresh() reads what has been added since the one before. A last line that is half written is read once it is
whole. System metrics are found below `system/incremental/` with or without the hour's folder, as jobs of 2020 wrote
them; step timelines in `framework/pevents/<hour>/`, and in `framework/` while they are being written.
"""

import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from watch.read.timeline import MODES, TimelineTrace

Times = npt.NDArray[np.float64]  # (N,) epoch seconds, ascending
Values = npt.NDArray[np.float64]  # (N,)
FILES_STILL_READ = 3  # of a folder: the newest ones; those before have been closed for minutes
HOURS_STILL_READ = 2


class ProfileReader:
    """The profile of one job.

    Attributes:
        skipped_lines: Whole lines that were not what they should be, and were passed over.

    Args:
        profile_dir: The folder with `system/` and `framework/`; need not exist yet.
    """

    def __init__(self, profile_dir: Path) -> None:
        self.skipped_lines = 0
        self._dir = profile_dir
        self._offsets: dict[tuple[int, int], int] = {}  # (device, inode) -> bytes read: files are renamed when closed
        self._done: set[Path] = set()
        self._samples: dict[str, dict[tuple[str, str], tuple[array[float], array[float]]]] = {}
        self._nodes: set[str] = set()
        self._timelines: dict[str, TimelineTrace] = {}  # by "<pid>-<node>"

    def refresh(self) -> None:
        """Read what has been written since the last call."""
        for path in self._new_files(self._dir / "system" / "incremental", "*.json"):
            for line in self._new_lines(path):
                self._add_sample(line)
        framework = self._dir / "framework"
        for path in (*sorted(framework.glob("*.tmp")), *self._new_files(framework / "pevents", "*.json")):
            writer = path.name.split("_")[1] if path.name.count("_") >= 2 else path.name
            timeline = self._timelines.setdefault(writer, TimelineTrace())
            for line in self._new_lines(path):
                self._add_event(timeline, line)

    def samples(self, dimension: str, name: str | None = None) -> dict[str, tuple[Times, Values]]:
        """The figures of a dimension by name: {"gpu0": (times, values)}.

        Args:
            dimension: "CPUUtilization" and so on. Metrics without one, such as "MemoryUsedPercent", go by their name.
            name: Only this one, such as "gpu0".

        Returns:
            For each name (N,) epoch seconds, ascending, and (N,) values as they were written, NaN included. Where there
            are several nodes, names are "algo-2/gpu0".
        """
        found = {}
        for (node, metric), (times, values) in sorted(self._samples.get(dimension, {}).items()):
            if name in (None, metric):
                key = f"{node}/{metric}" if len(self._nodes) > 1 else metric
                found[key] = _in_order(np.array(times), np.array(values))
        return found

    def steps(self) -> tuple[Times, Values, list[str]]:
        """Start (epoch seconds, ascending), duration (seconds) and mode of every step in the trace: (N,) each.

        A long training's trace holds every second, fourth ... step only; step_totals() counts all.
        """
        steps = sorted(step for timeline in self._timelines.values() for step in timeline.steps)
        starts, durations, modes = zip(*steps, strict=True) if steps else ((), (), ())
        return np.array(starts, dtype=np.float64), np.array(durations, dtype=np.float64), list(modes)

    def step_totals(self) -> dict[str, tuple[int, float]]:
        """{mode: (number of steps, seconds)} of all steps, whether the trace holds them or not."""
        totals: dict[str, tuple[int, float]] = {}
        for mode in MODES:
            parts = [timeline.step_total(mode) for timeline in self._timelines.values()]
            count = sum(steps for steps, _ in parts)
            if count:
                totals[mode] = count, sum(seconds for _, seconds in parts)
        return totals

    def phases(self) -> dict[str, float]:
        """Total seconds of every phase that occurred, in the order of a step."""
        totals: dict[str, float] = {}
        for timeline in self._timelines.values():
            for phase, seconds in timeline.phase_totals().items():
                totals[phase] = totals.get(phase, 0.0) + seconds
        return totals

    def measured(self) -> dict[str, str]:
        """What the system metrics are figures of, one sentence a resource; empty where nobody wrote it."""
        try:
            sentences = json.loads((self._dir / "measured.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in sentences.items()} if isinstance(sentences, dict) else {}

    def _new_files(self, root: Path, pattern: str) -> Iterator[Path]:
        """Files below a folder and its hours that may have grown, oldest first."""
        hours = sorted(path for path in root.glob("*") if path.is_dir())
        for folder in (root, *(hour for hour in hours if hour not in self._done)):
            files = sorted(path for path in folder.glob(pattern) if path not in self._done)
            yield from files
            self._done.update(files[:-FILES_STILL_READ])
        self._done.update(hours[:-HOURS_STILL_READ])

    def _new_lines(self, path: Path) -> Iterator[str]:
        """Whole lines that have not been read yet."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                key = status.st_dev, status.st_ino
                file.seek(self._offsets.get(key, 0))
                content = file.read()
        except FileNotFoundError:  # it was closed and renamed meanwhile; the next refresh finds it
            return
        end = content.rfind(b"\n") + 1
        self._offsets[key] = self._offsets.get(key, 0) + end
        yield from content[:end].decode("utf-8", errors="replace").splitlines()

    def _add_sample(self, line: str) -> None:
        try:
            row = json.loads(line)
            metric, node = str(row.get("Name") or row["Type"]), str(row["NodeId"])
            dimension = str(row["Dimension"] or metric)
            time, value = float(row["Timestamp"]), float(row["Value"])
            known = isinstance(dimension, str) and isinstance(metric, str) and isinstance(node, str)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            known = False
        if not known:
            self.skipped_lines += 1
            return
        self._nodes.add(node)
        series = self._samples.setdefault(dimension, {})
        times, values = series.setdefault((node, metric), (array("d"), array("d")))
        times.append(time)
        values.append(value)

    def _add_event(self, timeline: TimelineTrace, line: str) -> None:
        try:
            timeline.add(line)
        except ValueError:
            self.skipped_lines += 1


def _in_order(times: Times, values: Values) -> tuple[Times, Values]:
    """By time; figures come in that order unless the clock was set back."""
    if np.all(times[1:] >= times[:-1]):
        return times, values
    order = np.argsort(times, kind="stable")
    return times[order], values[order]
