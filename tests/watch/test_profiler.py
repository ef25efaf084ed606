"""What the profiler writes is read by smdebug, is whole at any time, and costs no training whatever goes wrong."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from fake_nvml import FakeNvml
from torch import nn

from watch.collect import operators, sampler, timeline
from watch.collect.operators import OperatorProfile, choose_steps
from watch.collect.sampler import Machine, SystemSampler
from watch.collect.timeline import StepTimeline
from watch.files import module_environment
from watch.read.profile import ProfileReader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # smdebug is of 2023


def rows(profile_dir: Path) -> list[dict[str, Any]]:
    files = sorted((profile_dir / "system" / "incremental").rglob("*.json"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def sampled(profile_dir: Path, seconds: float = 0.2) -> list[dict[str, Any]]:
    """What is written until `seconds` after the first sample."""
    found = SystemSampler(profile_dir, node="algo-1", interval_ms=50, pid=os.getpid())
    found.start()
    deadline = time.monotonic() + 30
    while not rows(profile_dir):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(seconds)
    found.stop()
    found.stop()
    return rows(profile_dir)


def run(script: str) -> subprocess.CompletedProcess[str]:
    """A script in which no file may grow beyond a few thousand bytes after `limit(bytes)`."""
    head = (
        "import os, resource, signal, time\nfrom pathlib import Path\n"
        "from watch.collect.sampler import SystemSampler\nfrom watch.collect.timeline import StepTimeline\n"
        "def limit(size=resource.RLIM_INFINITY):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
    )
    environment = module_environment()
    return subprocess.run(
        [sys.executable, "-c", head + script], env=environment, capture_output=True, text=True, timeout=60
    )


def test_smdebug_reads_every_sample_of_the_machine_and_the_training(tmp_path: Path) -> None:
    from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

    found = sampled(tmp_path)
    events = LocalSystemMetricsReader(str(tmp_path)).get_events(0, time.time() * 1e6)
    assert [(event.type, event.name, event.dimension, event.value, event.timestamp) for event in events] == [
        (row["Type"], row["Name"], row["Dimension"], row["Value"], row["Timestamp"]) for row in found
    ]
    dimensions = {row[key] for row in found for key in ("Dimension", "Name")}
    assert dimensions >= {"CPUUtilization", "I/OWaitPercentage", "MemoryUsedPercent", "ReceiveBytesPerSecond"}
    assert dimensions >= {"ProcessCPUUtilization", "ProcessMemoryBytes", "ProcessWorkers"}
    assert all(0 <= row["Value"] <= 100 for row in found if row["Type"] in ("cpu", "memory"))
    (path, *_) = (tmp_path / "system" / "incremental").rglob("*.json")
    minute, node, _ = path.name.split(".")
    assert (int(minute) % 60, node) == (0, "algo-1")
    assert path.parent.name == time.strftime("%Y%m%d%H", time.gmtime(int(minute)))


def test_a_training_that_has_ended_has_no_figures() -> None:
    process = subprocess.Popen(["sleep", "60"])
    machine = Machine(process.pid)
    assert "process" in {row[0] for row in machine.rows()}
    process.kill()
    process.wait()
    assert {row[0] for row in machine.rows()} & {"cpu", "process"} == {"cpu"}


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("1", {"gpu1"}), ("0,1", {"gpu0", "gpu1"}), ("", set()), ("-1", set()), ("GPU-4f2a", {"gpu0", "gpu1"})],
)
def test_only_the_gpus_that_the_training_may_use_are_sampled(
    visible: str, gpus: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    found = {row[1:3]: row[3] for row in Machine().rows() if row[0] == "gpu"}
    assert {name for name, _ in found} == gpus
    if "gpu1" in gpus:
        assert (found["gpu1", "GPUUtilization"], found["gpu1", "GPUMemoryUtilization"]) == (20.0, 25.0)


def test_gpus_that_are_lost_or_not_there_cost_their_own_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(answers=2))
    machine = Machine()
    assert ["gpu" in {row[0] for row in machine.rows()} for _ in range(3)] == [True, False, False]
    assert machine.measured()["gpu"] == "No GPU: NVML says: GPU is lost."
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Machine().measured()["gpu"] == "No GPU: the package nvidia-ml-py is not installed."


def test_memory_counts_against_the_container_s_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("memory.max", 2**30), ("memory.current", 3 * 2**28)):
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    monkeypatch.setattr(sampler, "CGROUP", tmp_path)
    assert [row[3] for row in Machine().rows() if row[1] == "MemoryUsedPercent"] == [50.0]
    assert "the container's limit of 1.0 GiB" in Machine().measured()["memory"]


def test_a_long_run_is_sampled_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "FULL_RATE_BYTES", 1)
    assert len({row["Timestamp"] for row in sampled(tmp_path, 0.5)}) == 2  # the first, and the last when it was stopped


def test_a_full_disk_is_said_once_and_leaves_whole_lines_of_samples(tmp_path: Path) -> None:
    process = run(f"""
