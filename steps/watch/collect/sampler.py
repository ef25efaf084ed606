"""Samples the machine in a thread and writes what it finds in the layout of SageMaker's system metrics.

`<profile>/system/incremental/<YYYYMMDDHH>/<epoch seconds at full minute>.<node>.json` holds one JSON object a line, one
file a minute, in UTC (AWS guide, "debugger-analyze-data"; smdebug's LocalSystemMetricsReader reads it). Rows carry the
names of SageMaker's own profiler (AWS guide, "debugger-configure-system-monitoring"; smdebug's PandasFrame); those of
type "process" are ours: the training process alone. A file grows by whole lines only.

A container sees its host's /proc. So CPU figures are those of the host's cores that this process may run on, and disk
and network those of every disk and interface visible here; memory is counted against the container's limit where one
is set. `<profile>/measured.json` says in words which it is.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from watch.files import LineFile

FULL_RATE_BYTES = 8_000_000  # after so much has been written, and again after as much, samples are taken half as often
SLOWEST_SECONDS, SHORTEST_SECONDS = 60.0, 0.05  # between two samples; a last one over less says nothing
WORKER_SCAN_SECONDS = 5.0  # listing child processes reads every process's /proc entry
TROUBLE = (OSError, psutil.Error, RuntimeError, ValueError)  # psutil raises the last two for a /proc it cannot read
CGROUP = Path("/sys/fs/cgroup")
CGROUP_MEMORY = (  # version 2 and version 1: limit, use, the line of memory.stat that is page cache
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
NOT_A_WORKER = ("resource_tracker", "watch.collect.observer")  # children of a training process that load no data
Row = tuple[str, str, str, float]  # type (the resource), name (the device or metric), dimension, value


class SystemSampler:
    """Writes the machine's figures every `interval_ms`, and those of the process `pid`, from start() to stop().

    A long run slows it down, so that the whole stays small. Whatever goes wrong is said once, on standard error, and
    sampling goes on: a disk that was full may have room again.
    """

    def __init__(self, profile_dir: Path, *, node: str, interval_ms: int, pid: int | None = None) -> None:
        self._dir, self._node, self._pid, self._interval_seconds = profile_dir, node, pid, max(10, interval_ms) / 1000
        self._written_bytes = 0
        self._said: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-sampler", daemon=True)

    def start(self) -> None:
        """Begin; the first sample is written one interval later."""
        self._thread.start()

    def stop(self) -> None:
        """Write a last sample and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            machine = Machine(self._pid)
        except TROUBLE as error:
            self._say(error, "there are no system metrics")
            return
        taken = due = time.monotonic()
        while not self._stopping.is_set():
            slowed = self._interval_seconds * 2 ** min(20, self._written_bytes // FULL_RATE_BYTES)
            due = max(due + max(self._interval_seconds, min(slowed, SLOWEST_SECONDS)), time.monotonic())
            self._stopping.wait(due - time.monotonic())
            if time.monotonic() - taken >= SHORTEST_SECONDS or not self._stopping.is_set():
                taken = time.monotonic()
                try:
                    self._sample(machine)
                except TROUBLE as error:
                    self._say(error, "system metrics have a gap")

    def _sample(self, machine: "Machine") -> None:
        rows, now = list(machine.rows()), time.time()
        names = ("Type", "Name", "Dimension", "Value", "NodeId", "Timestamp")
        found = [(*row[:3], round(row[3], 2), self._node, round(now, 6)) for row in rows]
        lines = "".join(f"{json.dumps(dict(zip(names, row, strict=True)), separators=(',', ':'))}\n" for row in found)
        minute = int(now) // 60 * 60
        hour = time.strftime("%Y%m%d%H", time.gmtime(minute))
        path = self._dir / "system" / "incremental" / hour / f"{minute}.{self._node}.json"
        with contextlib.closing(LineFile(path)) as file:
            file.append(lines)
        if not self._written_bytes:
            (self._dir / "measured.json").write_text(json.dumps(machine.measured(), indent=1), encoding="utf-8")
        self._written_bytes += len(lines)

    def _say(self, error: Exception, effect: str) -> None:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if reason not in self._said:
            self._said.add(reason)
            why = f"since they could not be read or written ({reason})"
            print(f"Profiler: {effect}, {why}.", file=sys.stderr, flush=True)


class Machine:
    """Reads the machine's counters; every rate covers the time since the call before."""

    def __init__(self, pid: int | None = None) -> None:
        self.gpus = Gpus()
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process = psutil.Process(pid) if pid is not None else None
        self._counted: dict[str, tuple[float, float]] = {}  # counter -> (seconds, value) when it was last read
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._workers_counted = time.monotonic()
        self._total = psutil.virtual_memory().total
        self._limited: tuple[str, str] | None = None  # where the container's use stands, if it has a limit
        for name, used, line in CGROUP_MEMORY:
            if (limit := _text(CGROUP / name)).isdigit() and int(limit) < self._total:
                self._total, self._limited = int(limit), (used, line)
        list(self.rows())  # rates need a beginning
        self._workers_counted -= WORKER_SCAN_SECONDS

    def rows(self) -> Iterator[Row]:
        """All rows of this moment. What the machine does not tell has no row."""
        for core, share in enumerate(psutil.cpu_times_percent(percpu=True)):
            if self._cores is None or core in self._cores:
                waiting = getattr(share, "iowait", 0.0)
                yield "cpu", f"cpu{core}", "CPUUtilization", max(0.0, 100 - share.idle - waiting)
                yield "cpu", f"cpu{core}", "I/OWaitPercentage", waiting
        used = 100 * self._used(*self._limited) / self._total if self._limited else psutil.virtual_memory().percent
        yield "memory", "MemoryUsedPercent", "", used
        for type_, name, dimension, count in self._counters():
            now = time.monotonic()
            before, value = self._counted.get(name, (now, count))
            self._counted[name] = (now, count)
            yield type_, name, dimension, max(0.0, count - value) / (now - before) if now > before else 0.0
        for index, utilization, memory in self.gpus.sample():
            yield "gpu", f"gpu{index}", "GPUUtilization", utilization
            yield "gpu", f"gpu{index}", "GPUMemoryUtilization", memory
        if self._process is not None:
            try:
                yield from self._training(self._process)
            except psutil.Error:  # it has ended
                self._process = None

    def measured(self) -> dict[str, str]:
        """What the figures are figures of, one sentence a resource."""
        cores = f"{len(self._cores)} of the machine's" if self._cores else "all"
        quota, _, period = _text(CGROUP / "cpu.max").partition(" ")
        limited = f" A quota of {int(quota) / int(period):g} cores applies to them together." if quota.isdigit() else ""
        whose = "container's limit of" if self._limited else "machine's"
        return {
            "cpu": f"Busy time of {cores} {psutil.cpu_count()} cores, whoever uses them.{limited}",
            "memory": f"Memory in use, without page cache, of the {whose} {self._total / 2**30:.1f} GiB.",
            "i/o": "Every disk visible here, whoever uses it.",
            "network": "Every interface but loopback, whoever uses it.",
            "gpu": f"No GPU: {self.gpus.trouble}." if self.gpus.trouble else f"{len(self.gpus.handles)} GPUs.",
        }

    @staticmethod
    def _counters() -> Iterator[Row]:
        if (disk := psutil.disk_io_counters()) is not None:
            yield "i/o", "IOPS", "", disk.read_count + disk.write_count
            yield "i/o", "ReadThroughputInBytesPerSecond", "", disk.read_bytes
            yield "i/o", "WriteThroughputInBytesPerSecond", "", disk.write_bytes
        network = [counters for name, counters in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        yield "network", "ReceiveBytesPerSecond", "Algorithm", sum(one.bytes_recv for one in network)
        yield "network", "TransmitBytesPerSecond", "Algorithm", sum(one.bytes_sent for one in network)

    def _training(self, process: psutil.Process) -> Iterator[Row]:
        yield "process", "training", "ProcessCPUUtilization", process.cpu_percent()
        yield "process", "training", "ProcessMemoryBytes", float(process.memory_info().rss)
        if time.monotonic() - self._workers_counted >= WORKER_SCAN_SECONDS:
            self._workers_counted, workers = time.monotonic(), 0
            for child in process.children():
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    workers += not any(word in " ".join(child.cmdline()) for word in NOT_A_WORKER)
            yield "process", "training", "ProcessWorkers", float(workers)

    @staticmethod
    def _used(name: str, cache: str) -> int:
        """Bytes that the container uses less the file cache it can give back, as `docker stats` counts."""
        statistics = dict(line.split(" ", 1) for line in _text((CGROUP / name).with_name("memory.stat")).splitlines())
        return max(0, int(_text(CGROUP / name) or 0) - int(statistics.get(cache, 0)))


class Gpus:
    """The GPUs that this process may use, read through NVML; a machine without any is no error.

    Which those are is taken from CUDA_VISIBLE_DEVICES where it lists numbers, read in PCI order as NVML counts them.
    """

    def __init__(self) -> None:
        self.handles: dict[int, Any] = {}
        self.trouble: str | None = "the package nvidia-ml-py is not installed"  # None while there are figures
        try:
            import pynvml
        except ImportError:
            return
        self._nvml: Any = pynvml
        chosen = [number.strip() for number in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",")]
        named = chosen not in ([""], ["-1"]) and not all(number.isdigit() for number in chosen)
        try:
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                if named or str(index) in chosen:  # NVML does not count GPUs by what else may name them
                    self.handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
            self.trouble = None if self.handles else "no GPU is visible to this process"
        except pynvml.NVMLError as error:
            self.trouble = f"NVML says: {error}"

    def sample(self) -> list[tuple[int, float, float]]:
        """(index, percent of the time in which a kernel ran, percent of the memory in use) of each GPU.

        The first covers NVML's own last sampling period, a sixth of a second to a second. Empty once NVML has failed.
        """
        found = []
        try:
            for index, handle in self.handles.items() if self.trouble is None else ():
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                busy = float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
                found.append((index, busy, 100 * memory.used / memory.total))
        except self._nvml.NVMLError as error:
            self.trouble, found = f"NVML says: {error}", []
        return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
