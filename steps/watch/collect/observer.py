"""The observer: a process beside the training that samples the machine, judges by the rules, and keeps the page live.

    python -m watch.collect.observer FILE

FILE is what the training process wrote: output_dir, tensors_dir, rules (or `requests`, the rule configurations of a
CreateTrainingJob), rules_folder (of the user's own), node, sample_interval_ms, pid (of the training) and parent (which
started this one). About every second the observer looks at what is on disk and writes what it found: rules/status.json,
rules/series.json, rules/stop.txt (the sentence of a rule with the action stop); from time to time a process of its own
brings the report up to date. When finished.json appears in the output directory (or SIGUSR1 comes, where the disk has
no room for a file) or the parent is gone, it judges what is left and ends. It can be killed at any moment without harm
to the training.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from watch.collect.sampler import SystemSampler
from watch.files import module_command, module_environment, put, say
from watch.read.profile import ProfileReader
from watch.read.source import FINISHED, SERIES, STATUS
from watch.read.tensors import END_MARKER, SavedStep, SavedTensors, TensorUnavailable
from watch.rules.base import Curve, finite
from watch.rules.judge import Judges
from watch.rules.registry import from_request

NICENESS = 10
LOOK_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 3.5  # a stop has to reach the training within 5
BUSY_SHARE = 0.03  # of one core; longer looks are followed by longer pauses
EVIDENCE_SECONDS = 10.0  # between two writings of files whose curves alone have changed
PAGE_SECONDS, PAGE_SHARE = 10.0, 0.05  # at least between two reports; the share of the time that they may take
END_MARKER_SECONDS = 2.0  # that the last tensors may come after finished.json
POLL_SECONDS = 0.25
STOP_FILE = "rules/stop.txt"
END_SIGNAL = signal.SIGUSR1
LOST = "The training's process ended without a last word: the verdicts are on what it had written."
NO_END_MARKER = "The tensors have no end marker: saving them had stopped before the training did."


class Observer:
    """Rules at work on the output directory of a training, as the configuration file says."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.folder, self.tensors = Path(config["output_dir"]), Path(config["tensors_dir"])
        self.interrupted, self.told = threading.Event(), threading.Event()  # to end now; that the training has ended
        profile = self.folder / "profile"
        own = Path(config["rules_folder"]) if config.get("rules_folder") else None
        self.judges = Judges(config["rules"], self.tensors, ProfileReader(profile), rules_folder=own)
        self.series = Series()
        self.trouble: list[str] = []  # sentences
        self.page: subprocess.Popen[bytes] | None = None
        self._statuses: dict[str, str] = {}
        self._stopped = False
        self._written = self._page_began = time.monotonic()
        self._page_due = self._page_began + PAGE_SECONDS
        self._parent = config["parent"]
        interval, pid = config["sample_interval_ms"], config["pid"]
        self.sampler = SystemSampler(profile, node=config["node"], interval_ms=interval, pid=pid)

    def run(self) -> None:
        """Look at what the training writes until it has finished, or this process is told to end."""
        self.sampler.start()
        self.write("running")
        while not (self.ended() or self.interrupted.is_set()):
            began = time.process_time()
            self.look(last=False)
            self.refresh_page()
            self.pause(time.process_time() - began)
        self.sampler.stop()
        if self.interrupted.is_set():
            self.judges.stop()
        else:
            self.await_end_marker()
            self.look(last=True)
            self.judges.conclude(time.time())
        if self.page is not None:
            self.page.kill()  # the last one is written from all that is there
            self.page.wait()
        self.write("killed" if self.interrupted.is_set() else "finished")
        if LOST in self.trouble:
            with self.guarded("The report could not be written"):
                write_page(self.folder).wait()

    def look(self, *, last: bool) -> None:
        """Show the rules what has been written since the last look; with `last` there will be nothing more."""
        for saved, step in self.judges.new_steps(last=last):
            self.series.add(saved, step)
            if self.interrupted.is_set():
                return
        with self.guarded("The profile cannot be read"):
            self.judges.look(time.time(), last=last)
        document = self.judges.document("running", self.detail())
        changed = {rule["name"]: rule["status"] for rule in document["rules"]} != self._statuses
        if changed or time.monotonic() - self._written > EVIDENCE_SECONDS:
            self.write("running")

    def write(self, state: str) -> None:
        """Write what was found; what is new is printed as well."""
        document = self.judges.document(state, self.detail())
        for rule in document["rules"]:
            name, status, fired = rule["name"], rule["status"], rule["fired"]
            if status in ("IssuesFound", "Error") and status != self._statuses.get(name):
                with self.guarded("Nobody listens"):
                    say(f"{name}: {status}")
            self._statuses[name] = status
            if rule["action"] == "stop" and fired and not self._stopped:
                self._stopped = True
                with self.guarded("A stop could not be asked for"):
                    put(self.folder / STOP_FILE, fired[0]["sentence"])
        self._written = time.monotonic()
        for name, content in ((STATUS, document), (SERIES, self.series.as_json())):
            with self.guarded("Findings could not be written"):
                put(self.folder / name, json.dumps(content, allow_nan=False))

    def refresh_page(self) -> None:
        """Begin another report, if it is time; the longer the last one took, the longer it waits."""
        now = time.monotonic()
        if self.page is not None and self.page.poll() is not None:
            self._page_due = now + max(PAGE_SECONDS, (now - self._page_began) / PAGE_SHARE)
            self.page = None
        if self.page is None and now >= self._page_due:
            self._page_began = now
            with self.guarded("The live report could not be written"):
                self.page = write_page(self.folder)

    def ended(self) -> bool:
        """Whether the training said that it is over, or is gone."""
        if os.getppid() != self._parent and LOST not in self.trouble and not self.told.is_set():
            self.trouble.append(LOST)
        return LOST in self.trouble or self.told.is_set() or (self.folder / FINISHED).is_file()

    def pause(self, busy_seconds: float) -> None:
        """Wait before the next look; shorter if the training ends."""
        until = time.monotonic() + min(max(LOOK_SECONDS, busy_seconds / BUSY_SHARE), LONGEST_PAUSE_SECONDS)
        while time.monotonic() < until and not self.ended() and not self.interrupted.wait(POLL_SECONDS):
            pass

    def await_end_marker(self) -> None:
        """The end is marked when the last tensors are on disk; if saving them failed earlier, it never is."""
        until = time.monotonic() + END_MARKER_SECONDS
        while self.tensors.is_dir() and LOST not in self.trouble and not (self.tensors / END_MARKER).is_file():
            if time.monotonic() > until:
                self.trouble.append(NO_END_MARKER)
                return
            time.sleep(POLL_SECONDS)

    def detail(self) -> str | None:
        """What went wrong, in one line."""
        sentences, unreadable = list(self.trouble), self.judges.unreadable
        if unreadable:
            others = f" and {len(unreadable) - 1} others" if len(unreadable) > 1 else ""
            sentences.append(f"Rules did not see every tensor: {unreadable[0]}{others}.")
        return " ".join(sentences) or None

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Whatever goes wrong beside the rules is said once, and the rest goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as it says
            sentence = f"{what} ({type(error).__name__}: {error})."
            if sentence not in self.trouble:
                self.trouble.append(sentence)
                print(sentence, file=sys.stderr, flush=True)


