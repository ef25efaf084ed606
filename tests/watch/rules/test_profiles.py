"""Profiler rules on what the sampler and the timeline really write."""

import sys
import time
from pathlib import Path

import pytest
from fake_nvml import FakeNvml

from watch.collect import timeline as timeline_module
from watch.collect.sampler import SystemSampler
from watch.collect.timeline import StepTimeline
from watch.read.profile import ProfileReader
from watch.rules.judge import Judge
from watch.rules.registry import make

GPU_RULES = ("BatchSize", "CPUBottleneck", "GPUMemoryIncrease", "IOBottleneck", "LoadBalancing", "LowGPUUtilization")


class Clock:
    """The module time, but for a counter that the test moves."""

    time_ns, gmtime, strftime = staticmethod(time.time_ns), staticmethod(time.gmtime), staticmethod(time.strftime)
    now_ns = 0

    def perf_counter_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProfileReader:
    """120 steps of 1 ms but three of 250 ms, on a machine that is sampled meanwhile."""
    clock = Clock()
    monkeypatch.setattr(timeline_module, "time", clock)
    sampler = SystemSampler(tmp_path, node="algo-1", interval_ms=10)
    sampler.start()
    timeline = StepTimeline(tmp_path, node="algo-1")
    for step in range(120):
        with timeline.step("TRAIN"), timeline.phase("Forward"):
            clock.now_ns += 250_000_000 if step in (30, 60, 90) else 1_000_000
    timeline.close()
    reader = ProfileReader(tmp_path)
    while min((len(times) for times, _ in reader.samples("CPUUtilization").values()), default=0) <= 20:
        time.sleep(0.01)
        reader.refresh()
    sampler.stop()
    return reader


def judged(rule: str, profile: ProfileReader, **parameters: object) -> Judge:
    judge = make(rule, parameters)
    judge.see_profile(profile, time.time())
    judge.conclude(time.time())
    assert judge.traceback is None, judge.traceback
    return judge


def test_rules_judge_a_machine_with_an_idle_gpu(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    profile: ProfileReader = request.getfixturevalue("profile")
    low = judged("LowGPUUtilization", profile, patience=20)
    assert [finding.sentence for finding in low.findings] == [
        "gpu0 is hardly used: the 95th percentile of its utilisation is 10 %, below threshold_p95 of 70 %. "
        "gpu1 is hardly used: the 95th percentile of its utilisation is 20 %, below threshold_p95 of 70 %."
    ]
    assert [series["name"] for series in low.as_json()["evidence"]["series"]] == ["gpu0", "gpu1"]
    assert judged("LoadBalancing", profile).status == "IssuesFound"
    assert judged("GPUMemoryIncrease", profile, patience=20).status == "NoIssuesFound"


def test_rules_judge_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    profile: ProfileReader = request.getfixturevalue("profile")
    for rule in GPU_RULES:
        found = judged(rule, profile).as_json()
        assert (found["status"], found["note"]) == ("NoIssuesFound", "there is no GPU here: nothing to judge")
    usage = judged("OverallSystemUsage", profile).as_json()
    assert (usage["status"], usage["note"]) == ("NoIssuesFound", None)
    assert [series["name"].partition(" (")[0] for series in usage["evidence"]["series"]] == [
        "CPU",
        "memory",
        "waiting for I/O",
    ]


def test_rules_judge_steps_that_were_timed(profile: ProfileReader) -> None:
    outliers = judged("StepOutlier", profile, n_outliers=2)
    assert outliers.status == "IssuesFound"
    assert outliers.findings[0].sentence.startswith("3 of 120 TRAIN steps took longer than 124 ms")
    assert judged("StepOutlier", profile).status == "NoIssuesFound"
    assert judged("MaxInitializationTime", profile).status == "NoIssuesFound"
    loader = judged("Dataloader", profile).as_json()
    assert (loader["status"], loader["note"]) == (
        "NoIssuesFound",
        "too little data: no loader process ran beside the training",
    )
