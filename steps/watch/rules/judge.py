"""Rules at work on a run: their statuses, when they fired, and the document of both, rules/status.json.

There is one judge per rule, of a tensor rule one per worker; in the document they are one entry, whose status is the
worst of theirs. Rules are anybody's code: what one raises harms nothing but its own verdict.
"""

import bisect
import contextlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from watch.read.profile import ProfileReader
from watch.read.source import Source
from watch.read.tensors import COLLECTIONS, SavedStep, SavedTensors, TensorUnavailable, listed, workers
from watch.rules.base import Mode, Profile, ProfilerRule, Rule, TensorRule, Trial
from watch.rules.diagnosis import CAUSES, diagnose

Action = Literal["none", "stop"]
Status = Literal["InProgress", "NoIssuesFound", "IssuesFound", "Error", "Stopped"]
WORST_FIRST: Sequence[Status] = ("IssuesFound", "Error", "InProgress", "Stopped", "NoIssuesFound")
SCHEMA_VERSION = 2
MAXIMUM_FINDINGS = 20
MEND = "Mend the rule: its traceback says where it failed."


@dataclass(frozen=True)
class Finding:
    """One time a rule fired. Step and mode are None where a rule does not look at steps."""

    step: int | None
    mode: str | None
    time: float  # epoch seconds
    worker: str | None
    sentence: str


