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
from typing import Any, Literal

from watch.read.profile import ProfileReader
from watch.read.source import Source
from watch.read.tensors import COLLECTIONS, SavedStep, SavedTensors, TensorUnavailable, listed, workers
from watch.rules.base import Mode, Profile, Rule, Trial
from watch.rules.diagnosis import CAUSES, diagnose

At = tuple[int | None, str | None]  # step and mode
Status = Literal["InProgress", "NoIssuesFound", "IssuesFound", "Error", "Stopped"]
WORST_FIRST: Sequence[Status] = ("IssuesFound", "Error", "InProgress", "Stopped", "NoIssuesFound")
SCHEMA_VERSION = 2
MAXIMUM_FINDINGS = 20
MEND = "Mend the rule: its traceback says where it failed."


class Capture:
    """Keeps what a rule raises."""

    error: Exception | None = None

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


@dataclass
class Judge:
    """Shows a rule what there is and keeps its verdict. A rule that raised is not asked again."""

    name: str  # in logs, reports and metrics
    rule_name: str
    rule: Any = None  # None if even making it failed; then `traceback` says why and the verdict is Error
    action: Literal["none", "stop"] = "none"
    worker: str | None = None  # whose tensors it is shown; None with only one
    status: Status = "InProgress"
    fired: list[dict[str, Any]] = field(default_factory=list)  # step and mode are None where it looks at no steps
    traceback: str | None = None
    kind: str = "tensor"
    given: dict[str, Any] = field(default_factory=dict)  # parameters
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
        if self.kind != "tensor" or self.rule is None:
            return
        self.rule.now = now
        self._ask("tensor", lambda: self.rule.evaluate(trial, step, mode), now, (step, mode.name))
        self._seen += 1
        if self.action == "stop" and not self.rule.aws and self._seen >= self._due:
            self._due = int(1.25 * self._seen)
            self._ask("tensor", lambda: self._again(self.rule.conclude(), True), now, (step, mode.name))

    def see_idle(self, now: float) -> None:
        """Tell a tensor rule that nothing more was saved by now."""
        self._ask("tensor", lambda: self.rule.idle(now), now)

    def due(self, now: float, *, last: bool) -> bool:
        """Whether a profiler rule wants to see the profile: its scan interval is over, or this is the last time."""
        if self.kind != "profiler" or self.traceback:
            return False
        return last or now - self._evaluated >= self.rule.scan_interval_us / 1e6

    def see_profile(self, profile: Profile, now: float) -> None:
        """Show a profiler rule the profile; it keeps saying what is the case, and its beginning is what counts."""
        self._evaluated = now
        self._ask("profiler", lambda: self._again(self.rule.evaluate(profile, now), False), now)

    def see_verdicts(self, fired: Mapping[str, Sequence[str]], now: float) -> None:
        """Show ProfilerReport what the other profiler rules found."""
        if not self.fired:
            self._ask("profiler", lambda: self.rule.summarise(fired), now)

    def conclude(self, now: float) -> None:
        """The training is over: a rule that found nothing found no issues."""
        self._ask("tensor", lambda: self.rule.conclude(), now)
        self.end("NoIssuesFound")

    def end(self, status: Status) -> None:
        """There is nothing more to judge: Stopped, if the evaluation ends before the training did."""
        self.status = status if self.status == "InProgress" else self.status

    def as_json(self) -> dict[str, Any]:
        """The entry in rules/status.json."""
        own = {name: getattr(self, name) for name in ("name", "kind", "status", "action", "fired", "traceback")}
        own |= {"rule": self.rule_name, "parameters": self.given, "evidence": None, "advice": MEND, "note": None}
        rule = self.rule or Rule()
        found = own | {name: getattr(rule, name) for name in ("semantics", "severity", "cause", "judged")}
        if self.rule is not None:
            found |= {"evidence": rule.evidence and rule.evidence.as_json(), "note": rule.note}
            found["advice"] = rule.advice or CAUSES[rule.cause or "stalled"].advice
        return found

    def _ask(self, kind: str, question: Callable[[], str | None], now: float, at: At = (None, None)) -> None:
        """Keep a rule's answer, or what it raised; a tensor that it missed passes the step over."""
        if self.traceback or self.kind != kind:
            return
        with Capture() as capture:
            if sentence := question():
                self.status, [step, mode] = "IssuesFound", at
                found = {"step": step, "mode": mode, "time": now, "worker": self.worker, "sentence": sentence}
                self.fired += [found][: MAXIMUM_FINDINGS - len(self.fired)]
        if capture.error is not None and not isinstance(capture.error, TensorUnavailable):
            self.traceback = "".join(traceback.format_exception(capture.error))
            self.status = self.status if self.fired else "Error"

    def _again(self, sentence: str | None, before: bool) -> str | None:
        """The sentence, if whether there was one at the last time is as said."""
        fired, self._fired = self._fired, bool(sentence)
        return sentence if fired == before else None


