"""What the machine is doing right now: CPU, memory, disk, network, GPUs and the training process.

The rows carry the names that SageMaker's own profiler writes (AWS guide, "debugger-configure-system-monitoring"; the
names are those in the output of smdebug's PandasFrame on a profiled job): cpu0 CPUUtilization and I/OWaitPercentage,
MemoryUsedPercent, IOPS, ReadThroughputInBytesPerSecond, WriteThroughputInBytesPerSecond, ReceiveBytesPerSecond,
TransmitBytesPerSecond, gpu0 GPUUtilization and GPUMemoryUtilization. Rows of type "process" are ours: the training
process alone.

A container sees its host's /proc. So the CPU figures are those of the host's cores that this process may run on, and
disk and network those of every disk and interface visible here, whoever uses them; memory is counted against the
container's limit where one is set. `measured()` says in words which it is.
"""

import contextlib
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from watch.collect.gpu import Gpus

CGROUP_MEMORY = (  # version 2 and version 1: (limit, use, the line of the statistics that is page cache)
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)
CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
GIB = 2**30
WORKER_SCAN_SECONDS = 5.0  # listing child processes reads every process's /proc entry
NOT_A_WORKER = ("resource_tracker", "watch.collect.observer")  # children of a training process that load no data


class Row(NamedTuple):
    """One figure: `type` is the resource, `name` the device (or the metric, where there is one device only)."""

    type: str
    name: str
    dimension: str
    value: float


class SystemMetrics:
    """Reads the machine's counters; every rate covers the time since the call before.

    Args:
        pid: The training process, if its own use is wanted.
    """

    def __init__(self, *, pid: int | None = None) -> None:
        self.gpus = Gpus()
        self._process = _process(pid)
        self._memory = _cgroup_memory()
        self._counters: dict[str, tuple[float, float]] = {}  # counter -> (seconds, value) when it was last read
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self._workers_counted = math.inf
        self.read()  # rates need a beginning
        self._workers_counted = -math.inf

    def read(self) -> list[Row]:
        """All rows of this moment. What the machine does not tell has no row."""
        rows = self._cpu() + self._memory_rows() + self._io() + self._gpu()
        return rows + (self._training() if self._process else [])

    def measured(self) -> dict[str, str]:
        """What the figures are figures of, one sentence a resource."""
        cores = f"{len(self._cores)} of the machine's" if self._cores else "all"
        quota = _cpu_quota()
        limit = f" A quota of {quota:g} cores applies to them together." if quota else ""
        total = self._memory[0] / GIB if self._memory else psutil.virtual_memory().total / GIB
        memory = f"the container's limit of {total:.1f} GiB" if self._memory else f"the machine's {total:.1f} GiB"
        gpus = f"{len(self.gpus)} GPUs." if len(self.gpus) else f"No GPU: {self.gpus.trouble}."
        return {
            "cpu": f"Busy time of {cores} {psutil.cpu_count()} cores, whoever uses them.{limit}",
            "memory": f"Memory in use, without page cache, of {memory}.",
            "i/o": "Every disk visible here, whoever uses it.",
            "network": "Every interface but loopback, whoever uses it.",
            "gpu": gpus,
        }

    def close(self) -> None:
        self.gpus.close()

    def _cpu(self) -> list[Row]:
        rows = []
        for core, share in enumerate(psutil.cpu_times_percent(percpu=True)):
            if self._cores is None or core in self._cores:
                waiting = getattr(share, "iowait", 0.0)
                busy = max(0.0, 100 - share.idle - waiting)
                rows.append(Row("cpu", f"cpu{core}", "CPUUtilization", busy))
                rows.append(Row("cpu", f"cpu{core}", "I/OWaitPercentage", waiting))
        return rows

    def _memory_rows(self) -> list[Row]:
        percent = psutil.virtual_memory().percent
        if self._memory:
            limit, usage, cache_line = self._memory
            percent = 100 * _used(usage, cache_line) / limit
        return [Row("memory", "MemoryUsedPercent", "", percent)]

    def _io(self) -> list[Row]:
        rows = []
        disk = psutil.disk_io_counters()
        if disk is not None:
            rows.append(self._rate("i/o", "IOPS", "", disk.read_count + disk.write_count))
            rows.append(self._rate("i/o", "ReadThroughputInBytesPerSecond", "", disk.read_bytes))
            rows.append(self._rate("i/o", "WriteThroughputInBytesPerSecond", "", disk.write_bytes))
        interfaces = [counters for name, counters in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        received, sent = sum(nic.bytes_recv for nic in interfaces), sum(nic.bytes_sent for nic in interfaces)
        rows.append(self._rate("network", "ReceiveBytesPerSecond", "Algorithm", received))
        rows.append(self._rate("network", "TransmitBytesPerSecond", "Algorithm", sent))
        return rows

    def _gpu(self) -> list[Row]:
        rows = []
        for index, utilization, memory in self.gpus.sample() if len(self.gpus) else []:
            rows.append(Row("gpu", f"gpu{index}", "GPUUtilization", utilization))
            rows.append(Row("gpu", f"gpu{index}", "GPUMemoryUtilization", memory))
        return rows

    def _training(self) -> list[Row]:
        assert self._process is not None
        try:
            with self._process.oneshot():
                rows = [
                    Row("process", "training", "ProcessCPUUtilization", self._process.cpu_percent()),
                    Row("process", "training", "ProcessMemoryBytes", float(self._process.memory_info().rss)),
                ]
            if time.monotonic() - self._workers_counted >= WORKER_SCAN_SECONDS:
                self._workers_counted = time.monotonic()
                rows.append(Row("process", "training", "ProcessWorkers", float(_workers(self._process))))
        except psutil.Error:  # it has ended
            self._process = None
            return []
        return rows

    def _rate(self, type_: str, name: str, dimension: str, count: float) -> Row:
        now = time.monotonic()
        before, value = self._counters.get(name, (now, count))
        self._counters[name] = (now, count)
        seconds = now - before
        return Row(type_, name, dimension, max(0.0, count - value) / seconds if seconds > 0 else 0.0)


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return psutil.Process(pid) if pid is not None else None
    except psutil.NoSuchProcess:
        return None


def _workers(process: psutil.Process) -> int:
    """How many child processes load data: all but Python's resource tracker and the observer."""
    count = 0
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            command = " ".join(child.cmdline())
            count += not any(word in command for word in NOT_A_WORKER)
    return count


def _cgroup_memory() -> tuple[int, Path, str] | None:
    """(limit in bytes, file with the bytes in use, name of its cache line) of a container that has a limit."""
    for limit_file, usage_file, cache_line in CGROUP_MEMORY:
        text = _text(limit_file)
        if text.isdigit() and int(text) < psutil.virtual_memory().total:
            return int(text), usage_file, cache_line
    return None


def _used(usage_file: Path, cache_line: str) -> int:
    """Bytes that the container uses less the file cache it can give back, as `docker stats` counts."""
    used = int(_text(usage_file) or 0)
    for line in _text(usage_file.with_name("memory.stat")).splitlines():
        name, _, value = line.partition(" ")
        if name == cache_line:
            return max(0, used - int(value))
    return used


def _cpu_quota() -> float | None:
    quota, _, period = _text(CGROUP_CPU_MAX).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