class Capture:
    """Keeps what a rule raises."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


@dataclass
class Judge:
    """Shows a rule what there is and keeps its verdict. A rule that raised is not asked again.

    Args:
        name: In logs, reports and metrics.
        rule: None if even making it failed; then `traceback` says why and the verdict is Error.
        worker: Whose tensors it is shown; None with only one.
    """

    name: str
    rule_name: str
    rule: Rule | None
    action: Action = "none"
    worker: str | None = None
    status: Status = "InProgress"
    findings: list[Finding] = field(default_factory=list)
    traceback: str | None = None
    kind: str = "tensor"
    given: dict[str, Any] = field(default_factory=dict)
    _evaluated: float = 0.0  # epoch seconds
    _fired: bool = False  # at the last time
    _seen: int = 0  # steps
    _due: int = 64  # steps after which a rule that may stop the training is asked

    def __post_init__(self) -> None:
        if self.rule is not None:
            self.kind, self.given = self.rule.kind, self.rule.parameters()
            self.action = "stop" if self.rule.wants_stop else self.action
        if self.traceback is not None:
            self.status = "Error"

    def see(self, trial: Trial, step: int, mode: Mode, now: float) -> None:
        """Show a tensor rule one saved step. One that may stop the training is asked for its verdict now and then."""
        if isinstance(rule := self.rule, TensorRule):
            rule.now = now
            self._ask(lambda: rule.evaluate(trial, step, mode), now, step=step, mode=mode.name)
            self._seen += 1
            if self.action == "stop" and rule.semantics == "watch" and self._seen >= self._due:
                self._due = int(1.25 * self._seen)
                self._ask(lambda: self._twice(rule.conclude()), now, step=step, mode=mode.name)

    def see_idle(self, now: float) -> None:
        """Tell a tensor rule that nothing more was saved by now."""
        if isinstance(rule := self.rule, TensorRule):
            self._ask(lambda: rule.idle(now), now)

    def due(self, now: float, *, last: bool) -> bool:
        """Whether a profiler rule wants to see the profile: its scan interval is over, or this is the last time."""
        if not isinstance(self.rule, ProfilerRule) or self.traceback:
            return False
        return last or now - self._evaluated >= self.rule.scan_interval_us / 1e6

    def see_profile(self, profile: Profile, now: float) -> None:
        """Show a profiler rule the profile; it keeps saying what is the case, and its beginning is what counts."""
        if isinstance(rule := self.rule, ProfilerRule):
            self._evaluated = now
            self._ask(lambda: self._once(rule.evaluate(profile, now)), now)

    def see_verdicts(self, fired: Mapping[str, Sequence[str]], now: float) -> None:
        """Show ProfilerReport what the other profiler rules found."""
        if isinstance(rule := self.rule, ProfilerRule) and not self.findings:
            self._ask(lambda: rule.summarise(fired), now)

    def conclude(self, now: float) -> None:
        """The training is over: a rule that found nothing found no issues."""
        if isinstance(rule := self.rule, TensorRule):
            self._ask(rule.conclude, now)
        if self.status == "InProgress":
            self.status = "NoIssuesFound"

    def stop(self) -> None:
        """The evaluation ends before the training did."""
        if self.status == "InProgress":
            self.status = "Stopped"

    def sentences(self) -> list[str]:
        """What it found so far."""
        return [finding.sentence for finding in self.findings]

    def as_json(self) -> dict[str, Any]:
        """The entry in rules/status.json."""
        rule = self.rule
        return {
            "name": self.name,
            "rule": self.rule_name,
            "kind": self.kind,
            "status": self.status,
            "action": self.action,
            "semantics": rule.semantics if rule else "watch",
            "severity": rule.severity if rule else "problem",
            "cause": rule.cause if rule else None,
            "parameters": self.given,
            "fired": [vars(finding) for finding in self.findings],
            "evidence": rule.evidence.as_json() if rule and rule.evidence else None,
            "advice": rule.advice or CAUSES[rule.cause or "stalled"].advice if rule else MEND,
            "traceback": self.traceback,
            "note": rule.note if rule else None,
            "judged": rule.judged if rule else 0,
        }

    def _ask(
        self, question: Callable[[], str | None], now: float, *, step: int | None = None, mode: str | None = None
    ) -> None:
        """Keep the answer, or what the rule raised; a tensor that it missed passes the step over."""
        if self.traceback:
            return
        with Capture() as capture:
            sentence = question()
            if sentence:
                self.status = "IssuesFound"
                if len(self.findings) < MAXIMUM_FINDINGS:
                    self.findings.append(Finding(step, mode, now, self.worker, sentence))
        if capture.error is not None and not isinstance(capture.error, TensorUnavailable):
            self.traceback = "".join(traceback.format_exception(capture.error))
            self.status = self.status if self.findings else "Error"

    def _once(self, sentence: str | None) -> str | None:
        """The sentence, unless there was one at the last time."""
        fired, self._fired = self._fired, bool(sentence)
        return None if fired else sentence

    def _twice(self, sentence: str | None) -> str | None:
        """The sentence, if there was one at the last time."""
        fired, self._fired = self._fired, bool(sentence)
        return sentence if fired else None


@dataclass
class SmdebugJudge(Judge):
    """A judge of a subclass of smdebug.rules.Rule, shown smdebug's own trial of the run.

    The trial is made when there is a collections file, since create_trial waits for that; the rule is asked about
    complete steps only, since Rule.invoke waits for others. A configured action is taken by the judge, not by the
    rule's own action_str. smdebug's import takes a second: it happens only where such a rule is configured.
    """

    load: Callable[[], Any] = dict
    _rule: Any = None
    _next_step: int = 0  # global
    _asked: int = 0

    def look(self, tensors_dir: Path, now: float) -> None:
        """Ask the rule about all complete steps that it has not seen."""
        if listed(tensors_dir / COLLECTIONS):
            self._ask(lambda: self._invoke(tensors_dir, now), now)

    def as_json(self) -> dict[str, Any]:
        advice = "This rule was written for this project: its own code says what it looks for."
        note = None if self._asked else "too little data: no steps were saved"
        return super().as_json() | {"kind": "custom", "advice": advice, "note": note, "judged": self._asked}

    def _invoke(self, tensors_dir: Path, now: float) -> None:
        # smdebug is told by its environment to be quiet, and not to sleep once it sees the end marker
        os.environ.setdefault("SMDEBUG_LOG_LEVEL", "warning")
        os.environ.setdefault("SMDEBUG_TRAINING_END_DELAY_REFRESH", "0")
        with _without_torch():
            from smdebug import exceptions as smd
            from smdebug.rules import Rule
            from smdebug.trials import create_trial
        if self._rule is None:
            # AWS's examples call super().__init__(base_trial), which smdebug 1.0.34 refuses: it wants an action_str
            Rule.__init__.__defaults__ = ("", None)
            rule_class = self.load()
            action = {"action_str": ""} if "action_str" in inspect.signature(rule_class).parameters else {}
            self._rule = rule_class(create_trial(str(tensors_dir)), **action, **self.given)
        trial = self._rule.base_trial
        steps = trial.steps()
        for step in steps[bisect.bisect_left(steps, self._next_step) :]:
            self._next_step, self._asked = step + 1, self._asked + 1
            try:
                self._rule.invoke(step)
            except smd.RuleEvaluationConditionMet:
                mode, mode_step = trial.mode_modestep(step)
                sentence = f"{self.rule_name} met its condition at step {mode_step}, mode {mode.name}."
                self._ask(partial(str, sentence), now, step=mode_step, mode=mode.name)
            except (smd.NoMoreData, smd.StepUnavailable, smd.TensorUnavailable, smd.TensorUnavailableForStep):
                continue  # the rule looked for something that this step does not have


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """smdebug imports torch where it finds it, which doubles the time and takes 200 MB, and reads trials without it."""
    modules: dict[str, Any] = sys.modules
    hidden = "torch" not in modules
    if hidden:
        modules["torch"] = None
    try:
        yield
    finally:
        if hidden:
            del modules["torch"]


class Judges:
    """The rules of a configuration at work on a run as it grows: on the tensors of each worker, and on the profile.

    Args:
        entries: As in rules/registry.py.
        tensors_dir: In smdebug's layout; need not exist yet. None if the run has none.
        profile: None if the run has none.
    """

    def __init__(
        self, entries: Mapping[str, Any], tensors_dir: Path | None, profile: ProfileReader | None, **options: Any
    ) -> None:
        from watch.rules.registry import make  # which makes judges

        self.tensors_dir, self.profile = tensors_dir, profile
        self._make = {name: partial(make, name, entry, **options) for name, entry in entries.items()}
        self.judges: dict[str, list[Judge]] = {name: [one()] for name, one in self._make.items()}
        self.workers: dict[str, SavedTensors] = {}

    @property
    def unreadable(self) -> list[str]:
        """What could not be read of the tensors: sentences."""
        return [sentence for saved in self.workers.values() for sentence in saved.unreadable]

    def new_steps(self, *, last: bool = False) -> Iterator[tuple[SavedTensors, SavedStep]]:
        """Show the rules each step that was saved since the last look, and then yield it.

        Args:
            last: There will be nothing more.
        """
        self._find_workers()
        for number, saved in enumerate(self.workers.values()):
            for step in saved.new_steps(last=last):
                for judges in self.judges.values():
                    judges[min(number, len(judges) - 1)].see(saved, step.step, step.mode, step.time)
                yield saved, step

    def look(self, now: float, *, last: bool = False) -> None:
        """Let the rules judge what is no step: time that passed, the profile, smdebug's trial."""
        for judge in self._all():
            if isinstance(judge, SmdebugJudge) and self.tensors_dir:
                judge.look(self.tensors_dir, now)
            elif not last:
                judge.see_idle(now)
        due = [judge for judge in self._all() if judge.due(now, last=last)]
        if self.profile is None or not due:
            return
        self.profile.refresh()
        for judge in due:
            judge.see_profile(self.profile, now)
        fired = {judge.name: judge.sentences() for judge in self._all() if judge.kind == "profiler"}
        for judge in due:
            judge.see_verdicts({name: found for name, found in fired.items() if name != judge.name}, now)

    def conclude(self, now: float) -> None:
        """The training is over."""
        for judge in self._all():
            judge.conclude(now)

    def stop(self) -> None:
        """The evaluation ends before the training did."""
        for judge in self._all():
            judge.stop()

    def document(self, state: str, detail: str | None) -> dict[str, Any]:
        """What rules/status.json holds.

        Args:
            state: running, finished or killed.
            detail: What went wrong beside the rules, if something did.
        """
        rules = [merged([judge.as_json() for judge in judges]) for judges in self.judges.values()]
        observer = {"state": state, "detail": detail}
        found = {"schema_version": SCHEMA_VERSION, "observer": observer, "rules": rules}
        return found | {"diagnosis": diagnose(rules)}

    def _all(self) -> list[Judge]:
        return [judge for judges in self.judges.values() for judge in judges]

    def _find_workers(self) -> None:
        """Open the tensors of workers that are new; of each tensor rule, each worker has its own judge."""
        if self.tensors_dir is None:
            return
        for worker in workers(self.tensors_dir):
            if worker in self.workers:
                continue
            self.workers[worker] = SavedTensors(self.tensors_dir, worker)
            for name, judges in self.judges.items():
                if len(self.workers) > 1 and isinstance(judges[0].rule, TensorRule):
                    judges[0].worker = next(iter(self.workers))
                    judges.append(self._make[name](worker=worker))


def merged(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry of the entries of a rule's workers: of the worst, with what was found at all of them."""
    worst = min(entries, key=lambda entry: WORST_FIRST.index(entry["status"]))
    fired = sorted((finding for entry in entries for finding in entry["fired"]), key=lambda finding: finding["time"])
    return worst | {"fired": fired[:MAXIMUM_FINDINGS], "judged": sum(entry["judged"] for entry in entries)}


def judge_folder(source: Source, entries: Mapping[str, Any], last: bool = True, **options: Any) -> dict[str, Any]:
    """Judge what a run has saved so far: the document of rules/status.json.

    Args:
        last: The training is over: rules on a whole run are asked, too.
        options: rules_folder, as of registry.make.
    """
    profile = ProfileReader(source.profile) if source.profile else None
    judges, now = Judges(entries, source.tensors, profile, **options), time.time()
    for _, step in judges.new_steps(last=last):
        now = step.time
    judges.look(now, last=last)
    if last:
        judges.conclude(now)
    unreadable = judges.unreadable
    detail = f"Rules did not see every tensor: {unreadable[0]}." if unreadable else None
    return judges.document("finished" if last else "running", detail)
