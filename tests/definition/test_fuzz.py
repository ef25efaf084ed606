"""Mutated definitions: none ends in an exception of Python's own, in process and as whole runs."""

import pytest

from benchmarks.fuzz_definitions import as_run, bases, in_process


@pytest.mark.parametrize("part", range(2))
def test_a_mutated_definition_is_checked_and_prepared_in_sentences(part):
    originals = bases()
    outcomes = [in_process(case, 1, originals) for case in range(part * 300, part * 300 + 300)]
    assert [outcome for outcome in outcomes if outcome.startswith("FAILED")] == []
    assert {"runs", "refused", "unreadable"} <= set(outcomes)


def test_a_mutated_definition_runs_or_is_refused_in_sentences():
    assert [outcome for outcome in (as_run(case, 1) for case in range(3)) if outcome.startswith("FAILED")] == []