limit(3000)
sampler = SystemSampler(Path({str(tmp_path)!r}), node="algo-1", interval_ms=20)
sampler.start()
time.sleep(1)
limit()
print(time.time())
time.sleep(1)
sampler.stop()
""")
    assert process.stderr.splitlines() == [
        "Profiler: system metrics have a gap, since they could not be read or written (File too large)."
    ]
    times = [row["Timestamp"] for row in rows(tmp_path)]  # every line is whole, or this would have raised
    assert times[0] < float(process.stdout) < times[-1]


def steps(found: StepTimeline, count: int, mode: Any = "TRAIN") -> None:
    for _ in range(count):
        with found.step(mode), found.phase("Forward"):
            time.sleep(0.001)


def read(profile_dir: Path) -> ProfileReader:
    reader = ProfileReader(profile_dir)
    reader.refresh()
    return reader


def test_smdebug_reads_steps_and_phases_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smdebug.profiler.algorithm_metrics_reader import LocalAlgorithmMetricsReader

    monkeypatch.setattr(timeline, "ROTATION_BYTES", 1500)
    found = StepTimeline(tmp_path, node="algo-1")
    for _ in range(20):
        steps(found, 1)
        found.write()
    with found.phase("Logging"):
        pass
    steps(found, 1, "EVAL")
    found.close()
    assert len(list((tmp_path / "framework" / "pevents").rglob("*_pythontimeline.json"))) > 2
    assert list((tmp_path / "framework").glob("*.tmp")) == []
    events = LocalAlgorithmMetricsReader(str(tmp_path)).get_events(0, (time.time() + 3600) * 1e6)
    names = [event.event_name for event in events]
    counts = {name: names.count(name) for name in names}
    assert counts == {"Step:ModeKeys.TRAIN": 20, "Step:ModeKeys.EVAL": 1, "Forward": 21, "Logging": 1}
    assert all(event.duration >= 1000 for event in events if event.event_name.startswith("Step"))


def test_long_runs_are_thinned_but_totals_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "KEPT_AT_EACH_STRIDE", 10)
    found = StepTimeline(tmp_path, node="algo-1")
    assert list(found.batches(range(1000), "TRAIN")) == list(range(1000))
    found.close()
    reader = read(tmp_path)
    # ten at each of the strides 1, 2, 4, 8, 16 and 32, the last of them step 608; then 640, 704, 768, 832, 896 and 960
    assert reader.timed_steps()["TRAIN"].shape[1] == 66
    assert reader.step_totals()["TRAIN"][0] == 1000
    assert list(reader.phases()) == ["DataWait"]


def test_waiting_for_a_batch_is_part_of_its_step_and_errors_pass_through(tmp_path: Path) -> None:
    found = StepTimeline(tmp_path, node="algo-1")
    with pytest.raises(KeyError), found.step("TRAIN"), found.phase("DataWait"):
        time.sleep(0.01)
        raise KeyError("batch")
    found.close()
    assert 0.01 <= read(tmp_path).phases()["DataWait"] <= read(tmp_path).step_totals()["TRAIN"][1] < 0.5


def test_kills_and_full_disks_cost_the_trace_alone(tmp_path: Path) -> None:
    script = f"""
timeline = StepTimeline(Path({str(tmp_path)!r}), node="algo-1")
limit(4000)
for step in range(100):
    with timeline.step("TRAIN"), timeline.phase("Forward"):
        pass
    timeline.write()
    if step == 80:
        limit()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run(script)
    assert (process.returncode, process.stderr) == (-signal.SIGKILL, "")
    assert process.stdout == "Profiler: the step timeline has a gap, since it could not be written (File too large).\n"
    reader = read(tmp_path)
    assert reader.step_totals()["TRAIN"][0] == 100
    assert 20 < reader.timed_steps()["TRAIN"].shape[1] < 100


def profiled(profile: OperatorProfile, count: int) -> None:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    for _ in range(count):
        with profile.step():
            net(torch.ones(8, 64)).sum().backward()
    profile.close()


def trace(profile_dir: Path) -> set[str]:
    with gzip.open(profile_dir / "torch" / "trace.json.gz", "rt") as file:
        return {event["name"] for event in json.load(file)["traceEvents"]}


def test_the_chosen_steps_are_profiled_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "TRACE_BYTES", 4000)
    profiled(OperatorProfile(tmp_path, 4, 3), 5)  # it ends within them
    found = json.loads((tmp_path / "torch" / "operators.json").read_text())
    assert (found["device"], found["steps"]) == ("cpu", [4])
    by_name = {row["name"]: row for row in found["operators"]}
    assert by_name["aten::addmm"]["calls"] == 2  # two linear layers
    assert by_name["aten::linear"]["cpu_us"] > by_name["aten::linear"]["self_cpu_us"] > 0
    assert not [name for name in by_name if name.startswith("ProfilerStep")]
    assert (tmp_path / "torch" / "trace.json.gz").stat().st_size <= 4000
    assert any(name.startswith("ProfilerStep") for name in trace(tmp_path))  # of the longest events
    profiled(OperatorProfile(tmp_path / "none", 10), 4)
    assert not (tmp_path / "none").exists()


def test_a_profiler_that_fails_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").write_text("not a folder")
    profiled(OperatorProfile(tmp_path, 2, 3), 8)
    assert capsys.readouterr().out.count("Profiler: the operator profile is not complete, since torch.profiler") == 1
    trouble = RuntimeError("CUPTI could not\n be initialised")
    monkeypatch.setattr(torch.profiler.profile, "start", Mock(side_effect=trouble))
    profiled(OperatorProfile(tmp_path, 2, 3), 8)
    assert capsys.readouterr().out.endswith("failed (RuntimeError: CUPTI could not be initialised).\n")


@pytest.mark.parametrize(
    ("total", "per_epoch", "chosen"),
    [(1000, 20, (22, 5)), (30, 20, (2, 5)), (12, 6, (8, 4)), (40, 1, (1, 1)), (2, 2, (1, 1)), (1, 5, None)],
)
def test_steps_are_chosen_within_one_epoch(total: int, per_epoch: int, chosen: tuple[int, int] | None) -> None:
    assert choose_steps(total, per_epoch=per_epoch) == chosen
