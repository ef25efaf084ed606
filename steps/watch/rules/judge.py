"""A rule at work on a run: its status, when it fired, and what the report needs of it."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from watch.read.tensors import TensorUnavailable
from watch.rules.base import Mode, Profile, ProfilerRule, Rule, TensorRule, Trial

Action = Literal["none", "stop"]
Status = Literal["InProgress", "NoIssuesFound", "IssuesFound", "Error", "Stopped"]
MAXIMUM_FINDINGS = 20


@dataclass(frozen=True)
class Finding:
    """One time a rule fired. Step and mode are None where a rule does not look at steps."""

    step: int | None
    mode: str | None
    time: float  # epoch seconds
    sentence: str


class Capture:
    """Keeps what a rule raises: rules are anybody's code, and must harm nothing but their own verdict."""

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
    """

    name: str
    rule_name: str
    rule: Rule | None
    action: Action = "none"
    status: Status = "InProgress"
    findings: list[Finding] = field(default_factory=list)
    traceback: str | None = None
    kind: str = "custom"
    given: dict[str, Any] = field(default_factory=dict)
    _evaluated: float = 0.0  # epoch seconds
    _firing: bool = False  # at the last look at the profile

    def __post_init__(self) -> None:
        if self.rule is not None:
            self.kind, self.given = self.rule.kind, self.rule.parameters()
            if self.rule.wants_stop:
                self.action = "stop"
        if self.traceback is not None:
            self.status = "Error"

    def see(self, trial: Trial, step: int, mode: Mode, now: float) -> None:
        """Show a tensor rule one saved step."""
        if not isinstance(self.rule, TensorRule) or self.traceback:
            return
        with Capture() as capture:
            sentence = self.rule.evaluate(trial, step, mode)
            self._note(sentence, now, step=step, mode=mode.name)
        if not isinstance(capture.error, TensorUnavailable):
            self._note_error(capture.error)

    def see_idle(self, now: float) -> None:
        """Tell a tensor rule that nothing more was saved by now."""
        if not isinstance(self.rule, TensorRule) or self.traceback:
            return
        with Capture() as capture:
            self._note(self.rule.idle(now), now)
        self._note_error(capture.error)

    def due(self, now: float, *, last: bool) -> bool:
        """Whether a profiler rule wants to see the profile: its scan interval is over, or this is the last time."""
        if not isinstance(self.rule, ProfilerRule) or self.traceback:
            return False
        return last or now - self._evaluated >= self.rule.scan_interval_us / 1e6

    def see_profile(self, profile: Profile, now: float) -> None:
        """Show a profiler rule the profile."""
        if not isinstance(self.rule, ProfilerRule) or self.traceback:
            return
        self._evaluated = now
        with Capture() as capture:
            self._note_change(self.rule.evaluate(profile, now), now)
        self._note_error(capture.error)

    def see_verdicts(self, fired: Mapping[str, Sequence[str]], now: float) -> None:
        """Show ProfilerReport what the other profiler rules found."""
        if not isinstance(self.rule, ProfilerRule) or self.traceback:
            return
        with Capture() as capture:
            sentence = self.rule.summarise(fired)
            if sentence and not self.findings:
                self._note(sentence, now)
        self._note_error(capture.error)

    def conclude(self, now: float) -> None:
        """The training is over: a rule that found nothing found no issues."""
        if isinstance(self.rule, TensorRule) and not self.traceback:
            with Capture() as capture:
                self._note(self.rule.conclude(), now)
            self._note_error(capture.error)
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
            "parameters": self.given,
            "fired": [vars(finding) for finding in self.findings],
            "evidence": rule.evidence.as_json() if rule and rule.evidence else None,
            "advice": rule.advice if rule else "Mend the rule: its traceback says where it failed.",
            "traceback": self.traceback,
            "note": rule.note if rule else None,
        }

    def _note_change(self, sentence: str | None, now: float) -> None:
        """A profiler rule keeps saying what is the case; its beginning is what counts."""
        if sentence and not self._firing:
            self._note(sentence, now)
        self._firing = bool(sentence)

    def _note(self, sentence: str | None, now: float, *, step: int | None = None, mode: str | None = None) -> None:
        if not sentence:
            return
        self.status = "IssuesFound"
        if len(self.findings) < MAXIMUM_FINDINGS:
            self.findings.append(Finding(step, mode, now, sentence))

    def _note_error(self, error: Exception | None) -> None:
        if error is None:
            return
        self.traceback = "".join(traceback.format_exception(error))
        if not self.findings:
            self.status = "Error"
