"""The training process's side of the observer: starts it, relays its words to the log, and collects its verdicts.

A debugging aid must never cost a training: nothing here raises, and reading `stop_requested` costs nothing.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from watch.collect.observer import END_SIGNAL, FINISHED, STATUS_FILE, write_json
from watch.files import module_command, module_environment, say
from watch.rules.registry import check, sources

CONFIG_FILE = "rules/observer.json"
FINAL = ("NoIssuesFound", "IssuesFound", "Error", "Stopped")
SECONDS_TO_END = 3.0  # of an observer that was told to
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


EMPTY_RULE: dict[str, Any] = {
    "kind": "tensor",
    "action": "none",
    "parameters": {},
    "fired": [],
    "evidence": None,
    "advice": "",
    "traceback": None,
    "note": None,
}


class Observation:
    """An observer beside this process, from the beginning of the with block to its end or to `finish`.

    Args:
        config: output_dir, tensors_dir, rules, sample_interval_ms, node and job_name, as the observer reads them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.stop_requested: str | None = None  # why a rule wants the training to stop
        self._config = config
        self._output_dir = Path(config["output_dir"])
        self._statuses: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._trouble: str | None = None  # why there are no more words from the observer
        self._finishing = False

    @classmethod
    def beside_this_process(cls, folder: Path) -> "Observation | None":
        """Begin to observe the run in a folder; None where `watch run` does so already, or another asked not to."""
        if os.environ.get("WATCH_OBSERVED"):
            return None
        entries = {name: None for name in sources() if not check({name: None})}
        config = {"output_dir": str(folder), "tensors_dir": str(folder / "tensors"), "rules": entries}
        return cls({**config, "sample_interval_ms": 500, "node": "algo-1", "job_name": folder.name}).__enter__()

    @property
    def verdicts(self) -> dict[str, str]:
        """The status of each rule by name, as far as the observer has told it."""
        return dict(self._statuses)

    def conclude(self) -> None:
        """Wait for the verdicts, and print those that found something."""
        self.finish(60)

    def __enter__(self) -> "Observation":
        try:
            self._start()
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            self._give_up(f"the observer could not be started ({error})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finishing = True
        self._end()

    def finish(self, timeout_seconds: float) -> dict[str, str]:
        """Tell the observer that the training is over, and wait for its last word.

        Returns:
            The status of each rule by name: NoIssuesFound, IssuesFound, Error or Stopped. Error also where the
            observer gave no verdict.
        """
        self._finishing = True
        if self._process is not None:
            try:
                self._tell_end(self._process)
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._give_up(f"the observer had not finished after {timeout_seconds:g} seconds")
        self._end()
        return self._verdicts()

    def _tell_end(self, process: "subprocess.Popen[str]") -> None:
        try:
            write_json(self._output_dir / FINISHED, {"finished": time.time()})
        except OSError:  # a full disk, say
            process.send_signal(END_SIGNAL)

    def _start(self) -> None:
        for name in (FINISHED, STATUS_FILE):
            (self._output_dir / name).unlink(missing_ok=True)
        write_json(self._output_dir / CONFIG_FILE, self._config)
        self._process = subprocess.Popen(
            [*module_command("watch.collect.observer"), "--config", str(self._output_dir / CONFIG_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=module_environment() | ONE_THREAD,
            start_new_session=True,  # a signal to the training's group is for the training to answer
        )
        self._reader = threading.Thread(target=self._read, name="observation", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Take in the observer's lines until it ends. Runs in a thread of its own."""
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._take(json.loads(line))
            except (KeyError, TypeError, ValueError):
                say(f"Debugger: the observer said something that is no event: {line.strip()[:200]}")
        code = self._process.wait()
        if code or not self._finishing:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._give_up(f"the observer {how}")

    def _take(self, event: Mapping[str, str]) -> None:
        if event["event"] == "status":
            self._statuses[event["rule"]] = event["status"]
            say(f"{event['rule']}: {event['status']}")
        elif event["event"] == "action" and self.stop_requested is None:
            self.stop_requested = event["sentence"]

    def _give_up(self, trouble: str) -> None:
        if self._trouble is None:
            self._trouble = trouble
            say(f"Debugger: {trouble}. The training goes on without it.")

    def _end(self) -> None:
        """See to it that the process and the thread are gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._reader is not None:
            self._reader.join(SECONDS_TO_END)

    def _verdicts(self) -> dict[str, str]:
        verdicts = {name: self._statuses.get(name, "InProgress") for name in self._config["rules"]}
        missing = [name for name, status in verdicts.items() if status not in FINAL]
        if missing or self._trouble:
            reason = self._trouble or "the observer ended without a verdict"
            for name in missing:
                verdicts[name] = "Error"
                say(f"{name}: Error")
            self._record(verdicts, reason)
        return verdicts

    def _record(self, verdicts: Mapping[str, str], reason: str) -> None:
        """Put into the status file what the observer can no longer say."""
        try:
            status = _read_status(self._output_dir / STATUS_FILE)
            known = {rule["name"]: rule for rule in status["rules"]}
            status["observer"] = {"state": "killed", "detail": f"{reason[0].upper()}{reason[1:]}."}
            status["rules"] = [
                {**EMPTY_RULE, "name": name, "rule": name, **known.get(name, {}), "status": verdict}
                for name, verdict in verdicts.items()
            ]
            for rule in status["rules"]:
                if rule["status"] == "Error" and not rule["traceback"]:
                    rule["note"] = f"no verdict: {reason}"
            write_json(self._output_dir / STATUS_FILE, status)
        except (OSError, LookupError, TypeError, ValueError) as error:
            say(f"Debugger: the verdicts could not be written ({error}).")


def _read_status(path: Path) -> dict[str, Any]:
    """The observer's last state; an empty one if it never wrote any."""
    try:
        status: dict[str, Any] = json.loads(path.read_bytes())
        return status
    except (OSError, ValueError):
        return {"schema_version": 1, "rules": []}
