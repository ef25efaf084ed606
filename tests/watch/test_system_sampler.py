"""The sampler's files are what SageMaker's profiler writes: smdebug reads them, whole lines at any time."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import FakeNvml

from tests.steps.prepared_data import STEPS
from watch.collect import machine
from watch.collect import sampler as sampler_module
from watch.collect.machine import SystemMetrics
from watch.collect.sampler import SystemSampler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # smdebug's protobuf code is of 2020

EVERYWHERE = {"CPUUtilization", "I/OWaitPercentage", "MemoryUsedPercent", "ReceiveBytesPerSecond"}


def rows(profile_dir: Path) -> list[dict[str, Any]]:
    files = sorted((profile_dir / "system" / "incremental").rglob("*.json"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def sampled(profile_dir: Path, seconds: float = 0.2, **settings: Any) -> list[dict[str, Any]]:
    """What is written until `seconds` after the first sample."""
    sampler = SystemSampler(profile_dir, node="algo-1", interval_ms=50, **settings)
    sampler.start()
    wait_until(lambda: bool(rows(profile_dir)))
    time.sleep(seconds)
    sampler.stop()
    return rows(profile_dir)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_sample_has_the_documented_layout(tmp_path: Path) -> None:
    found = sampled(tmp_path)
    path = next((tmp_path / "system" / "incremental").rglob("*.json"))
    hour, minute = path.parent.name, re.fullmatch(r"(\d{10})\.algo-1\.json", path.name)
    assert minute
    assert int(minute[1]) % 60 == 0
    assert hour == time.strftime("%Y%m%d%H", time.gmtime(int(minute[1])))
    assert list(found[0]) == ["Type", "Name", "Dimension", "Value", "NodeId", "Timestamp"]
    assert found[0] | {"Value": 0, "Timestamp": 0} == {
        "Type": "cpu",
        "Name": found[0]["Name"],
        "Dimension": "CPUUtilization",
        "Value": 0,
        "NodeId": "algo-1",
        "Timestamp": 0,
    }
    assert {row["Dimension"] or row["Name"] for row in found} | {row["Name"] for row in found} >= EVERYWHERE
    assert all(0 <= row["Value"] <= 100 for row in found if row["Type"] in ("cpu", "memory"))


def test_smdebug_reads_every_sample(tmp_path: Path) -> None:
    from smdebug.profiler.system_metrics_reader import LocalSystemMetricsReader

    found = sampled(tmp_path)
    reader = LocalSystemMetricsReader(str(tmp_path))
    events = reader.get_events(0, time.time() * 1e6)
    assert [vars(event) for event in events] == [
        {
            "type": row["Type"],
            "name": row["Name"],
            "dimension": row["Dimension"],
            "value": row["Value"],
            "node_id": row["NodeId"],
            "timestamp": row["Timestamp"],
        }
        for row in found
    ]


def test_a_core_at_work_is_seen_at_work(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=100, pid=psutil.Process().pid)
    sampler.start()
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass
    sampler.stop()
    found = rows(tmp_path)
    assert max(row["Value"] for row in found if row["Dimension"] == "CPUUtilization") > 1
    assert max(row["Value"] for row in found if row["Dimension"] == "ProcessCPUUtilization") > 1
    assert min(row["Value"] for row in found if row["Dimension"] == "ProcessMemoryBytes") > 1e7
    workers = [row["Value"] for row in found if row["Dimension"] == "ProcessWorkers"]
    assert workers
    assert min(workers) >= 1  # the sleeper, and whatever else the test run started


def test_a_training_that_has_ended_has_no_figures(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    metrics = SystemMetrics(pid=sleeper.pid)
    assert "process" in {row.type for row in metrics.read()}
    sleeper.kill()
    sleeper.wait()
    found = metrics.read()
    assert {row.type for row in found} >= {"cpu", "memory", "network"}
    assert "process" not in {row.type for row in found}


def test_gpus_are_sampled_through_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    found = {(row["Name"], row["Dimension"]): row["Value"] for row in sampled(tmp_path, 0.1) if row["Type"] == "gpu"}
    assert found == {
        ("gpu0", "GPUUtilization"): 10.0,
        ("gpu0", "GPUMemoryUtilization"): 12.5,
        ("gpu1", "GPUUtilization"): 20.0,
        ("gpu1", "GPUMemoryUtilization"): 25.0,
    }
    assert json.loads((tmp_path / "measured.json").read_text())["gpu"] == "2 GPUs."


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("1", {"gpu1"}), ("0,1", {"gpu0", "gpu1"}), ("", set()), ("-1", set()), ("GPU-4f2a", {"gpu0", "gpu1"})],
)
def test_only_the_gpus_that_the_training_may_use_are_sampled(
    visible: str, gpus: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    assert {row.name for row in SystemMetrics().read() if row.type == "gpu"} == gpus


def test_a_gpu_that_is_lost_ends_the_gpu_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(answers=2))
    metrics = SystemMetrics()
    assert "gpu" in {row.type for row in metrics.read()}
    later = [{row.type for row in metrics.read()} for _ in range(2)]
    assert all("cpu" in types and "gpu" not in types for types in later)
    assert metrics.measured()["gpu"] == "No GPU: NVML says: GPU is lost."
    metrics.close()


def test_without_the_nvml_package_there_are_no_gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    metrics = SystemMetrics()
    assert {row.type for row in metrics.read()} >= {"cpu", "memory", "network"}
    assert metrics.measured()["gpu"] == "No GPU: the package nvidia-ml-py is not installed."
    metrics.close()


def test_memory_counts_against_the_container_s_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    limit.write_text(f"{2**30}\n")
    usage.write_text(f"{3 * 2**28}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    monkeypatch.setattr(machine, "CGROUP_MEMORY", ((limit, usage, "inactive_file"),))
    metrics = SystemMetrics()
    assert [row.value for row in metrics.read() if row.name == "MemoryUsedPercent"] == [50.0]
    assert metrics.measured()["memory"] == "Memory in use, without page cache, of the container's limit of 1.0 GiB."


def test_a_long_run_is_sampled_less_and_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "FULL_RATE_BYTES", 1)
    found = sampled(tmp_path, 0.5)
    assert len({row["Timestamp"] for row in found}) == 2  # the first, and the last when it was stopped


def test_a_full_disk_is_said_once_and_leaves_whole_lines(tmp_path: Path) -> None:
    script = f"""
