"""What the local target refuses of a definition, and what it says that it ignores: the cases of two files."""

import json
from pathlib import Path

import pytest

from pipeline.local.checks.definition import refusals, remarks

REFUSALS, IGNORED = (
    json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text()) for name in ("refusals", "ignored")
)


@pytest.mark.parametrize("case", REFUSALS, ids=[case["about"] for case in REFUSALS])
def test_what_cannot_run_here_is_refused(case):
    problems = refusals({"Steps": case["steps"], **case.get("around", {})})
    assert len(problems) == len(case["problems"]), problems
    assert [part for part in case["problems"] if not any(part in problem for problem in problems)] == [], problems


@pytest.mark.parametrize("case", IGNORED, ids=lambda case: str(case["ignored"]))
def test_what_is_ignored_is_said_and_what_is_honoured_is_not(case):
    said = [sentence for sentence in remarks({"Steps": case["steps"]}) if sentence.startswith("Local target:")]
    ending = f"ignored are {case['ignored']}."
    assert [sentence.endswith(ending) for sentence in said] == ([True] if case["ignored"] else [])
