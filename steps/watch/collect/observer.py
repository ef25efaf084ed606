"""The observer: a process beside the training that samples the machine and evaluates the debugger's rules.

    python observer.py --config FILE

It looks at what is on disk every second or so, writes what it found (rules/status.json, rules/series.json), and tells
the training process on standard output, one JSON object a line:

    {"event": "status", "rule": "Overfit", "status": "IssuesFound"}      each change of a rule's status
    {"event": "action", "action": "stop", "rule": "Overfit", "sentence": "..."}   when a rule with action stop fires

When finished.json appears in the output directory (or SIGUSR1 comes, where the disk has no room for a file), it
evaluates what is left and ends. It can be killed at any moment
without harm to the training; its own trouble goes to standard error.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from watch.collect.magnitudes import Magnitudes
from watch.read.tensors import SavedTensors
from watch.rules.diagnosis import diagnose
from watch.rules.judge import SCHEMA_VERSION, Capture, SmdebugJudge
from watch.rules.registry import make

NICENESS = 10
LOOK_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 3.5  # a stop has to reach the training within 5
BUSY_SHARE = 0.03  # of one core; longer looks are followed by longer pauses
EVIDENCE_SECONDS = 10.0  # between two writings of files whose curves alone have changed
END_MARKER = "training_job_end.ts"
END_MARKER_SECONDS = 2.0  # that the last tensors may come after finished.json
FINISHED = "finished.json"
END_SIGNAL = signal.SIGUSR1
STATUS_FILE = "rules/status.json"
SERIES_FILE = "rules/series.json"
POLL_SECONDS = 0.25


class Observer:
    """Rules at work on the output directory of a training.

    Args:
        config: What the training process wrote: output_dir, tensors_dir, rules, sample_interval_ms, node.
        channel: File descriptor to the training process.
    """

    def __init__(self, config: Mapping[str, Any], channel: int) -> None:
        self.output_dir = Path(config["output_dir"])
        self.tensors_dir = Path(config["tensors_dir"])
        self.interrupted = threading.Event()
        self.finished = threading.Event()
        self.judges = [make(name, entry) for name, entry in config["rules"].items()]
        self.saved = SavedTensors(self.tensors_dir)
        self.magnitudes = Magnitudes()
        self.trouble: list[str] = []  # sentences
        self._channel = channel
        self._parent = os.getppid()
        self._told: dict[str, str] = {}  # rule -> status
        self._stops: set[str] = set()  # rules whose action was announced
        self._written = 0.0  # monotonic seconds
        self._profile: Any = None
        self._sampler: Any = None
        self._guard("The machine is not sampled", lambda: self._open_profile(config))

    def run(self) -> None:
        """Look at what the training writes until it has finished, or this process is told to end."""
        self._tell()
        while not (self._ended() or self.interrupted.is_set()):
            started = time.process_time()
            self.look(last=False)
            self._pause(time.process_time() - started)
        if self._sampler is not None:
            self._guard("Sampling the machine did not end well", self._sampler.stop)
        if not self.interrupted.is_set():
            self._await_end_marker()
            self.look(last=True)
        self._conclude()

    def look(self, *, last: bool) -> None:
        """Show the rules what has been written since the last look.

        Args:
            last: There will be nothing more.
        """
        for step in self.saved.new_steps(last=last):
            for judge in self.judges:
                judge.see(self.saved, step.step, step.mode, step.time)
            self.magnitudes.add(self.saved, step)
            self._tell()
            if self.interrupted.is_set():
                return
        now = time.time()
        for judge in self.judges:
            if isinstance(judge, SmdebugJudge):
                judge.look(self.tensors_dir, now)
            elif not last:
                judge.see_idle(now)
        if self._profile is not None:
            self._guard("The profile cannot be read", lambda: self._look_at_profile(now, last=last))
        self._tell()
        if time.monotonic() - self._written > EVIDENCE_SECONDS:
            self._write("running")

    def _look_at_profile(self, now: float, *, last: bool) -> None:
        due = [judge for judge in self.judges if judge.due(now, last=last)]
        if not due:
            return
        self._profile.refresh()
        for judge in due:
            judge.see_profile(self._profile, now)
        fired = {judge.name: judge.sentences() for judge in self.judges if judge.kind == "profiler"}
        for judge in due:
            judge.see_verdicts({name: found for name, found in fired.items() if name != judge.name}, now)

    def _open_profile(self, config: Mapping[str, Any]) -> None:
        from watch.collect.sampler import SystemSampler
        from watch.read.profile import ProfileReader

        directory = self.output_dir / "profile"
        self._profile = ProfileReader(directory)
        self._sampler = SystemSampler(directory, node=config["node"], interval_ms=config["sample_interval_ms"])
        self._sampler.start()

    def _conclude(self) -> None:
        now = time.time()
        for judge in self.judges:
            if self.interrupted.is_set():
                judge.stop()
            else:
                judge.conclude(now)
        self._write("killed" if self.interrupted.is_set() else "finished")
        self._tell()

    def _ended(self) -> bool:
        return self.finished.is_set() or (self.output_dir / FINISHED).is_file()

    def _pause(self, busy_seconds: float) -> None:
        """Wait before the next look; shorter if the training ends, or the process that this one serves is gone."""
        until = time.monotonic() + min(max(LOOK_SECONDS, busy_seconds / BUSY_SHARE), LONGEST_PAUSE_SECONDS)
        while time.monotonic() < until and not self._ended():
            if os.getppid() != self._parent:
                self.interrupted.set()
            if self.interrupted.wait(POLL_SECONDS):
                return

    def _await_end_marker(self) -> None:
        """smdebug marks the end when its last tensors are on disk; if it failed earlier, it never does."""
        until = time.monotonic() + END_MARKER_SECONDS
        while self.tensors_dir.is_dir() and not (self.tensors_dir / END_MARKER).is_file():
            if time.monotonic() > until:
                self.trouble.append("The tensors have no end marker: saving them had stopped before the training did.")
                return
            time.sleep(POLL_SECONDS)

    def _tell(self) -> None:
        """Report changes of statuses, and actions, to the training process; statuses to disk as well."""
        changed = [judge for judge in self.judges if self._told.get(judge.name) != judge.status]
        for judge in changed:
            self._told[judge.name] = judge.status
            self._send({"event": "status", "rule": judge.name, "status": judge.status})
            if judge.action == "stop" and judge.findings and judge.name not in self._stops:
                self._stops.add(judge.name)
                sentence = judge.findings[0].sentence
                self._send({"event": "action", "action": "stop", "rule": judge.name, "sentence": sentence})
        if changed and any(judge.status == "InProgress" for judge in self.judges):
            self._write("running")

    def _send(self, event: Mapping[str, str]) -> None:
        try:
            os.write(self._channel, f"{json.dumps(event)}\n".encode())
        except OSError:  # nobody listens any more
            self.interrupted.set()

    def _write(self, state: str) -> None:
        self._written = time.monotonic()
        rules = [judge.as_json() for judge in self.judges]
        status = {
            "schema_version": SCHEMA_VERSION,
            "observer": {"state": state, "detail": self._detail()},
            "rules": rules,
            "diagnosis": diagnose(rules),
        }
        files = {STATUS_FILE: status, SERIES_FILE: self.magnitudes.as_json()}
        for name, content in files.items():  # the disk may be full; the next time is another try
            self._guard("Findings could not be written", partial(write_json, self.output_dir / name, content))

    def _detail(self) -> str | None:
        """What went wrong, in one line."""
        unreadable = self.saved.unreadable
        sentences = list(self.trouble)
        if unreadable:
            others = f" and {len(unreadable) - 1} others" if len(unreadable) > 1 else ""
            sentences.append(f"Rules did not see every tensor: {unreadable[0]}{others}.")
        return " ".join(sentences) or None

    def _guard(self, what: str, action: Callable[[], object]) -> None:
        """Whatever goes wrong beside the rules is said once, and the rest goes on."""
        with Capture() as capture:
            action()
        if capture.error is not None:
            sentence = f"{what} ({type(capture.error).__name__}: {capture.error})."
            if sentence not in self.trouble:
                self.trouble.append(sentence)
                print(sentence, file=sys.stderr, flush=True)


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON at once."""
    write_whole(path, json.dumps(content, allow_nan=False))


def write_whole(path: Path, text: str) -> None:
    """Write a file at once: whoever reads it sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluates the debugger's rules beside a training.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file written by the training process")
    config = json.loads(parser.parse_args().config.read_text(encoding="utf-8"))
    os.nice(NICENESS)
    np.seterr(all="ignore")  # infinite values and NaN are what rules look for
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a rule prints must not get among the events
    observer = Observer(config, channel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training; it ends this process
    signal.signal(signal.SIGTERM, lambda number, frame: observer.interrupted.set())
    signal.signal(END_SIGNAL, lambda number, frame: observer.finished.set())
    observer.run()


if __name__ == "__main__":
    main()