class Series:
    """Mean absolute gradients, weights and biases, and losses, over the steps of the first worker: rules/series.json.

    A few hundred points of each are kept, however long the run.
    """

    def __init__(self) -> None:
        self._curves: dict[str, dict[str, Curve]] = {name: {} for name in ("gradients", "weights", "biases", "losses")}
        self._curves["losses"] = {"TRAIN": Curve(), "EVAL": Curve()}
        self._worker: str | None = None

    def add(self, saved: SavedTensors, step: SavedStep) -> None:
        """Take a step's figures; what cannot be read is left out."""
        self._worker = self._worker or saved.worker
        mode = step.mode.name
        if saved.worker != self._worker or mode not in self._curves["losses"]:
            return
        for collection in self._curves if mode == "TRAIN" else ("losses",):
            absolute, means = collection != "losses", {}
            for name in saved.tensor_names(step=step.step, mode=step.mode, collection=collection):
                with suppress(TensorUnavailable):
                    tensor = saved.tensor(name)
                    means[name] = tensor.reduction_value(step.step, "mean", mode=step.mode, abs=absolute)
            if means and not absolute:
                means = {mode: math.fsum(means.values()) / len(means)}
            for name, mean in means.items():
                short = name.removeprefix("gradient/").partition("_")[2] or name  # of gradient/Net_fc1.weight
                self._curves[collection].setdefault(short, Curve()).add(step.step, mean)

    def as_json(self) -> dict[str, Any]:
        """Steps and figures by collection."""

        def points(curve: Curve, y_name: str) -> dict[str, Any]:
            return {"step": [int(x) for x in curve.x], y_name: [finite(y) for y in curve.y]}

        labels = dict.fromkeys(self._curves, "abs_mean") | {"losses": "value"}
        return {
            collection: {name: points(curve, labels[collection]) for name, curve in curves.items()}
            for collection, curves in self._curves.items()
        }


def write_page(folder: Path) -> "subprocess.Popen[bytes]":
    """Begin a process that writes the report from what is there; what it says goes to standard error."""
    command = [*module_command("watch.__main__"), "report", str(folder), "--out", str(folder / "report")]
    return subprocess.Popen(command, env=module_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def entries_of(configurations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the rules of a CreateTrainingJob; the verdict of one that we do not have is an Error that names it."""
    entries, _ = from_request(configurations)
    asked = {each["RuleConfigurationName"]: each.get("RuleParameters") or {} for each in configurations}
    return {name: entries.get(name, {"rule": given.get("rule_to_invoke", name)}) for name, given in asked.items()}


def main() -> None:
    """Run the observer that a configuration file describes."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.nice(NICENESS)
    np.seterr(all="ignore")  # infinite values and NaN are what rules look for
    if "requests" in config:
        config["rules"] = entries_of(config["requests"])
    observer = Observer(config)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which tells this process
    signal.signal(signal.SIGTERM, lambda number, frame: observer.interrupted.set())
    signal.signal(END_SIGNAL, lambda number, frame: observer.told.set())
    observer.run()


if __name__ == "__main__":
    main()
