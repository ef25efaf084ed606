"""`run --definition` and `validate --definition`: one checker, and nothing runs where it has something to say."""

import json
from pathlib import Path

import pytest

from tests.local.lab import Lab, call, parameter
from tests.local.samples import run_cli

TUNING = {"Name": "T", "Type": "Tuning", "Arguments": {"HyperParameterTuningJobConfig": {}}}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_run_tells_every_problem_at_once_and_starts_nothing(lab):
    steps = [
        lab.processing("First", ""),
        lab.drivers("M", {"t.py": ""}, {"entry_script": "t.py"}, distributed={"mpi_additional_options": []}),
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
        "Step 'M' is distributed by MPI, which is not run here; accepted is Torchrun.",
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


def test_a_member_that_nobody_knows_is_said_and_does_not_stop_a_run(lab):
    step = lab.processing("First", "")
    step["Arguments"]["Envronment"] = {"A": "1"}
    report = lab.run(step)
    assert report.code == 0
    told = " ".join(report.stderr.split())
    assert "Step 'First': Envronment is not a member of CreateProcessingJob. Did you mean 'Environment'?" in told


def test_validate_asks_what_sagemaker_takes_and_here_what_this_machine_runs(lab):
    lab.command({"Version": "2020-12-01", "Steps": [{"Name": "Q", "Type": "EMR", "Arguments": {}}, TUNING]})
    words = ["validate", "--json", "--definition", lab.folder / "lab.json"]
    service, local = (run_cli(*words, *options) for options in (["--target", "aws"], []))
    assert service.returncode == local.returncode == 2
    known, all_problems = (json.loads(done.stdout)["problems"] for done in (service, local))
    assert len(known) == 2
    assert "HyperParameterTuningJobConfig.Strategy is missing, but CreateHyperParameterTuningJob requires" in known[0]
    assert set(known) < set(all_problems)
    assert any("does not run locally" in problem for problem in all_problems)
