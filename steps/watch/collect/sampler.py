"""Samples the machine in a thread and writes what it finds in the layout of SageMaker's system metrics.

`<profile>/system/incremental/<YYYYMMDDHH>/<epoch seconds at full minute>.<node>.json` holds one JSON object a line, one
file a minute, in UTC (AWS guide, "debugger-analyze-data"; smdebug's LocalSystemMetricsReader reads it). A file grows by
whole lines only. `<profile>/measured.json` says in words what the figures are figures of.
"""

import json
import sys
import threading
import time
from pathlib import Path

import psutil

from watch.collect.machine import Row, SystemMetrics
from watch.files import LineFile

FULL_RATE_BYTES = 8_000_000  # after so much has been written, and again after as much, samples are taken half as often
SLOWEST_SECONDS = 60.0
SHORTEST_SECONDS = 0.05  # a last sample over less than this says nothing
TROUBLE = (OSError, psutil.Error, RuntimeError, ValueError)  # psutil raises the last two for a /proc it cannot read


class SystemSampler:
    """Writes the machine's figures every `interval_ms` until stopped.

    Many cores or a long run slow it down, so that the whole stays small. Whatever goes wrong is said once, on standard
    error, and sampling goes on: a disk that was full may have room again.

    Args:
        profile_dir: Where `system/` is made.
        node: "algo-1" and so on; part of the file names.
        interval_ms: At least 10.
        pid: The training process, if its own CPU and memory are wanted too.
    """

    def __init__(self, profile_dir: Path, *, node: str, interval_ms: int, pid: int | None = None) -> None:
        if interval_ms < 10:
            raise ValueError(f"interval_ms must be at least 10, but got {interval_ms}.")
        self._dir = profile_dir
        self._node = node
        self._interval_seconds = interval_ms / 1000
        self._pid = pid
        self._file: LineFile | None = None
        self._written_bytes = 0
        self._described = False
        self._said: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def start(self) -> None:
        """Begin; the first sample is written one interval later."""
        self._thread.start()

    def stop(self) -> None:
        """Write a last sample and end the thread. May be called more than once, and without start()."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        metrics = self._open_metrics()
        if metrics is None:
            return
        taken = due = time.monotonic()
        while not self._stopping.is_set():
            due = max(due + self._interval(), time.monotonic())
            self._stopping.wait(due - time.monotonic())
            if time.monotonic() - taken >= SHORTEST_SECONDS or not self._stopping.is_set():
                taken = time.monotonic()
                self._sample(metrics)
        metrics.close()
        if self._file:
            self._file.close()

    def _interval(self) -> float:
        slowed: float = self._interval_seconds * 2 ** min(20, self._written_bytes // FULL_RATE_BYTES)
        return max(self._interval_seconds, min(slowed, SLOWEST_SECONDS))

    def _open_metrics(self) -> SystemMetrics | None:
        """None where the machine cannot be read at all."""
        try:
            return SystemMetrics(pid=self._pid)
        except TROUBLE as error:
            self._say(error, "there are no system metrics")
            return None

    def _sample(self, metrics: SystemMetrics) -> None:
        try:
            rows = metrics.read()
            now = time.time()
            lines = "".join(_line(row, self._node, now) for row in rows)
            self._file_of(now).append(lines)
            self._written_bytes += len(lines)
            if not self._described:
                (self._dir / "measured.json").write_text(json.dumps(metrics.measured(), indent=1), encoding="utf-8")
                self._described = True
        except TROUBLE as error:
            self._say(error)

    def _file_of(self, now: float) -> LineFile:
        minute = int(now) // 60 * 60
        hour = time.strftime("%Y%m%d%H", time.gmtime(minute))
        path = self._dir / "system" / "incremental" / hour / f"{minute}.{self._node}.json"
        if self._file is None or self._file.path != path:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._file = LineFile(path)
        return self._file

    def _say(self, error: Exception, effect: str = "system metrics have a gap") -> None:
        """One line for each kind of trouble."""
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if reason not in self._said:
            self._said.add(reason)
            print(
                f"Profiler: {effect}, since they could not be read or written ({reason}).", file=sys.stderr, flush=True
            )


def _line(row: Row, node: str, now: float) -> str:
    """One row in SageMaker's form; Timestamp is float epoch seconds."""
    return (
        json.dumps(
            {
                "Type": row.type,
                "Name": row.name,
                "Dimension": row.dimension,
                "Value": round(row.value, 2),
                "NodeId": node,
                "Timestamp": round(now, 6),
            },
            separators=(",", ":"),
        )
        + "\n"
    )
