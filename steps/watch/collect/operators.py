"""torch.profiler over a few steps of a training: which operators its time goes into.

`<profile>/torch/trace.json.gz` opens in Perfetto and in TensorBoard's profiler; `<profile>/torch/operators.json` lists
the heaviest operators. Outside the chosen steps nothing is measured. An aid must never cost a training: whatever goes
wrong in the profiler is said once, and the training goes on.
"""

import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from watch.files import put, reason, say

PROFILED_STEPS = 5
WARM_UP_STEPS = 2  # at the start of an epoch: caches fill and the profiler itself starts up
OPERATORS_KEPT = 40
TRACE_BYTES = 2_000_000  # of trace.json.gz, at most
OWN_ANNOTATIONS = ("ProfilerStep", "Optimizer.step#", "Optimizer.zero_grad#")  # spans, not operators
KINETO_LOG_LEVEL = "99"  # what does the measuring in torch.profiler writes to standard error at any lower one
TIMES = {
    "self_cpu_us": "self_cpu_time_total",
    "cpu_us": "cpu_time_total",
    "self_device_us": "self_device_time_total",
}


def choose_steps(total: int, *, per_epoch: int) -> tuple[int, int] | None:
    """Which step is the first to be profiled, from 0, and how many are: up to five, all of one epoch.

    That is the second epoch where there is one. None if the training is too short.
    """
    epoch_start = per_epoch if total >= 2 * per_epoch else 0
    steps = min(PROFILED_STEPS, max(1, min(per_epoch, total - epoch_start) - WARM_UP_STEPS))
    first = max(1, min(epoch_start + WARM_UP_STEPS, epoch_start + per_epoch - steps))
    return (first, steps) if first + steps <= total else None


class OperatorProfile:
    """Profiles `steps` training steps from `first_step` on, both at least 1, after one step of warm-up."""

    def __init__(self, profile_dir: Path, first_step: int, steps: int = PROFILED_STEPS) -> None:
        self._dir = profile_dir / "torch"
        self._first, self._steps = first_step, steps
        self._step = 0  # which is under way, or comes next
        self._profiler: Any = None
        self._failed = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A training step; after the last chosen one the results are written."""
        if self._step == self._first - 1 and not self._failed:
            self._attempt(self._start)
        try:
            yield
        finally:
            self._step += 1
            if self._profiler is not None:
                self._attempt(self._profiler.step)
                if self._step == self._first + self._steps:
                    self.close()

    def close(self) -> None:
        """Stop, should the training end within the chosen steps; what was measured is kept."""
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            self._attempt(profiler.stop)

    def _start(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", KINETO_LOG_LEVEL)
        kinds = torch.profiler.ProfilerActivity
        profiler = torch.profiler.profile(
            activities=[kinds.CPU, kinds.CUDA] if torch.cuda.is_available() else [kinds.CPU],
            schedule=torch.profiler.schedule(wait=0, warmup=1, active=self._steps, repeat=1),
            on_trace_ready=self._write,
        )
        profiler.start()
        self._profiler = profiler

    def _write(self, profiler: Any) -> None:
        """Called by the profiler when the last chosen step has ended, or when it is stopped before."""
        if self._step > self._first:
            self._attempt(lambda: self._write_operators(profiler))
            self._attempt(lambda: self._write_trace(profiler))

    def _write_operators(self, profiler: Any) -> None:
        rows = [row for row in profiler.key_averages() if not row.key.startswith(OWN_ANNOTATIONS)]
        rows.sort(key=lambda row: (row.self_device_time_total, row.self_cpu_time_total), reverse=True)
        operators = [
            {"name": row.key, "calls": row.count, **{key: round(getattr(row, name), 1) for key, name in TIMES.items()}}
            for row in rows[:OPERATORS_KEPT]
        ]
        device = "cuda" if any(row.self_device_time_total for row in rows) else "cpu"
        report = {"device": device, "steps": list(range(self._first, self._step)), "operators": operators}
        put(self._dir / "operators.json", json.dumps(report, indent=1))

    def _write_trace(self, profiler: Any) -> None:
        with tempfile.TemporaryDirectory(dir=self._dir) as scratch:  # torch leaves parts when it fails
            path = Path(scratch) / "trace.json"
            profiler.export_chrome_trace(str(path))
            trace = path.read_bytes() if path.exists() else b""
        if not trace.rstrip().endswith(b"}"):  # a full disk is no error to torch
            raise OSError(f"only {len(trace)} bytes of the trace could be written")
        put(self._dir / "trace.json.gz", _packed(trace))

    def _attempt(self, action: Callable[[], Any]) -> None:
        """Do it; the first failure is said, and nothing more is measured."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is in the profiler, it must not cost the training
            if not self._failed:
                self._failed = True
                say(f"Profiler: the operator profile is not complete, since torch.profiler failed ({reason(error)}).")
            self.close()


def _packed(trace: bytes) -> bytes:
    """The trace as gzip; of one that is too large, the longest events."""
    packed, content = gzip.compress(trace), json.loads(trace)
    named, timed = ([event for event in content["traceEvents"] if event.get("ph") == kind] for kind in "MX")
    timed.sort(key=lambda event: event.get("dur", 0), reverse=True)
    while len(packed) > TRACE_BYTES and timed:
        timed = timed[: int(len(timed) * min(0.9, 0.9 * TRACE_BYTES / len(packed)))]
        content["traceEvents"] = named + timed
        packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode())
    return packed