import io, resource, sys, time
from pathlib import Path
from watch.collect.sampler import SystemSampler

def wait_until(condition):
    while not condition():
        time.sleep(0.01)

sys.stderr = io.StringIO()
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))  # no file may grow beyond it
sampler = SystemSampler(Path({str(tmp_path)!r}), node="algo-1", interval_ms=20)
sampler.start()
wait_until(sys.stderr.getvalue)
time.sleep(0.2)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
room = time.time()
wait_until(lambda: any(path.stat().st_size > 3000 for path in Path({str(tmp_path)!r}).rglob("*.algo-1.json")))
sampler.stop()
print(sys.stderr.getvalue() + str(room))
"""
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=STEPS, capture_output=True, text=True, timeout=60, check=True
    )
    said, room = process.stdout.splitlines()
    assert said == "Profiler: system metrics have a gap, since they could not be read or written (File too large)."
    times = [row["Timestamp"] for row in rows(tmp_path)]  # every line is whole, or this would have raised
    assert times[0] < float(room) < times[-1]


def test_lines_are_whole_while_the_file_grows(tmp_path: Path) -> None:
    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=10)
    sampler.start()
    for _ in range(20):
        wait_until(lambda: bool(rows(tmp_path)))
        for path in (tmp_path / "system" / "incremental").rglob("*.json"):
            assert path.read_text().endswith("}\n")
        time.sleep(0.01)
    sampler.stop()


def test_stopping_twice_or_before_the_start_is_no_mistake(tmp_path: Path) -> None:
    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=50)
    sampler.stop()
    sampler.start()
    sampler.stop()
    sampler.stop()


def test_an_interval_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^interval_ms must be at least 10, but got 0\.$"):
        SystemSampler(tmp_path, node="algo-1", interval_ms=0)


def test_the_sampler_and_the_reader_import_neither_torch_nor_smdebug() -> None:
    script = (
        "import sys; from watch.read import profile; from watch.collect import sampler; "
        "print({'torch', 'smdebug', 'pandas'} & sys.modules.keys())"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=STEPS, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"
