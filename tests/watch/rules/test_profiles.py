"""Profiler rules on what the sampler and the timeline really write."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import FakeNvml

from watch.collect import timeline as timeline_module
from watch.collect.sampler import SystemSampler
from watch.collect.timeline import StepTimeline
from watch.read.profile import ProfileReader
from watch.rules.judge import Judge
from watch.rules.registry import make

GPU_RULES = ("BatchSize", "CPUBottleneck", "GPUMemoryIncrease", "IOBottleneck", "LoadBalancing", "LowGPUUtilization")
Steps = list[tuple[float, float]]  # seconds of waiting for data, and of work
Write = Callable[..., ProfileReader]


class Gpus(FakeNvml):
    """Two GPUs whose use, and whose memory in percent at each sample, the test says."""

    def __init__(self, use: tuple[int, int] = (5, 5), memory: Callable[[int], float] = lambda sample: 10.0) -> None:
        self.use, self.memory, self.samples = use, memory, 0

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return type("Rates", (), {"gpu": self.use[handle]})

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self.samples += handle == 0
        return type("Memory", (), {"used": self.memory(self.samples), "total": 100})


class Clock:
    """The module time, but for a counter that the test moves."""

    time_ns, gmtime, strftime = staticmethod(time.time_ns), staticmethod(time.gmtime), staticmethod(time.strftime)
    now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function from GPUs, or none, and loads of the cores to a profile of more than 30 samples of the machine."""

    def sample(gpus: Gpus | None, **core: float) -> ProfileReader:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setitem(sys.modules, "pynvml", gpus)
        share = type("Share", (), {"idle": 100.0, "iowait": 0.0, **core})
        monkeypatch.setattr(psutil, "cpu_times_percent", lambda percpu: [share] * 64)
        folder = tmp_path / str(time.monotonic_ns())
        sampler, reader = SystemSampler(folder, node="algo-1", interval_ms=30), ProfileReader(folder)
        sampler.start()
        while min((len(times) for times, _ in reader.samples("CPUUtilization").values()), default=0) <= 30:
            time.sleep(0.01)
            reader.refresh()
        sampler.stop()
        return reader

    return sample


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function from steps to the profile of a training with these."""
    clock = Clock()

    def loader(steps: Steps) -> Iterator[float]:
        for wait, work in steps:
            clock.now_ns += int(wait * 1e9)
            yield work

    def write(steps: Steps, mode: Any = "TRAIN") -> ProfileReader:
        monkeypatch.setattr(timeline_module, "time", clock)
        timeline, reader = StepTimeline(tmp_path, node="algo-1"), ProfileReader(tmp_path)
        for work in timeline.batches(loader(steps), mode):
            clock.now_ns += int(work * 1e9)
        timeline.close()
        reader.refresh()
        return reader

    return write


def judged(rule: str, profile: ProfileReader, **parameters: object) -> Judge:
    judge = make(rule, parameters)
    judge.see_profile(profile, time.time())
    judge.conclude(time.time())
    assert judge.traceback is None, judge.traceback
    return judge


def fires(rule: str, profile: ProfileReader, **parameters: object) -> bool:
    judge = judged(rule, profile, **parameters)
    assert judge.as_json()["judged"], f"{rule} judged nothing: {judge.as_json()['note']}"
    return judge.status == "IssuesFound"


def test_an_idle_gpu_is_seen_and_what_it_waits_for(sampled: Write) -> None:
    profile = sampled(Gpus((5, 8)), idle=2.0)
    low = judged("LowGPUUtilization", profile, patience=20)
    assert "gpu0 is hardly used" in low.fired[0]["sentence"] and "gpu1 is hardly used" in low.fired[0]["sentence"]
    assert [series["name"] for series in low.as_json()["evidence"]["series"]] == ["gpu0", "gpu1"]
    assert not judged("LowGPUUtilization", profile).as_json()["judged"]  # in so short a run
    assert fires("CPUBottleneck", profile, patience=20)
    assert not fires("CPUBottleneck", profile, patience=20, cpu_threshold=99)
    assert not fires("BatchSize", profile, patience=20)  # the CPU has no room
    assert not fires("IOBottleneck", profile, patience=20)
    assert fires("IOBottleneck", sampled(Gpus(), idle=10.0, iowait=85.0), patience=20)
    report = judged("ProfilerReport", profile, semantics="aws")
    report.see_verdicts({}, 0.0)  # where it stands alone, AWS's runs the others
    assert report.as_json()["judged"]


def test_gpus_that_differ_and_memory_that_grows_are_told_from_healthy_ones(sampled: Write) -> None:
    leaking = sampled(Gpus((90, 10), memory=lambda sample: 2.0 * sample))
    assert fires("LoadBalancing", leaking) and fires("GPUMemoryIncrease", leaking, patience=5)
    assert fires("BatchSize", leaking, patience=20, gpu_threshold_p95=95, gpu_memory_threshold_p95=100)
    healthy = sampled(Gpus((90, 90), memory=lambda sample: 60.0 if sample > 15 else 20.0))
    assert not fires("LoadBalancing", healthy) and not fires("LowGPUUtilization", healthy, patience=20)
    larger_batch = {"patience": 5, "window": 5}
    assert fires("GPUMemoryIncrease", healthy, semantics="aws", **larger_batch)
    assert not fires("GPUMemoryIncrease", healthy, **larger_batch)


def test_without_a_gpu_nothing_is_sound_that_was_not_judged(sampled: Write) -> None:
    profile = sampled(None)
    for rule in GPU_RULES:
        found = judged(rule, profile).as_json()
        assert (found["judged"], "there is no GPU here" in found["note"]) == (0, True)
    assert len(judged("OverallSystemUsage", profile).as_json()["evidence"]["series"]) == 3
    assert not judged("MaxInitializationTime", profile).as_json()["judged"]  # whose steps nobody times
    assert fires("MaxInitializationTime", profile, threshold=1e-9, semantics="aws")


@pytest.mark.parametrize(("steps", "is_found"), [
    ([(0.099, 0.001)] * 40, True), ([(0.099, 0.001)] * 10, None),  # patience
    ([(3.0, 0.1)] * 9 + [(0.001, 0.1)] * 200, False),  # loader processes that start
    ([(0.004, 0.001)] * 400, False), ([(0.004, 0.001)] * 16000, True),  # tiny waits: two seconds, a minute
    ([(0.03, 0.02)] * 20, False), ([(0.03, 0.05)] * 200, False),  # half a second in all; 38 %
    ([(0.3, 0.05)] * 100 + [(0.01, 0.05)] * 100, False),  # an epoch that fills a cache
])  # fmt: skip
def test_a_loader_that_holds_a_training_up_is_seen_and_no_other(timed: Write, steps: Steps, is_found: bool) -> None:
    found = judged("DataWait", timed(steps)).as_json()
    assert bool(found["judged"]) == (is_found is not None)
    assert (found["status"] == "IssuesFound", found["cause"]) == (bool(is_found), "waits_for_data")


def test_outliers_count_where_they_cost_something(timed: Write) -> None:
    logging = timed([(0.0, 0.05 if step % 40 == 0 else 0.004) for step in range(800)])
    assert fires("StepOutlier", logging, semantics="aws") and not fires("StepOutlier", logging)
    assert not fires("OverallFrameworkMetrics", logging)
    stalls = timed([(0.0, 1.0 if step % 40 == 0 else 0.004) for step in range(800)], "EVAL")
    assert "EVAL" in judged("StepOutlier", stalls).fired[0]["sentence"]


@pytest.mark.parametrize(("of_cores", "steps", "semantics", "is_found"), [
    (0.5, [(0.05, 0.01)] * 50, "watch", True), (0.5, [(0.0, 0.05)] * 50, "watch", False), (3, [], "watch", True),
    (0.5, [(0.0, 0.05)] * 50, "aws", True), (1, [(0.05, 0.01)] * 50, "watch", False),
])  # fmt: skip
def test_loader_processes_are_counted(tmp_path, timed: Write, of_cores, steps: Steps, semantics, is_found) -> None:
    count = round(of_cores * len(psutil.Process().cpu_affinity()))
    words = (
        f"import subprocess, sys; [subprocess.Popen('cat') for _ in range({count})]; print('up', flush=True); input()"
    )
    training = psutil.Popen([sys.executable, "-c", words], stdin=-1, stdout=-1, stderr=-1)
    training.stdout.readline()
    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=50, pid=training.pid)
    sampler.start()
    time.sleep(0.3)
    sampler.stop()
    training.communicate(b"\n")  # its children read the same end
    assert fires("Dataloader", timed(steps), semantics=semantics) == is_found
