"""The section on the machine: utilisation over time, of several devices as mean, busiest and least busy."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watch.read.profile_figures import Samples
from watch.read.run import Record
from watch.read.values import text
from watch.report.charts import Chart, Line, chart
from watch.report.page import counted

TIME_BINS = 240  # over the whole run
RESOURCES = ("cpu", "memory", "i/o", "network", "gpu")  # of which the profile says what its figures mean
UNITS = ((3 * 3600.0, 3600.0, "hours"), (5 * 60.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
Values = Sequence[float]


@dataclass(frozen=True)
class Quantity:
    """One curve of a machine chart: which samples, how several devices become one value, in which unit."""

    label: str
    name: str  # as in Profile.samples
    combine: Callable[[Values], float]


@dataclass(frozen=True)
class MachineChart:
    """A chart of the section on the machine."""

    title: str
    y_label: str  # {unit} stands for the multiple of a byte that fits
    quantities: tuple[Quantity, ...]
    y_limits: tuple[float, ...] = ()


PERCENT = (0.0, 100.0)
MACHINE = (
    MachineChart(
        "Processor",
        "utilisation (%)",
        (
            Quantity("mean of all cores", "CPUUtilization", statistics.fmean),
            Quantity("busiest core", "CPUUtilization", max),
            Quantity("waiting for disk", "I/OWaitPercentage", statistics.fmean),
        ),
        PERCENT,
    ),
    MachineChart("Memory", "used (%)", (Quantity("memory", "MemoryUsedPercent", max),), PERCENT),
    MachineChart(
        "GPU",
        "utilisation (%)",
        (
            Quantity("mean of all GPUs", "GPUUtilization", statistics.fmean),
            Quantity("least busy GPU", "GPUUtilization", min),
        ),
        PERCENT,
    ),
    MachineChart("GPU memory", "used (%)", (Quantity("fullest GPU", "GPUMemoryUtilization", max),), PERCENT),
    MachineChart(
        "Disk",
        "throughput ({unit}/s)",
        (
            Quantity("read", "ReadThroughputInBytesPerSecond", sum),
            Quantity("written", "WriteThroughputInBytesPerSecond", sum),
        ),
        (0.0,),
    ),
    MachineChart(
        "Network",
        "throughput ({unit}/s)",
        (
            Quantity("received", "ReceiveBytesPerSecond", sum),
            Quantity("sent", "TransmitBytesPerSecond", sum),
        ),
        (0.0,),
    ),
    MachineChart(
        "Training process: processor",
        "processor time (% of one core)",
        (Quantity("training process", "ProcessCPUUtilization", sum),),
        (0.0,),
    ),
    MachineChart(
        "Training process: memory",
        "memory ({unit})",
        (Quantity("training process", "ProcessMemoryBytes", sum),),
        (0.0,),
    ),
)


def machine(record: Record) -> dict[str, Any]:
    """Utilisation over time."""
    samples = record.profile.samples
    times = [time for found in samples.values() for one in found.values() for time in one.times]
    if not times:
        return {"machine": [], "machine_words": ""}
    clock = Clock(min(times), max(times))
    charts = [_machine_chart(wanted, samples, clock) for wanted in MACHINE]
    cores, gpus = len(samples.get("CPUUtilization", {})), len(samples.get("GPUUtilization", {}))
    words = [f"{counted(cores, 'processor core')}, {counted(gpus, 'GPU') if gpus else 'no GPU'}."]
    words += [text(record.profile.measured.get(resource)) for resource in RESOURCES]
    return {"machine": [chart(found) for found in charts if found], "machine_words": " ".join(filter(None, words))}


class Clock:
    """Time since the start in a unit that fits, in equal bins."""

    def __init__(self, start: float, end: float) -> None:
        length = end - start
        self.start = start
        self.bin_seconds = max(length / TIME_BINS, 1e-3)
        self.unit_seconds, self.unit = next((size, name) for least, size, name in UNITS if length >= least)

    def bins(self, times: Values, values: Values) -> dict[int, float]:
        """The mean value in each bin that has any."""
        totals: dict[int, float] = defaultdict(float)
        places = [int((time - self.start) / self.bin_seconds) for time in times]
        for place, value in zip(places, values, strict=True):
            totals[place] += value
        counts = Counter(places)
        return {place: total / counts[place] for place, total in totals.items()}

    def at(self, number: int) -> float:
        """A bin's place on the axis."""
        return number * self.bin_seconds / self.unit_seconds


def _machine_chart(wanted: MachineChart, found: Mapping[str, Mapping[str, Samples]], clock: Clock) -> Chart | None:
    lines: list[Line] = []
    drawn: set[str] = set()
    for quantity in wanted.quantities:
        devices = list(found.get(quantity.name, {}).values())
        if len(devices) > 1 or (devices and quantity.name not in drawn):  # the busiest of one core is that core
            lines.append(combined(quantity, devices, clock))
            drawn.add(quantity.name)
    if not lines:
        return None
    size, unit = BYTE_UNITS[-1] if "{unit}" not in wanted.y_label else byte_unit(lines)
    scaled = [Line(line.name, line.x, [None if y is None else y / size for y in line.y]) for line in lines]
    return Chart(
        title=wanted.title,
        x_label=f"time since the start ({clock.unit})",
        y_label=wanted.y_label.replace("{unit}", unit),
        lines=scaled,
        y_limits=wanted.y_limits,
        log_y=False,
    )


def byte_unit(lines: Sequence[Line]) -> tuple[float, str]:
    """The multiple of a byte in which the largest value is at least 1."""
    largest = max((y for line in lines for y in line.y if y is not None), default=0.0)
    return next((unit for unit in BYTE_UNITS if largest >= unit[0]), BYTE_UNITS[-1])


def combined(quantity: Quantity, devices: Sequence[Samples], clock: Clock) -> Line:
    """One curve of several devices."""
    binned = [clock.bins(samples.times, samples.values) for samples in devices]
    numbers = sorted(set().union(*binned))
    y = [quantity.combine([one[n] for one in binned if n in one]) for n in numbers]
    return Line(quantity.label, [clock.at(n) for n in numbers], y)
