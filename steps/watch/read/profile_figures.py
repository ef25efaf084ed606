"""The profile of a training that has ended, all at once: what the machine did, its steps and their phases."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watch.read.profile import ProfileReader

DIMENSIONS = (
    "CPUUtilization",
    "I/OWaitPercentage",
    "MemoryUsedPercent",
    "GPUUtilization",
    "GPUMemoryUtilization",
    "ReadThroughputInBytesPerSecond",
    "WriteThroughputInBytesPerSecond",
    "ProcessCPUUtilization",
    "ProcessMemoryBytes",
)
NETWORK = "Algorithm"  # the dimension of both directions, as SageMaker's profiler calls it; their names tell them apart
DIRECTIONS = ("ReceiveBytesPerSecond", "TransmitBytesPerSecond")


@dataclass(frozen=True)
class Samples:
    """One quantity of one device over time; finite, and at least one."""

    times: list[float]  # epoch seconds
    values: list[float]


@dataclass(frozen=True)
class Profile:
    """What was measured; empty where nothing was."""

    samples: Mapping[str, Mapping[str, Samples]]  # by quantity (dimension, or direction of the network) and device
    steps: tuple[
        tuple[float, float, str], ...
    ]  # start (epoch seconds), duration (seconds) and mode of those in the trace
    step_totals: Mapping[str, tuple[int, float]]  # by mode: number and seconds of all steps
    phases: Mapping[str, float]  # seconds
    measured: Mapping[str, str]  # what the figures are figures of, by resource
    missing: tuple[str, ...]  # sentences


def read_profile(folder: Path) -> Profile:
    """Read everything that is there; lines that cannot be read are counted."""
    reader, missing = ProfileReader(folder), []
    try:
        reader.refresh()
    except OSError as error:
        missing.append(f"The profile cannot be read ({error.strerror or type(error).__name__}).")
    samples = {dimension: _samples(reader, dimension) for dimension in DIMENSIONS}
    samples |= {direction: _samples(reader, NETWORK, direction) for direction in DIRECTIONS}
    samples = {quantity: found for quantity, found in samples.items() if found}
    starts, durations, modes = reader.steps()
    steps = [
        (start, duration, mode)
        for start, duration, mode in zip(starts.tolist(), durations.tolist(), modes, strict=True)
        if math.isfinite(start) and math.isfinite(duration)
    ]
    if not samples:
        missing.append("The profile holds no system metrics, so the machine's utilisation is not known.")
    if not steps:
        missing.append("The profile holds no step times, so where a step's time goes is not known.")
    if reader.skipped_lines:
        missing.append(f"{reader.skipped_lines:,} lines of the profile could not be read and are left out.")
    return Profile(
        samples=samples,
        steps=tuple(steps),
        step_totals=reader.step_totals(),
        phases=reader.phases(),
        measured=reader.measured(),
        missing=tuple(missing),
    )


def _samples(reader: ProfileReader, dimension: str, name: str | None = None) -> dict[str, Samples]:
    found = {}
    for device, (times, values) in reader.samples(dimension, name).items():
        pairs = [
            (time, value)
            for time, value in zip(times.tolist(), values.tolist(), strict=True)
            if math.isfinite(time) and math.isfinite(value)
        ]
        if pairs:
            found[device] = Samples([time for time, _ in pairs], [value for _, value in pairs])
    return found
