"""The `debug` and `condition` sections of pipeline.yaml: how TrainWithDebugger is watched, and what that decides."""

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.formats import SHARE
from pipeline.config.setting import (
    Fault,
    Rule,
    Unacceptable,
    auto_or,
    boolean,
    list_of,
    mapping,
    null_or,
    refuse,
    setting,
    text,
    whole_number,
)
from pipeline.config.yaml_lines import Value
from pipeline.suggestion import did_you_mean

MOST_RULES = 30  # a job has at most 40 metrics, of which an epoch's line takes some
LONGEST_HYPERPARAMETER = 2500
SAMPLE_INTERVALS_MS = (100, 200, 500, 1000, 5000, 60000)  # ProfilingIntervalInMilliseconds
RULE_NAME = r"[A-Za-z][A-Za-z0-9_]{0,63}"
Rules = dict[str, dict[str, Any]]


def default_rules() -> Rules:
    """What is judged when the file does not say: every rule as AWS documents it would not suit short trainings."""
    return {}


def rules(value: Value) -> Rules:
    """Rule entries by name: `rule`, `action`, and parameters by their documented names."""
    members = mapping(value)
    if len(members) > MOST_RULES:
        refuse(value, f"must hold at most {MOST_RULES} rules, but holds {len(members)}.")
    found = {name: {key: plain(item) for key, item in mapping(member).items()} for name, member in members.items()}
    faults: list[Fault] = []
    if found != default_rules():
        from pipeline.config.rule_catalogue import problems_of  # which imports every rule

        for name, entry in found.items():
            faults += [Fault(members[name].line, name, problem) for problem in problems_of(name, entry)]
    characters = len(json.dumps(json.dumps(found, separators=(",", ":"))))  # as the job's hyperparameter
    if characters > LONGEST_HYPERPARAMETER:
        refuse(value, f"must be at most {LONGEST_HYPERPARAMETER} characters as encoded JSON, but takes {characters}.")
    if faults:
        raise Unacceptable(*faults)
    return found


def plain(value: Value) -> Any:
    """A value of the file as JSON has it."""
    if isinstance(value.data, dict):
        return {key: plain(item) for key, item in value.data.items()}
    return [plain(item) for item in value.data] if isinstance(value.data, list) else value.data


def sample_interval(value: Value) -> int:
    """One of the intervals that ProfilerConfig takes."""
    if value.data not in SAMPLE_INTERVALS_MS or isinstance(value.data, bool):
        accepted = ", ".join(map(str, SAMPLE_INTERVALS_MS[:-1]))
        refuse(value, f"must be {accepted} or {SAMPLE_INTERVALS_MS[-1]}, but got {value}.")
    return int(value.data)


@dataclass(frozen=True)
class DebugConfig:
    """TrainWithDebugger's debugger and profiler. `save_interval_steps` is None for auto."""

    enabled: bool = setting(True, boolean)
    save_interval_steps: int | None = setting(None, auto_or(whole_number(at_least=1)))
    sample_interval_ms: int = setting(500, sample_interval)
    profiled_steps: int = setting(5, whole_number(at_least=0, at_most=50))
    managed_rules: bool = setting(False, boolean)
    rules: Rules = field(default_factory=default_rules, metadata={"read": rules})


def rules_not_judged(fail_on_rules: tuple[str, ...], judged: Rules, enabled: bool) -> str | None:
    """A gate on a rule that is not evaluated would wait for a metric that never comes."""
    if fail_on_rules and not enabled:
        return "must be [] when debug.enabled is false, since no rule is evaluated then."
    missing = [name for name in fail_on_rules if name not in judged]
    if not missing:
        return None
    return f"names '{missing[0]}', which is not one of debug.rules.{did_you_mean(missing[0], judged)}"


@dataclass(frozen=True)
class ConditionConfig:
    """What CheckAccuracy demands besides the test accuracy, or of it. What is None is not demanded."""

    lower_bound: bool = setting(False, boolean)
    min_class_recall: float | None = setting(None, null_or(SHARE))
    max_group_gap: float | None = setting(None, null_or(SHARE))
    fail_on_rules: tuple[str, ...] = setting((), list_of(text(RULE_NAME, "the name of a rule"), at_most=MOST_RULES))


GATES = Rule(("condition.fail_on_rules", "debug.rules", "debug.enabled"), rules_not_judged)
