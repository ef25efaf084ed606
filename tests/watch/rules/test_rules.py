"""Every profiler rule against cases with answers worked out by hand: cases/<Rule>.json.

A case: `case` (its name), `parameters`, what the rule is shown, and what must come of it: `status`, all of `fired` as
[mode, step, sentence], `note`.

Shown to a profiler rule: `profile` (see rule_data.DictProfile), or
`profiles`, one after the other, each with `now`; and `verdicts`, the other rules' sentences.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rule_data import DictProfile

from watch.rules.judge import Judge
from watch.rules.registry import make

CASES = Path(__file__).parent / "cases"


def cases() -> list[Any]:
    return [
        pytest.param(path.stem, case, id=f"{path.stem}: {case['case']}")
        for path in sorted(CASES.glob("*.json"))
        for case in json.loads(path.read_text())
    ]


@pytest.mark.parametrize(("rule", "case"), cases())
def test_rule_answers_as_worked_out_by_hand(rule: str, case: Mapping[str, Any]) -> None:
    judge = make(rule, case.get("parameters"))
    assert judge.traceback is None, judge.traceback

    show_profiles(judge, case)
    judge.conclude(0.0)

    assert judge.traceback is None, judge.traceback
    found = judge.as_json()
    assert [[entry["mode"], entry["step"], entry["sentence"]] for entry in found["fired"]] == case.get("fired", [])
    assert found["status"] == case["status"]
    assert found["note"] == case.get("note")
    json.dumps(found, allow_nan=False)


def show_profiles(judge: Judge, case: Mapping[str, Any]) -> None:
    profiles = case.get("profiles") or ([case["profile"]] if "profile" in case else [])
    for profile in profiles:
        judge.see_profile(DictProfile(profile), profile.get("now", 0.0))
    if "verdicts" in case:
        judge.see_verdicts(case["verdicts"], 0.0)
