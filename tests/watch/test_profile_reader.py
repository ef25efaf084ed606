"""The reader follows files as they grow, and takes what other writers of the same layout left, whole or damaged."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_output as made

from watch.collect.timeline import StepTimeline
from watch.read.profile import ProfileReader

HOUR, MINUTE = "2020060309", 1591160640
TIMELINE = "framework/pevents/2026092114/1790000011000000_42-algo-1_pythontimeline.json"


def line(value: float, at: float = MINUTE, *, name: str = "gpu0", node: str = "algo-1") -> str:
    """A row of the system metrics; names of GPUs have the dimension GPUUtilization, others none."""
    dimension = "GPUUtilization" if name.startswith("gpu") else ""
    row = {"Type": name[:3], "Name": name, "Dimension": dimension, "Value": value, "NodeId": node, "Timestamp": at}
    return json.dumps(row) + "\n"


def system_file(profile_dir: Path, *folders: str, minute: int = MINUTE, node: str = "algo-1") -> Path:
    path = profile_dir.joinpath("system", "incremental", *folders, f"{minute}.{node}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def values(reader: ProfileReader, dimension: str = "GPUUtilization") -> dict[str, list[float]]:
    reader.refresh()
    return {name: found.tolist() for name, (_, found) in reader.samples(dimension).items()}


def test_a_folder_that_does_not_exist_yet_holds_nothing(tmp_path: Path) -> None:
    reader = ProfileReader(tmp_path / "profile")
    assert values(reader) == {}
    assert (reader.timed_steps(), reader.phases(), reader.step_totals(), reader.measured()) == ({}, {}, {}, {})
    assert len(list(reader.missing())) == 2


def test_what_is_new_is_read_once_and_a_half_written_line_once_it_is_whole(tmp_path: Path) -> None:
    reader, path = ProfileReader(tmp_path), system_file(tmp_path, HOUR)
    path.write_text(line(1) + line(2, MINUTE + 0.5)[:30])
    assert values(reader) == {"gpu0": [1]}
    path.write_text(line(1) + line(2, MINUTE + 0.5))
    system_file(tmp_path, HOUR, minute=MINUTE + 60).write_text(line(3, MINUTE + 60))
    assert values(reader) == values(reader) == {"gpu0": [1, 2, 3]}
    assert reader.samples("GPUUtilization")["gpu0"][0].tolist() == [MINUTE, MINUTE + 0.5, MINUTE + 60]
    assert not any("left out" in sentence for sentence in reader.missing())


def test_many_hours_are_read_to_the_end_and_files_of_2020_stand_beside_them(tmp_path: Path) -> None:
    system_file(tmp_path, minute=MINUTE - 60).write_text(line(9, MINUTE - 60))
    reader = ProfileReader(tmp_path)
    for hour in range(5):
        for minute in range(6):
            at = MINUTE + 3600 * hour + 60 * minute
            system_file(tmp_path, f"202006030{hour}", minute=at).write_text(line(minute, at))
            reader.refresh()
    assert values(reader) == {"gpu0": [9, *[0, 1, 2, 3, 4, 5] * 5]}


def test_names_dimensions_nodes_and_order(tmp_path: Path) -> None:
    """The clock was set back, a value is no number, and a metric without a dimension goes by its name."""
    rows = line(1, MINUTE + 9) + line(math.nan) + line(2, MINUTE + 5)
    rows += line(12, name="MemoryUsedPercent") + line(3, name="gpu1")
    system_file(tmp_path, HOUR).write_text(rows)
    reader = ProfileReader(tmp_path)
    assert values(reader) == {"gpu0": [2, 1], "gpu1": [3]}
    assert values(reader, "MemoryUsedPercent") == {"MemoryUsedPercent": [12]}
    system_file(tmp_path, HOUR, node="algo-2").write_text(line(2, node="algo-2"))
    assert set(values(reader)) == {"algo-1/gpu0", "algo-1/gpu1", "algo-2/gpu0"}


def test_a_timeline_is_read_once_though_its_file_is_renamed(tmp_path: Path) -> None:
    timeline, reader = StepTimeline(tmp_path, node="algo-1"), ProfileReader(tmp_path)
    for _ in range(3):
        with timeline.step("TRAIN"), timeline.phase("Forward"):
            pass
        timeline.write()
        reader.refresh()
    timeline.close()
    reader.refresh()
    assert (reader.timed_steps()["TRAIN"].shape, reader.step_totals()["TRAIN"][0]) == ((3, 3), 3)
    assert not any("left out" in sentence for sentence in reader.missing())


def test_a_timeline_of_another_writer_has_no_totals_but_events(tmp_path: Path) -> None:
    """As smdebug's: a process's start, then events that are relative to it; cut off within the last one."""
    path = tmp_path / "framework" / "pevents" / HOUR / "1591160700000000_0001-algo-1_pythontimeline.json"
    path.parent.mkdir(parents=True)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros": 1_000_000}},
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "Step:ModeKeys.TRAIN"}},
        {"name": "Step:ModeKeys.TRAIN", "ph": "X", "pid": 1, "ts": 500_000, "dur": 40_000, "args": {"step_num": "0"}},
        {"name": "Forward-node-Net", "ph": "X", "pid": 2, "ts": 500_000, "dur": 10_000},
        {"name": "Forward-node-Net", "ph": "X", "pid": 2, "ts": 520_000, "dur": 5_000},
        {"name": "Step:ModeKeys.EVAL", "ph": "X", "pid": 3, "ts": 600_000, "dur": 20_000},
    ]
    path.write_text("[\n" + ",\n".join(map(json.dumps, events)) + ',\n{"name": "Forward-no')
    reader = ProfileReader(tmp_path)
    reader.refresh()
    found = {mode: steps.tolist() for mode, steps in reader.timed_steps().items()}
    assert found == {"TRAIN": [[1.5], [0.04], [0]], "EVAL": [[1.6], [0.02], [0]]}
    assert reader.phases() == {"Forward": 0.015}
    assert reader.step_totals() == {"TRAIN": (1, 0.04), "EVAL": (1, 0.02)}


def test_a_whole_profile_is_read_at_once(tmp_path: Path) -> None:
    reader = ProfileReader(made.write_output(tmp_path) / "profile")
    reader.refresh()
    times, found = reader.samples("CPUUtilization")["cpu0"]
    assert (times[0], times[-1], len(found)) == (made.START, made.START + 11, 23)
    assert all(map(reader.samples, ("TransmitBytesPerSecond", "ReadThroughputInBytesPerSecond", "ProcessMemoryBytes")))
    starts, seconds, _ = reader.timed_steps()["TRAIN"]
    assert (starts[0], len(starts)) == (made.START, made.STEPS)
    assert made.STEP_SECONDS <= seconds[0] <= 1.2 * made.STEP_SECONDS
    count, total = reader.step_totals()["TRAIN"]
    assert (count, list(reader.missing())) == (made.STEPS, [])
    assert reader.phases()["Forward"] == pytest.approx(made.PHASES["Forward"] * total)


def test_lines_that_cannot_be_read_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    folder = made.write_output(tmp_path) / "profile"
    [path] = (folder / "system/incremental").glob("*/*.json")
    wrong = b'{"Type": "cpu", "Na\n[1]\n{}\n\xff\x00\xff\n' + line(10**400, name="cpu0").encode()
    path.write_bytes(path.read_bytes() + wrong)
    path.with_name("1.algo-1.json").mkdir()
    (folder / "measured.json").write_text('{"gpu"')
    for value in ("null", "1e999", '"x"', "[]"):
        events = [
            f'{{"name": "Step:ModeKeys.TRAIN", "ph": "X", "ts": {value}, "dur": 1}},',
            f'{{"name": "Forward", "ph": "X", "ts": 1, "dur": {value}}},',
            f'{{"name": "x", "ph": "C", "args": {value}}},',
            f'{{"name": "Step:ModeKeys.EVAL", "ph": "X", "ts": 1, "dur": 1, "args": {{"step_num": {value}}}}},',
        ]
        (folder / TIMELINE).write_text("[\n" + "\n".join(events) + "\n]\n")
        reader = ProfileReader(folder)
        reader.refresh()
        assert reader.timed_steps() == {}
        assert (reader.phases(), reader.measured()) == ({}, {})
        [(times, found)] = [samples for name, samples in reader.samples("CPUUtilization").items() if name == "cpu0"]
        assert (len(found), np.isfinite(found).all(), np.isfinite(times).all()) == (23, True, True)
        assert list(reader.missing())[-1] == "9 lines of the profile could not be read and are left out."
