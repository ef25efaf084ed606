"""The profile as a report reads it: SageMaker's layout, whole, cut off, or with lines that are none."""

import json
from pathlib import Path

import pytest
import training_output as made

from watch.read.profile_figures import read_profile

TIMELINE = "framework/pevents/2026092114/1790000011000000_42-algo-1_pythontimeline.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.write_output(tmp_path) / "profile"


def test_samples_are_read_by_quantity_and_device(folder: Path) -> None:
    profile = read_profile(folder)
    found = profile.samples["CPUUtilization"]["cpu0"]
    assert (found.times[0], found.times[-1], len(found.values)) == (made.START, made.START + 11, 23)
    assert set(profile.samples) == {
        "CPUUtilization", "I/OWaitPercentage", "MemoryUsedPercent", "ReadThroughputInBytesPerSecond",
        "WriteThroughputInBytesPerSecond", "ReceiveBytesPerSecond", "TransmitBytesPerSecond", "ProcessCPUUtilization",
        "ProcessMemoryBytes",
    }  # fmt: skip
    assert profile.missing == ()


def test_steps_and_phases_are_read_in_seconds(folder: Path) -> None:
    profile = read_profile(folder)
    start, duration, mode = profile.steps[0]
    assert (start, mode, len(profile.steps)) == (made.START, "TRAIN", made.STEPS + 1)
    assert made.STEP_SECONDS <= duration <= 1.2 * made.STEP_SECONDS
    count, seconds = profile.step_totals["TRAIN"]
    assert count == made.STEPS
    assert profile.phases["Forward"] == pytest.approx(made.PHASES["Forward"] * seconds)


def test_lines_that_cannot_be_read_are_counted_and_the_others_kept(folder: Path) -> None:
    [path] = (folder / "system/incremental").glob("*/*.json")
    damaged = '{"Type": "cpu", "Na\n[1]\n{"Type": "cpu", "Value": 1}\n' + json.dumps(
        {"Type": "cpu", "Name": "cpu0", "Dimension": "CPUUtilization", "NodeId": "a", "Timestamp": 1, "Value": 10**400}
    )
    path.write_bytes(path.read_bytes() + damaged.encode() + b"\n\xff\x00\xff\n")
    profile = read_profile(folder)
    assert len(profile.samples["CPUUtilization"]["cpu0"].values) == 23
    assert profile.missing == ("5 lines of the profile could not be read and are left out.",)


def test_values_that_are_no_numbers_are_left_out(folder: Path) -> None:
    [path] = (folder / "system/incremental").glob("*/*.json")
    path.write_text(
        path.read_text()
        .replace('"Value": 0.0', '"Value": NaN')
        .replace('"Dimension": "I/OWait', '"Value": NaN, "Dimension": "I/OWait')
    )
    profile = read_profile(folder)
    assert all(value == value for found in profile.samples.values() for one in found.values() for value in one.values)


def test_a_timeline_cut_off_within_an_event_keeps_the_events_before(folder: Path) -> None:
    content = (folder / TIMELINE).read_text()
    (folder / TIMELINE).write_text(content[:-40])
    assert len(read_profile(folder).steps) == made.STEPS + 1


@pytest.mark.parametrize("value", ["null", "1e999", '"x"', "[]", str(10**400)])
def test_events_without_a_time_are_left_out(folder: Path, value: str) -> None:
    events = [
        f'{{"name": "Step:ModeKeys.TRAIN", "ph": "X", "ts": {value}, "dur": 1}},',
        f'{{"name": "Forward", "ph": "X", "ts": 1, "dur": {value}}},',
        f'{{"name": "PhaseTotals", "ph": "C", "args": {{"Forward": {value}}}}},',
        f'{{"name": "x", "ph": "C", "args": {value}}},',
    ]
    (folder / TIMELINE).write_text("[\n" + "\n".join(events) + "\n]\n")
    profile = read_profile(folder)
    assert (profile.steps, dict(profile.phases)) == ((), {})
    assert profile.missing[-1] == "4 lines of the profile could not be read and are left out."


def test_a_profile_that_is_not_there_is_empty(tmp_path: Path) -> None:
    profile = read_profile(tmp_path / "none")
    assert (profile.samples, profile.steps, profile.step_totals, profile.phases) == ({}, (), {}, {})
    assert len(profile.missing) == 2
