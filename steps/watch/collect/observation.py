"""The training's side of the observer: starts it, asks it for verdicts at the end; and `watch run`, around any command.

A debugging aid must never cost a training: nothing here raises, and reading `stop_requested` costs nothing.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from watch.collect.observer import END_SIGNAL, STOP_FILE, write_page
from watch.files import module_command, module_environment, put, say
from watch.read.source import FINISHED, HISTORY, STATUS
from watch.rules.judge import SCHEMA_VERSION
from watch.rules.registry import default_entries

CONFIG_FILE = "rules/observer.json"
FINAL = ("NoIssuesFound", "IssuesFound", "Error", "Stopped")
VERDICT_SECONDS = 60.0  # that the observer may take at the end for what is left
REPORT_SECONDS = 120.0
STOP_SECONDS = 0.5  # between two looks for a stop
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NO_VERDICT: dict[str, Any] = {"kind": "tensor", "action": "none", "semantics": "watch", "severity": "problem"}
NO_VERDICT |= {"cause": None, "parameters": {}, "fired": [], "evidence": None, "advice": "", "traceback": None}


class Observation:
    """An observer beside a training, from the beginning of the with block to its end or to `finish`.

    `rules` are as in rules/registry.py; None stands for all that need no parameters. `settings` are tensors_dir,
    sample_interval_ms, node, rules_folder and pid, where they are not the usual ones.
    """

    def __init__(self, folder: Path, rules: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.folder, self.rules = folder, default_entries() if rules is None else dict(rules)
        pid, places = os.getpid(), {"output_dir": str(folder), "tensors_dir": str(folder / "tensors")}
        usual = {"sample_interval_ms": 500, "node": "algo-1", "pid": pid, "parent": pid}
        self._config = {**places, "rules": self.rules, **usual, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble: str | None = None  # why there are no verdicts
        self._stop: str | None = None
        self._looked = 0.0  # monotonic seconds

    def __enter__(self) -> "Observation":
        try:
            for name in (FINISHED, STATUS, STOP_FILE):
                (self.folder / name).unlink(missing_ok=True)
            put(self.folder / CONFIG_FILE, json.dumps(self._config))
            self._process = subprocess.Popen(
                [*module_command("watch.collect.observer"), str(self.folder / CONFIG_FILE)],
                stdin=subprocess.DEVNULL,
                env=module_environment() | ONE_THREAD,
                start_new_session=True,  # a signal to the training's group is for the training to answer
            )
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            self._give_up(f"the observer could not be started ({error})")
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._wait(self._process, 3.0)

    @property
    def stop_requested(self) -> str | None:
        """The sentence of the rule that asks the training to stop, if one does."""
        if self._stop is None and time.monotonic() - self._looked > STOP_SECONDS:
            self._looked = time.monotonic()
            try:
                self._stop = (self.folder / STOP_FILE).read_text(encoding="utf-8")
            except (OSError, ValueError):
                return None
        return self._stop

    @property
    def document(self) -> dict[str, Any]:
        """What rules/status.json says now; without rules where there is none."""
        try:
            return {"rules": [], **json.loads((self.folder / STATUS).read_bytes())}
        except (OSError, ValueError, TypeError):
            return {"rules": []}

    @property
    def verdicts(self) -> dict[str, str]:
        """The status of each rule by name, as of now."""
        known = {rule["name"]: rule["status"] for rule in self.document["rules"]}
        return dict.fromkeys(self.rules, "InProgress") | known

    def finish(self, timeout_seconds: float = VERDICT_SECONDS) -> dict[str, str]:
        """Tell the observer that the training is over, wait for its last word, and return the rules' statuses by name.

        Each is NoIssuesFound, IssuesFound, Error or Stopped; Error also where the observer gave no verdict.
        """
        process = self._process
        if process is not None:
            if process.poll() is None:
                try:
                    put(self.folder / FINISHED, json.dumps({"finished": time.time()}))
                except OSError:  # a full disk, say
                    process.send_signal(END_SIGNAL)
            self._wait(process, timeout_seconds)
        self.__exit__()
        verdicts = self.verdicts
        missing = [name for name, status in verdicts.items() if status not in FINAL]
        if missing or self._trouble:
            self._record(missing, self._trouble or "the observer ended without a verdict")
        return verdicts | dict.fromkeys(missing, "Error")

    def conclude(self) -> None:
        """Finish, write the report, and say what was found and where it is."""
        verdicts = self.finish()
        write_report(self.folder)
        for entry in self.document.get("diagnosis", []):
            say(f"Watch: {entry['sentence']}")
        fired = sum(status == "IssuesFound" for status in verdicts.values())
        idle = sum(bool(rule.get("note")) and rule["status"] == "NoIssuesFound" for rule in self.document["rules"])
        judged = f"{fired} of {len(verdicts)} rules found something, {idle} had too little to judge"
        say(f"Watch: {judged}. Report: {self.folder / 'report/debugger.html'}")

    def tell(self, history: Mapping[str, Any]) -> None:
        """Write history.json: how the training ended."""
        try:
            put(self.folder / HISTORY, json.dumps(history))
        except OSError as error:
            say(f"Debugger: {HISTORY} could not be written ({error}).")

    def _wait(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        """Until the process has ended; it is killed where it takes too long, or was stopped by a signal."""
        until = time.monotonic() + seconds
        while process.poll() is None:
            stopped = psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
            if stopped or time.monotonic() > until:
                process.kill()
                process.wait()
                how = "is stopped" if stopped else f"had not finished after {seconds:g} seconds"
                return self._give_up(f"the observer {how}")
            time.sleep(0.02)
        if code := process.returncode:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._give_up(f"the observer {how}")

    def _give_up(self, trouble: str) -> None:
        if self._trouble is None:
            self._trouble = trouble
            say(f"Debugger: {trouble}. The training goes on without it.")

    def _record(self, missing: Sequence[str], reason: str) -> None:
        """Put into the status file what the observer can no longer say."""
        document = {"schema_version": SCHEMA_VERSION, "diagnosis": [], **self.document}
        known = {rule["name"]: rule for rule in document["rules"]}
        for name in missing:
            entry = {**NO_VERDICT, "name": name, "rule": name, "judged": 0, **known.get(name, {})}
            known[name] = entry | {"status": "Error", "note": f"no verdict: {reason}"}
            say(f"{name}: Error")
        observer = {"state": "killed", "detail": f"{reason[0].upper()}{reason[1:]}."}
        try:
            put(self.folder / STATUS, json.dumps({**document, "rules": list(known.values()), "observer": observer}))
        except OSError as error:
            say(f"Debugger: the verdicts could not be written ({error}).")


def write_report(folder: Path) -> None:
    """Write the report in a process of its own: whatever is wrong with it, the training has ended well."""
    try:
        process = write_page(folder)
        try:
            code = process.wait(REPORT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        why = f"its process ended with exit code {code}" if code else None
    except OSError as error:
        why = str(error)
    if why:
        say(f"The debugger's report could not be written: {why}.")


def run_observed(command: Sequence[str], out: Path | None = None) -> int:
    """Run a command with an observer beside it, and return its exit code, 128 + n where signal n ended it.

    `out` is the run's folder, which the command finds in WATCH_DIR; `watch()` in a script saves tensors there.
    """
    folder = (out or Path("watch") / time.strftime("%Y%m%d-%H%M%S")).absolute()
    with contextlib.suppress(OSError):
        (folder / HISTORY).unlink()  # of an earlier run
    try:
        child = subprocess.Popen(command, env=os.environ | {"WATCH_DIR": str(folder), "WATCH_OBSERVED": "1"})
    except OSError as error:
        print(f"watch run: {command[0]} could not be started ({error.strerror}).", file=sys.stderr)
        return 127

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT or not sys.stdin.isatty():  # a terminal's Ctrl-C goes to both
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    with Observation(folder, pid=child.pid) as observation:
        code = child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        if code and not (folder / HISTORY).exists():  # the training could not say so itself
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            observation.tell({"outcome": "Failed", "reason": f"The command ended with {how}."})
        observation.conclude()
    return code if code >= 0 else 128 - code
