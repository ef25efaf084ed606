"""Step timelines: smdebug reads them, totals are exact however long the run, and a full disk costs the trace alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.steps.prepared_data import STEPS
from watch.collect import timeline as timeline_module
from watch.collect.sampler import SystemSampler
from watch.collect.timeline import NO_TIMELINE, StepTimeline
from watch.read.profile import ProfileReader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # smdebug is of 2023


def train(timeline: Any, steps: int, mode: Any = "TRAIN") -> None:
    for _ in range(steps):
        with timeline.step(mode):
            with timeline.phase("Forward"):
                pass
            with timeline.phase("Backward"):
                pass


def smdebug_events(profile_dir: Path) -> list[Any]:
    from smdebug.profiler.algorithm_metrics_reader import LocalAlgorithmMetricsReader

    found: list[Any] = LocalAlgorithmMetricsReader(str(profile_dir)).get_events(0, (time.time() + 3600) * 1e6)
    return found


def read(profile_dir: Path) -> ProfileReader:
    reader = ProfileReader(profile_dir)
    reader.refresh()
    return reader


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], cwd=STEPS, capture_output=True, text=True, timeout=60)


def test_smdebug_reads_steps_and_phases(tmp_path: Path) -> None:
    before = time.time() * 1e6
    timeline = StepTimeline(tmp_path, node="algo-1")
    with timeline.step("TRAIN"):
        with timeline.phase("Forward"):
            time.sleep(0.01)
        with timeline.phase("Optimizer"):
            pass
    with timeline.phase("Logging"):
        pass
    train(timeline, 1, "EVAL")
    timeline.close()
    after = time.time() * 1e6

    events = sorted(smdebug_events(tmp_path), key=lambda event: (event.start_time, -event.duration))
    assert [(event.event_name, event.event_phase, event.event_args["step_num"]) for event in events] == [
        ("Step:ModeKeys.TRAIN", "Step:ModeKeys.TRAIN", 0),
        ("Forward", "Forward", 0),
        ("Optimizer", "Optimizer", 0),
        ("Logging", "Logging", 0),
        ("Step:ModeKeys.EVAL", "Step:ModeKeys.EVAL", 1),
        ("Forward", "Forward", 1),
        ("Backward", "Backward", 1),
    ]
    assert events[1].duration >= 10_000
    assert events[0].duration >= events[1].duration
    assert before - 1000 <= events[0].start_time <= events[-1].end_time <= after + 1000
    assert {event.node_id for event in events} == {f"algo-1-{os.getpid()}"}


def test_smdebug_s_analysis_finds_the_training_loop(tmp_path: Path) -> None:
    from smdebug.profiler.analysis.utils.pandas_data_analysis import PandasFrameAnalysis, Resource
    from smdebug.profiler.analysis.utils.profiler_data_to_pandas import PandasFrame

    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=50)
    sampler.start()
    timeline = StepTimeline(tmp_path, node="algo-1")
    time.sleep(0.15)
    train(timeline, 20)
    train(timeline, 1, "EVAL")
    timeline.close()
    sampler.stop()

    frame = PandasFrame(str(tmp_path))
    frame.framework_metrics_reader.refresh_event_file_list()
    system, framework = frame.get_profiler_data_by_time(frame.start_time, int((time.time() + 60) * 1e6))
    analysis = PandasFrameAnalysis(system, framework)
    steps = analysis.get_step_statistics()
    assert sorted(steps["training_phase"]) == ["Step:ModeKeys.EVAL", "Step:ModeKeys.TRAIN"]
    usage = analysis.get_utilization_stats(resource=[Resource.CPU, Resource.MEMORY])
    assert sorted(usage["Resource"]) == ["cpu", "memory"]
    assert analysis.get_job_statistics()["initialization"] > 0


def test_files_rotate_and_smdebug_reads_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "ROTATION_BYTES", 2000)
    timeline = StepTimeline(tmp_path, node="algo-1")
    for _ in range(40):
        train(timeline, 1)
        timeline.write()
    timeline.close()
    files = sorted((tmp_path / "framework" / "pevents").rglob(f"*_{os.getpid()}-algo-1_pythontimeline.json"))
    assert len(files) > 5
    assert all(json.loads(path.read_text()) for path in files)
    assert max(path.stat().st_size for path in files) < 2000 + 2500  # one write over, its head and its end
    assert list((tmp_path / "framework").glob("*.tmp")) == []
    assert len([event for event in smdebug_events(tmp_path) if event.event_name.startswith("Step")]) == 40
    assert len(read(tmp_path).steps()[0]) == 40


def test_long_runs_are_thinned_but_totals_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline_module, "KEPT_AT_EACH_STRIDE", 10)
    timeline = StepTimeline(tmp_path, node="algo-1")
    started = time.perf_counter()
    for step in range(1000):
        train(timeline, 1)
        if step % 100 == 99:
            train(timeline, 1, "EVAL")
    elapsed = time.perf_counter() - started
    timeline.close()
    reader = read(tmp_path)
    starts, durations, modes = reader.steps()
    # ten at each of the strides 1, 2, 4, 8, 16 and 32, the last of them step 608; then 640, 704, 768, 832, 896 and 960
    assert modes.count("TRAIN") == 66
    assert modes.count("EVAL") == 10
    totals = reader.step_totals()
    assert (totals["TRAIN"][0], totals["EVAL"][0]) == (1000, 10)
    assert durations[[mode == "TRAIN" for mode in modes]].sum() < totals["TRAIN"][1] < elapsed
    assert sum(reader.phases().values()) < totals["TRAIN"][1] + totals["EVAL"][1]
    assert list(reader.phases()) == ["Forward", "Backward"]
    assert (starts[1:] >= starts[:-1]).all()


def test_waiting_for_a_batch_is_part_of_its_step(tmp_path: Path) -> None:
    def slow() -> Any:
        for number in range(3):
            time.sleep(0.01)
            yield number
        time.sleep(0.1)  # finding out that there are no more batches belongs to no step

    timeline = StepTimeline(tmp_path, node="algo-1")
    assert list(timeline.batches(slow(), "TRAIN")) == [0, 1, 2]
    timeline.close()
    reader = read(tmp_path)
    assert reader.step_totals()["TRAIN"][0] == 3
    assert 0.03 <= reader.phases()["DataWait"] <= reader.step_totals()["TRAIN"][1] < 0.1


def test_an_error_in_a_step_passes_through(tmp_path: Path) -> None:
    timeline = StepTimeline(tmp_path, node="algo-1")
    with pytest.raises(KeyError), timeline.step("TRAIN"), timeline.phase("Forward"):
        raise KeyError("loss")
    timeline.close()
    assert read(tmp_path).step_totals()["TRAIN"][0] == 1


def test_a_killed_training_leaves_its_steps(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from pathlib import Path
from watch.collect.timeline import StepTimeline
timeline = StepTimeline(Path({str(tmp_path)!r}), node="algo-1")
for _ in range(7):
    with timeline.step("TRAIN"), timeline.phase("Forward"):
        time.sleep(0.001)
    timeline.write()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(script).returncode == -signal.SIGKILL
    reader = read(tmp_path)
    assert len(reader.steps()[0]) == 7
    assert reader.step_totals()["TRAIN"][0] == 7
    assert reader.phases()["Forward"] >= 0.007


def test_a_full_disk_is_said_once_and_costs_the_trace_alone(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from pathlib import Path
from watch.collect.timeline import StepTimeline
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))  # no file may grow beyond it
timeline = StepTimeline(Path({str(tmp_path)!r}), node="algo-1")
for step in range(100):
    with timeline.step("TRAIN"), timeline.phase("Forward"):
        pass
    timeline.write()
    if step == 80:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
timeline.close()
"""
    process = run(script)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == [
        "Profiler: the step timeline has a gap, since it could not be written (File too large)."
    ]
    reader = read(tmp_path)
    assert reader.skipped_lines == 0
    assert reader.step_totals()["TRAIN"][0] == 100
    assert 20 < len(reader.steps()[0]) < 100
    assert len([event for event in smdebug_events(tmp_path) if event.event_name == "Forward"]) == len(reader.steps()[0])


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "framework").write_text("not a folder")
    timeline = StepTimeline(tmp_path, node="algo-1")
    for _ in range(3):
        train(timeline, 2)
        timeline.write()
    timeline.close()
    assert capsys.readouterr().out.splitlines() == [
        "Profiler: the step timeline has a gap, since it could not be written (File exists)."
    ]


def test_no_timeline_measures_nothing() -> None:
    train(NO_TIMELINE, 3)
    assert list(NO_TIMELINE.batches(iter("ab"), "TRAIN")) == ["a", "b"]
    NO_TIMELINE.close()
