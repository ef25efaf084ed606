"""`run --definition` and `validate --definition`: one checker, and nothing runs where it has something to say."""

from pathlib import Path

import pytest

from tests.local.lab import Lab, call, parameter

TUNING = {"Name": "T", "Type": "Tuning", "Arguments": {"HyperParameterTuningJobConfig": {}}}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_run_tells_every_problem_at_once_and_starts_nothing(lab):
    steps = [
        lab.processing("First", ""),
        {"Name": "Q", "Type": "EMR", "Arguments": {}},
        call("L", {}, {}, function="other:3"),
        TUNING,
    ]
    report = lab.run(*steps, parameters=[parameter("A", "Integer")], options=["--param", "A=1.5"])
    assert (report.code, report.stdout) == (2, "")
    assert report.stderr.splitlines() == [
        "Step 'Q' is a step of type EMR, which does not run locally: there is no cluster here; replace it by a "
        "Processing step.",
        "Step 'T' lacks HyperParameterTuningJobConfig.",
        "Step 'T' lacks TrainingJobDefinition.",
        "Step 'L' calls the Lambda function 'other', which is not known here; give it with --lambda "
        "other=FILE.py:HANDLER.",
        "Parameter 'A' must be a whole number, but is '1.5'.",
    ]
    assert not (lab.home / "jobs").exists()


@pytest.mark.parametrize("definition", ["{", '{"Steps": {}}', '{"Steps": [1e999]}'])
def test_a_file_that_is_no_definition_is_refused_in_a_sentence(lab, definition):
    report = lab.run_definition(definition)
    assert (report.code, report.stdout, report.stderr.count("\n")) == (2, "", 1)
    assert report.stderr.startswith(f"{lab.folder / 'lab.json'} is not ")