@dataclass
class SmdebugJudge(Judge):
    """A judge of a subclass of smdebug.rules.Rule, shown smdebug's own trial of the run.

    The trial is made when there is a collections file, since create_trial waits for that; the rule is asked about
    complete steps only, since Rule.invoke waits for others. A configured action is taken by the judge, not by the
    rule's own action_str. smdebug's import takes a second: it happens only where such a rule is configured."""

    kind: str = "custom"
    load: Callable[[], Any] = dict
    _smdebug_rule: Any = None
    _next_step: int = 0  # global

    def look(self, tensors_dir: Path, now: float) -> None:
        """Ask the rule about all complete steps that it has not seen."""
        if listed(tensors_dir / COLLECTIONS):
            self._ask("custom", lambda: self._invoke(tensors_dir, now), now)

    def as_json(self) -> dict[str, Any]:
        advice = "This rule was written for this project: its own code says what it looks for."
        note = None if self._seen else "too little data: no steps were saved"
        return super().as_json() | {"advice": advice, "note": note, "judged": self._seen}

    def _invoke(self, tensors_dir: Path, now: float) -> None:
        # smdebug is told by its environment to be quiet, and not to sleep once it sees the end marker
        os.environ.setdefault("SMDEBUG_LOG_LEVEL", "warning")
        os.environ.setdefault("SMDEBUG_TRAINING_END_DELAY_REFRESH", "0")
        with _without_torch():
            from smdebug import exceptions as smd
            from smdebug.rules import Rule
            from smdebug.trials import create_trial
        if self._smdebug_rule is None:
            # AWS's examples call super().__init__(base_trial), which smdebug 1.0.34 refuses: it wants an action_str
            Rule.__init__.__defaults__ = ("", None)
            rule_class = self.load()
            action = {"action_str": ""} if "action_str" in inspect.signature(rule_class).parameters else {}
            self._smdebug_rule = rule_class(create_trial(str(tensors_dir)), **action, **self.given)
        trial = self._smdebug_rule.base_trial
        steps = trial.steps()
        for step in steps[bisect.bisect_left(steps, self._next_step) :]:
            self._next_step, self._seen = step + 1, self._seen + 1
            try:
                self._smdebug_rule.invoke(step)
            except smd.RuleEvaluationConditionMet:
                mode, mode_step = trial.mode_modestep(step)
                sentence = f"{self.rule_name} met its condition at step {mode_step}, mode {mode.name}."
                self._ask("custom", partial(str, sentence), now, (mode_step, mode.name))
            except (smd.NoMoreData, smd.StepUnavailable, smd.TensorUnavailable, smd.TensorUnavailableForStep):
                continue  # the rule looked for something that this step does not have


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """smdebug imports torch where it finds it, which doubles the time and takes 200 MB, and reads trials without it."""
    hidden: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class Judges:
    """The rules of a configuration at work on a run as it grows: on the tensors of each worker, and on the profile.

    Either may be None; the folder of tensors, in smdebug's layout, need not exist yet."""

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
        """Show the rules each step that was saved since the last look, and then yield it; last: nothing will follow."""
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
        profilers = [judge for judge in self._all() if judge.kind == "profiler"]
        fired = {judge.name: [found["sentence"] for found in judge.fired] for judge in profilers}
        for judge in due:
            judge.see_verdicts({name: found for name, found in fired.items() if name != judge.name}, now)

    def conclude(self, now: float) -> None:
        """The training is over."""
        for judge in self._all():
            judge.conclude(now)

    def stop(self) -> None:
        """The evaluation ends before the training did."""
        for judge in self._all():
            judge.end("Stopped")

    def document(self, state: str, detail: str | None) -> dict[str, Any]:
        """What rules/status.json holds. `state` is running, finished or killed; `detail`: what else went wrong."""
        rules = [merged([judge.as_json() for judge in judges]) for judges in self.judges.values()]
        found = {"schema_version": SCHEMA_VERSION, "observer": {"state": state, "detail": detail}, "rules": rules}
        return found | {"diagnosis": diagnose(rules)}

    def _all(self) -> list[Judge]:
        return [judge for judges in self.judges.values() for judge in judges]

    def _find_workers(self) -> None:
        """Open the tensors of workers that are new; of each tensor rule, each worker has its own judge."""
        if self.tensors_dir is None:
            return
        for worker in [name for name in workers(self.tensors_dir) if name not in self.workers]:
            self.workers[worker] = SavedTensors(self.tensors_dir, worker)
            for name, judges in self.judges.items():
                if len(self.workers) > 1 and judges[0].kind == "tensor" and judges[0].rule is not None:
                    judges[0].worker = next(iter(self.workers))
                    judges.append(self._make[name](worker=worker))


def merged(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry of the entries of a rule's workers: of the worst, with what was found at all of them."""
    worst = min(entries, key=lambda entry: WORST_FIRST.index(entry["status"]))
    fired = sorted((finding for entry in entries for finding in entry["fired"]), key=lambda finding: finding["time"])
    return worst | {"fired": fired[:MAXIMUM_FINDINGS], "judged": sum(entry["judged"] for entry in entries)}


def judge_folder(source: Source, entries: Mapping[str, Any], last: bool = True, **options: Any) -> dict[str, Any]:
    """Judge what a run has saved so far, or with `last` a whole one: the document of rules/status.json.

    `options` are those of registry.make."""
    profile = ProfileReader(source.profile) if source.profile else None
    judges, now = Judges(entries, source.tensors, profile, **options), time.time()
    for _, step in judges.new_steps(last=last):
        now = step.time
    judges.look(now, last=last)
    if last:
        judges.conclude(now)
    detail = f"Rules did not see every tensor: {judges.unreadable[0]}." if judges.unreadable else None
    return judges.document("finished" if last else "running", detail)
