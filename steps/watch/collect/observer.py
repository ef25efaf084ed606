"""The observer: a process beside the training that samples the machine, judges by the rules, and keeps the page live.

    python -m watch.collect.observer FILE

FILE is what the training process wrote: output_dir, tensors_dir, rules (or `requests`, the rule configurations of a
CreateTrainingJob), rules_folder (of the user's own), node, sample_interval_ms, pid (of the training) and parent (which
started this one). About every second the observer looks at what is on disk and writes what it found: rules/status.json,
rules/series.json, rules/stop.txt (the sentence of a rule with the action stop); from time to time a process of its own
brings the report up to date. When finished.json appears
in the output directory (or SIGUSR1 comes, where the disk has no room for a file) or the parent is gone, it judges what
is left and ends. It can be killed at any moment without harm to the training.
"""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from watch.collect.sampler import SystemSampler
from watch.files import module_command, module_environment, say, whole_file
from watch.read.profile import ProfileReader
from watch.read.tensors import END_MARKER, SavedStep, SavedTensors, TensorUnavailable
from watch.rules.base import Curve, finite
from watch.rules.judge import Capture, Judges
from watch.rules.registry import from_request

NICENESS = 10
LOOK_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 3.5  # a stop has to reach the training within 5
BUSY_SHARE = 0.03  # of one core; longer looks are followed by longer pauses
EVIDENCE_SECONDS = 10.0  # between two writings of files whose curves alone have changed
PAGE_SECONDS, PAGE_SHARE = 10.0, 0.05  # at least between two reports; the share of the time that they may take
END_MARKER_SECONDS = 2.0  # that the last tensors may come after finished.json
POLL_SECONDS = 0.25
FINISHED, STATUS_FILE, SERIES_FILE, STOP_FILE = (
    "finished.json",
    "rules/status.json",
    "rules/series.json",
    "rules/stop.txt",
)
END_SIGNAL = signal.SIGUSR1
LOST = "The training's process ended without a last word: the verdicts are on what it had written."


class Observer:
    """Rules at work on the output directory of a training.

    Args:
        config: As in the file.
    """

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
        self._written = 0.0  # monotonic seconds
        self._page_began = self._page_due = time.monotonic()
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
        if self.page is not None and self.page.poll() is None:
            self.page.kill()  # the last one is written from all that is there
            self.page.wait()
        self.write("killed" if self.interrupted.is_set() else "finished")
        if LOST in self.trouble:
            self.guard("The report could not be written", lambda: write_page(self.folder).wait())

    def look(self, *, last: bool) -> None:
        """Show the rules what has been written since the last look; with `last` there will be nothing more."""
        for saved, step in self.judges.new_steps(last=last):
            self.series.add(saved, step)
            if self.interrupted.is_set():
                return
        self.guard("The profile cannot be read", lambda: self.judges.look(time.time(), last=last))
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
                self.guard("Nobody listens", partial(say, f"{name}: {status}"))
            self._statuses[name] = status
            if rule["action"] == "stop" and fired and not self._stopped:
                self._stopped = True
                self.guard("A stop could not be asked for", partial(self._put, STOP_FILE, fired[0]["sentence"]))
        self._written = time.monotonic()
        for name, content in ((STATUS_FILE, document), (SERIES_FILE, self.series.as_json())):
            self.guard("Findings could not be written", partial(self._put, name, json.dumps(content, allow_nan=False)))

    def refresh_page(self) -> None:
        """Begin another report, if it is time; the longer the last one took, the longer it waits."""
        now = time.monotonic()
        if self.page is not None and self.page.poll() is not None:
            self._page_due = self._page_began + max(PAGE_SECONDS, (now - self._page_began) / PAGE_SHARE)
            self.page = None
        if self.page is None and now >= self._page_due + PAGE_SECONDS:
            self._page_began = now
            self.guard("The live report could not be written", lambda: setattr(self, "page", write_page(self.folder)))

    def ended(self) -> bool:
        """Whether the training said that it is over, or is gone."""
        if os.getppid() != self._parent and LOST not in self.trouble and not self.told.is_set():
            self.trouble.append(LOST)
        return LOST in self.trouble or self.told.is_set() or (self.folder / FINISHED).is_file()

    def pause(self, busy_seconds: float) -> None:
        """Wait before the next look; shorter if the training ends."""
        until = time.monotonic() + min(max(LOOK_SECONDS, busy_seconds / BUSY_SHARE), LONGEST_PAUSE_SECONDS)
        while time.monotonic() < until and not self.ended():
            if self.interrupted.wait(POLL_SECONDS):
                return

    def await_end_marker(self) -> None:
        """The end is marked when the last tensors are on disk; if saving them failed earlier, it never is."""
        until = time.monotonic() + END_MARKER_SECONDS
        while self.tensors.is_dir() and LOST not in self.trouble and not (self.tensors / END_MARKER).is_file():
            if time.monotonic() > until:
                self.trouble.append("The tensors have no end marker: saving them had stopped before the training did.")
                return
            time.sleep(POLL_SECONDS)

    def detail(self) -> str | None:
        """What went wrong, in one line."""
        sentences, unreadable = list(self.trouble), self.judges.unreadable
        if unreadable:
            others = f" and {len(unreadable) - 1} others" if len(unreadable) > 1 else ""
            sentences.append(f"Rules did not see every tensor: {unreadable[0]}{others}.")
        return " ".join(sentences) or None

    def guard(self, what: str, action: Callable[[], object]) -> None:
        """Whatever goes wrong beside the rules is said once, and the rest goes on."""
        with Capture() as capture:
            action()
        if capture.error is not None:
            sentence = f"{what} ({type(capture.error).__name__}: {capture.error})."
            if sentence not in self.trouble:
                self.trouble.append(sentence)
                print(sentence, file=sys.stderr, flush=True)

    def _put(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / name) as file:
            file.write(text)


