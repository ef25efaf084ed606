"""The reader follows files as they grow, and takes what other writers of the same layout left."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from watch.collect.timeline import StepTimeline
from watch.read.profile import ProfileReader

HOUR = "2020060309"
MINUTE = 1591160640


def line(value: float, at: float, *, name: str = "gpu0", node: str = "algo-1") -> str:
    """A row of the system metrics; names of GPUs have the dimension GPUUtilization, others none."""
    dimension = "GPUUtilization" if name.startswith("gpu") else ""
    row = {"Type": name[:3], "Name": name, "Dimension": dimension, "Value": value, "NodeId": node, "Timestamp": at}
    return json.dumps(row) + "\n"


def system_file(profile_dir: Path, *folders: str, minute: int = MINUTE, node: str = "algo-1") -> Path:
    path = profile_dir.joinpath("system", "incremental", *folders, f"{minute}.{node}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def timeline_file(profile_dir: Path, events: list[Any], *, end_us: int = 1591160700000000) -> Path:
    path = profile_dir / "framework" / "pevents" / HOUR / f"{end_us}_0001-algo-1_pythontimeline.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(event) for event in events) + "\n]\n")
    return path


def values(reader: ProfileReader, dimension: str = "GPUUtilization") -> dict[str, list[float]]:
    return {name: found.tolist() for name, (_, found) in reader.samples(dimension).items()}


def test_a_folder_that_does_not_exist_yet_holds_nothing(tmp_path: Path) -> None:
    reader = ProfileReader(tmp_path / "profile")
    reader.refresh()
    starts, durations, modes = reader.steps()
    assert (reader.samples("CPUUtilization"), starts.tolist(), durations.tolist(), modes) == ({}, [], [], [])
    assert (reader.phases(), reader.step_totals(), reader.measured()) == ({}, {}, {})


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    reader = ProfileReader(tmp_path)
    path = system_file(tmp_path, HOUR)
    path.write_text(line(1, MINUTE))
    reader.refresh()
    with path.open("a") as file:
        file.write(line(2, MINUTE + 0.5))
    system_file(tmp_path, HOUR, minute=MINUTE + 60).write_text(line(3, MINUTE + 60))
    reader.refresh()
    reader.refresh()
    assert values(reader) == {"gpu0": [1, 2, 3]}
    assert reader.samples("GPUUtilization")["gpu0"][0].tolist() == [MINUTE, MINUTE + 0.5, MINUTE + 60]


def test_a_half_written_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    reader = ProfileReader(tmp_path)
    path = system_file(tmp_path, HOUR)
    whole = line(2, MINUTE + 0.5)
    path.write_text(line(1, MINUTE) + whole[:30])
    reader.refresh()
    assert values(reader) == {"gpu0": [1]}
    path.write_text(line(1, MINUTE) + whole)
    reader.refresh()
    assert values(reader) == {"gpu0": [1, 2]}
    assert reader.skipped_lines == 0


def test_files_of_2020_stand_beside_the_hours(tmp_path: Path) -> None:
    system_file(tmp_path).write_text(line(1, MINUTE))
    system_file(tmp_path, HOUR, minute=MINUTE + 60).write_text(line(2, MINUTE + 60))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert values(reader) == {"gpu0": [1, 2]}


def test_many_hours_are_read_to_the_end(tmp_path: Path) -> None:
    reader = ProfileReader(tmp_path)
    for hour in range(5):
        for minute in range(6):
            at = MINUTE + 3600 * hour + 60 * minute
            system_file(tmp_path, f"202006030{hour}", minute=at).write_text(line(minute, at))
            reader.refresh()
    assert values(reader) == {"gpu0": [0, 1, 2, 3, 4, 5] * 5}


def test_lines_that_are_none_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = system_file(tmp_path, HOUR)
    path.write_text(line(1, MINUTE) + "{broken\n[]\n{}\n" + line(2, MINUTE + 1))
    timeline_file(tmp_path, [{"name": "no kind"}, 7, {"ph": "X", "name": "Forward"}])
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert values(reader) == {"gpu0": [1, 2]}
    assert reader.skipped_lines == 5


def test_no_number_stays_no_number(tmp_path: Path) -> None:
    system_file(tmp_path, HOUR).write_text(line(math.nan, MINUTE))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert np.isnan(reader.samples("GPUUtilization")["gpu0"][1]).tolist() == [True]


def test_a_metric_without_a_dimension_goes_by_its_name(tmp_path: Path) -> None:
    system_file(tmp_path, HOUR).write_text(line(12, MINUTE, name="MemoryUsedPercent"))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert values(reader, "MemoryUsedPercent") == {"MemoryUsedPercent": [12]}


def test_one_name_can_be_asked_for(tmp_path: Path) -> None:
    system_file(tmp_path, HOUR).write_text(line(1, MINUTE) + line(2, MINUTE, name="gpu1"))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert list(reader.samples("GPUUtilization", "gpu1")) == ["gpu1"]


def test_names_of_several_nodes_carry_the_node(tmp_path: Path) -> None:
    system_file(tmp_path, HOUR).write_text(line(1, MINUTE))
    system_file(tmp_path, HOUR, node="algo-2").write_text(line(2, MINUTE, node="algo-2"))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert values(reader) == {"algo-1/gpu0": [1], "algo-2/gpu0": [2]}


def test_figures_are_in_order_though_the_clock_was_set_back(tmp_path: Path) -> None:
    system_file(tmp_path, HOUR).write_text(line(1, MINUTE + 9) + line(2, MINUTE + 5) + line(3, MINUTE + 6))
    reader = ProfileReader(tmp_path)
    reader.refresh()
    assert values(reader) == {"gpu0": [2, 3, 1]}


def test_a_timeline_is_read_once_though_its_file_is_renamed(tmp_path: Path) -> None:
    timeline = StepTimeline(tmp_path, node="algo-1")
    reader = ProfileReader(tmp_path)
    for _ in range(3):
        with timeline.step("TRAIN"), timeline.phase("Forward"):
            pass
        timeline.write()
        reader.refresh()
    assert len(reader.steps()[0]) == 3
    timeline.close()
    reader.refresh()
    assert len(reader.steps()[0]) == 3
    assert reader.step_totals()["TRAIN"][0] == 3
    assert reader.skipped_lines == 0


def test_a_timeline_of_another_writer_has_no_totals_but_events(tmp_path: Path) -> None:
    timeline_file(
        tmp_path,
        [
            {"name": "process_name", "ph": "M", "pid": 0, "args": {"start_time_since_epoch_in_micros": 1_000_000}},
            {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "Step:ModeKeys.TRAIN"}},
            {
                "name": "Step:ModeKeys.TRAIN",
                "ph": "X",
                "pid": 1,
                "ts": 500_000,
                "dur": 40_000,
                "args": {"step_num": "0"},
            },
            {"name": "Forward-node-Net", "ph": "X", "pid": 2, "ts": 500_000, "dur": 10_000},
            {"name": "Forward-node-Net", "ph": "X", "pid": 2, "ts": 520_000, "dur": 5_000},
            {"name": "Step:ModeKeys.EVAL", "ph": "X", "pid": 3, "ts": 600_000, "dur": 20_000},
        ],
    )
    reader = ProfileReader(tmp_path)
    reader.refresh()
    starts, durations, modes = reader.steps()
    assert (starts.tolist(), durations.tolist(), modes) == ([1.5, 1.6], [0.04, 0.02], ["TRAIN", "EVAL"])
    assert reader.phases() == {"Forward": 0.015}
    assert reader.step_totals() == {"TRAIN": (1, 0.04), "EVAL": (1, 0.02)}


def test_what_was_measured_is_told_if_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text('{"gpu": "2 GPUs."}')
    assert ProfileReader(tmp_path).measured() == {"gpu": "2 GPUs."}
    (tmp_path / "measured.json").write_text('{"gpu"')
    assert ProfileReader(tmp_path).measured() == {}
