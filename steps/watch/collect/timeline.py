"""Where a training's time goes: its steps and their phases, as a Chrome trace that SageMaker's own readers understand.

`<profile>/framework/pevents/<YYYYMMDDHH>/<end us>_<pid>-<node>_pythontimeline.json` is an array of Chrome trace events,
one a line: `M` events name the processes and give the start, `X` events carry `ts` and `dur` in microseconds since that
start, and `Step:ModeKeys.TRAIN` is a step (smdebug's LocalAlgorithmMetricsReader reads it; Perfetto too). While a file
is being written it stands in `framework/` and ends in `.tmp`; smdebug's writer does the same, and rotates as this one
does: after 10 MB or a minute.

Long trainings are thinned: after every 1,000 steps kept of a mode, half as many of the following ones are. `C` events,
which smdebug passes over, hold exact totals of every phase and every step so far.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar, get_args

from watch.files import LineFile, say
from watch.read.profile import MODES, PHASE_TOTALS, STEP_COUNTS, STEP_TOTALS, Mode

Phase = Literal["DataWait", "Forward", "Backward", "Optimizer", "Logging", "Checkpoint"]

KEPT_AT_EACH_STRIDE = 1000  # steps of a mode
ROTATION_BYTES, ROTATION_SECONDS = 10 * 1024 * 1024, 60.0
FIRST_FLUSH_SECONDS, LAST_FLUSH_SECONDS = 1.0, 30.0  # between two writes: 1 % of the time so far, within these
Batch = TypeVar("Batch")


class Span:
    """One kind of span: its total so far, and the kept ones since the last write. Not to be entered within itself."""

    def __init__(self, timeline: "StepTimeline") -> None:
        self.timeline = timeline
        self.kept: list[tuple[int, int, int]] = []  # (step number, start, end), nanoseconds
        self.started_ns = self.total_ns = self.count = 0

    def __enter__(self) -> None:
        self.started_ns = time.perf_counter_ns()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        ended_ns = time.perf_counter_ns()
        self.total_ns += ended_ns - self.started_ns
        self.count += 1
        if self.timeline.keeping:
            self.kept.append((self.timeline.step_number, self.started_ns, ended_ns))


class StepSpan(Span):
    """The steps of a mode: which are kept is decided where they begin, what has gathered is written where they end."""

    stride, kept_at_stride = 1, 0

    def __enter__(self) -> None:
        self.timeline.step_number += 1
        self.timeline.keeping = self.count % self.stride == 0
        super().__enter__()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        super().__exit__(kind, error, trace)
        self.kept_at_stride += self.timeline.keeping
        if self.kept_at_stride == KEPT_AT_EACH_STRIDE:
            self.stride, self.kept_at_stride = 2 * self.stride, 0
        self.timeline.write_if_due()


class StepTimeline:
    """Records steps and phases of one thread; `node`, "algo-1" and so on, is part of the file names.

    Steps are numbered from 0 through all modes; a phase outside a step goes with the step before it. Trouble with the
    disk is said once; what could not be written is missing from the trace, but not from the totals.
    """

    def __init__(self, profile_dir: Path, *, node: str) -> None:
        self.step_number, self.keeping = -1, True
        self._dir = profile_dir / "framework"
        self._name = f"{os.getpid()}-{node}_pythontimeline.json"
        self._start_us, self._start_ns = time.time_ns() // 1000, time.perf_counter_ns()
        self._steps = {mode: StepSpan(self) for mode in MODES}
        self._phases: dict[str, Span] = {name: Span(self) for name in get_args(Phase)}
        self._spans = {**{f"Step:ModeKeys.{mode}": span for mode, span in self._steps.items()}, **self._phases}
        self._file: LineFile | None = None
        self._opened_ns = self._written_ns = self._start_ns
        self._said = self._closed = False

    def step(self, mode: Mode) -> Span:
        """A step of the mode: `with timeline.step("TRAIN"):`."""
        return self._steps[mode]

    def phase(self, name: Phase) -> Span:
        """A phase: `with timeline.phase("Forward"):`."""
        return self._phases[name]

    def batches(self, source: Iterable[Batch], mode: Mode) -> Iterator[Batch]:
        """The source's batches, each handed out within a step of its own; its DataWait is the time the batch took."""
        step, wait, batches = self._steps[mode], self._phases["DataWait"], iter(source)
        while True:
            asked_ns = time.perf_counter_ns()
            try:
                batch = next(batches)
            except StopIteration:
                return
            with step:
                with wait:
                    step.started_ns = wait.started_ns = asked_ns  # only now is it known that there is one more step
                yield batch

    def write_if_due(self) -> None:
        """Write what has gathered once it is time; called after every step."""
        now_ns = time.perf_counter_ns()
        pause_seconds = min(max(FIRST_FLUSH_SECONDS, (now_ns - self._start_ns) / 1e11), LAST_FLUSH_SECONDS)
        if now_ns - self._written_ns >= pause_seconds * 1e9:
            self.write()

    def write(self) -> None:
        """Write what has gathered, and the totals; then begin another file if this one is old or large."""
        self._written_ns = time.perf_counter_ns()
        lines = "".join(self._events()) + self._totals() + ",\n"
        try:
            if self._file is None:
                self._file, self._opened_ns = self._opened(), time.perf_counter_ns()
            self._file.append(lines)
            aged = self._written_ns - self._opened_ns >= ROTATION_SECONDS * 1e9
            if aged or self._closed or self._file.size_bytes >= ROTATION_BYTES:
                self._finish_file(self._file)
        except OSError as error:
            if not self._said:
                self._said = True
                say(f"Profiler: the step timeline has a gap, since it could not be written ({error.strerror}).")

    def close(self) -> None:
        """Write the rest and give the last file its name. May be called more than once."""
        if not self._closed:
            self._closed = True
            self.write()

    def _opened(self) -> LineFile:
        """A new file with its head."""
        heads = [{"start_time_since_epoch_in_micros": self._start_us}, *({"name": name} for name in self._spans)]
        file = LineFile(self._dir / f"{time.time_ns() // 1000}_{self._name}.tmp")
        event = {"name": "process_name", "ph": "M"}
        lines = (f"{json.dumps({**event, 'pid': max(0, i - 1), 'args': head})},\n" for i, head in enumerate(heads))
        try:
            file.append("[\n" + "".join(lines))
        except OSError:
            file.close()
            file.path.unlink(missing_ok=True)
            raise
        return file

    def _finish_file(self, file: LineFile) -> None:
        """End the array and give the file the name that readers look for."""
        end_us = self._start_us + (self._written_ns - self._start_ns) // 1000
        hour = time.strftime("%Y%m%d%H", time.gmtime(end_us // 1_000_000))
        path = self._dir / "pevents" / hour / f"{end_us}_{self._name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        file.append(self._totals() + "\n]\n")
        file.path.rename(path)
        file.close()
        self._file = None

    def _events(self) -> Iterator[str]:
        for pid, (name, span) in enumerate(self._spans.items()):
            for step, started_ns, ended_ns in span.kept:
                start, end = (started_ns - self._start_ns) // 1000, (ended_ns - self._start_ns) // 1000
                times = f'"ts":{start},"dur":{end - start},"args":{{"step_num":{max(0, step)}}}'
                yield f'{{"name":"{name}","pid":{pid},"ph":"X",{times}}},\n'
            span.kept.clear()

    def _totals(self) -> str:
        """Counter events: microseconds of each phase and of each mode's steps, and how many steps there were."""
        counters = {
            PHASE_TOTALS: {name: span.total_ns / 1000 for name, span in self._phases.items()},
            STEP_TOTALS: {mode: span.total_ns / 1000 for mode, span in self._steps.items()},
            STEP_COUNTS: {mode: span.count for mode, span in self._steps.items()},
        }
        event = {"pid": 0, "ph": "C", "ts": (self._written_ns - self._start_ns) // 1000}
        return ",\n".join(json.dumps({"name": name, **event, "args": values}) for name, values in counters.items())