class Series:
    """Mean absolute gradients, weights and biases, and losses, over the steps of the first worker: rules/series.json.

    A few hundred points of each are kept, however long the run.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, dict[str, Curve]] = {"gradients": {}, "weights": {}, "biases": {}}
        self._losses = {"TRAIN": Curve(), "EVAL": Curve()}
        self._worker: str | None = None

    def add(self, saved: SavedTensors, step: SavedStep) -> None:
        """Take a step's figures; what cannot be read is left out."""
        self._worker = self._worker or saved.worker
        if saved.worker != self._worker:
            return
        losses = self._means(saved, step, "losses").values()
        if losses and step.mode.name in self._losses:
            self._losses[step.mode.name].add(step.step, math.fsum(losses) / len(losses))
        for collection, curves in self._parameters.items() if step.mode.name == "TRAIN" else ():
            for name, mean in self._means(saved, step, collection).items():
                short = name.removeprefix("gradient/").partition("_")[2] or name  # of gradient/Net_fc1.weight
                curves.setdefault(short, Curve()).add(step.step, mean)

    def as_json(self) -> dict[str, Any]:
        """Steps and figures by collection."""
        found: dict[str, Any] = {
            collection: {name: self._points(curve, "abs_mean") for name, curve in curves.items()}
            for collection, curves in self._parameters.items()
        }
        return found | {"losses": {mode: self._points(curve, "value") for mode, curve in self._losses.items()}}

    @staticmethod
    def _means(saved: SavedTensors, step: SavedStep, collection: str) -> dict[str, float]:
        """Means of a step's tensors of a collection by name: of the absolute values, but for losses."""
        found = {}
        for name in saved.tensor_names(step=step.step, mode=step.mode, collection=collection):
            try:
                absolute = collection != "losses"
                found[name] = saved.tensor(name).reduction_value(step.step, "mean", mode=step.mode, abs=absolute)
            except TensorUnavailable:
                continue
        return found

    @staticmethod
    def _points(curve: Curve, y_name: str) -> dict[str, Any]:
        return {"step": [int(x) for x in curve.x], y_name: [finite(y) for y in curve.y]}


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
