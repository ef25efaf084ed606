"""Which step runs when: conditions, branches, DependsOn with triggers, failures, selections, and how it all ends."""

import json
import re

import pytest
from botocore.exceptions import ClientError

from tests.local.engine.conftest import CASES, Home
from tests.local.lab import Json, Lab, compare, condition, get, output_uri
from tests.local.samples import run_cli

FLOWS = json.loads((CASES / "flows.json").read_text())


@pytest.mark.parametrize("case", FLOWS, ids=lambda case: case["name"])
def test_triggers_decide_what_runs_and_an_unhandled_failure_fails_the_execution(home: Home, case: Json) -> None:
    branch = home.flow(case["not_taken"]) if "not_taken" in case else []
    home.define(*home.flow(case["flow"]), condition("Never", [compare("Equals", 1, 2)], branch))
    arn = home.start()
    assert home.ended(arn) == case["status"]
    assert sorted(home.ran) == case["ran"].split()
    reason = "Step failure: One or multiple steps failed." if case["status"] == "Failed" else None
    assert home.described(arn).get("FailureReason") == reason
    if reason is None:
        assert [name for name, found in home.statuses(arn).items() if found != "Succeeded"] == ["Bad"]
        with pytest.raises(ClientError, match="this one is CompletedWithFailures"):
            home.retry(arn)


def test_start_and_retry_limit_what_runs_at_once_and_retry_runs_what_failed_alone(home: Home) -> None:
    flow = "Good | Flaky? < Good | Then < Good | Handler < Flaky:Failed | C? < Then | D? < Then | E? < Then"
    home.define(*home.flow(flow))
    one, two = {"MaxParallelExecutionSteps": 1}, {"MaxParallelExecutionSteps": 2}
    arn = home.start(ParallelismConfiguration=one)
    assert (home.ended(arn), home.described(arn)["ParallelismConfiguration"]) == ("Failed", one)
    assert home.ran == ["Good", "Flaky", "Then", "Handler", "C"]  # the first unhandled failure starts nothing new
    home.go()
    assert home.retry(arn, ParallelismConfiguration=two) == "Succeeded"
    assert home.ran[5:] == ["Flaky", "C", "D", "E"]
    rows = home.steps(arn)
    assert list(rows) == ["Good", "Then", "Flaky", "C", "D", "E"]
    overlaps = [sum(r["StartTime"] <= row["StartTime"] < r["EndTime"] for r in rows.values()) for row in rows.values()]
    assert (max(overlaps), home.described(arn)["ParallelismConfiguration"]) == (2, two)


def test_200_nested_conditions_and_a_chain_of_200_steps_run(lab: Lab) -> None:
    step = lab.processing("Innermost", "")
    chain = []
    for number in range(200):
        step = condition(f"If{number}", [compare("Equals", number, number)], [step])
        waits = {"DependsOn": [f"C{number - 1}"] if number else []}
        chain.append(condition(f"C{number}", [compare("Equals", 1, 1)]) | waits)
    report = lab.run(step, *reversed(chain))
    assert report.code == 0, report.stderr
    assert (set(report.statuses.values()), len(report.statuses)) == ({"Succeeded"}, 401)


def select(home: Home, source: str | None, names: str) -> str:
    """Start a selective execution; its ARN."""
    config: Json = {"SelectedSteps": [{"StepName": name} for name in names.split()]}
    return home.start(SelectiveExecutionConfig=config | ({"SourcePipelineExecutionArn": source} if source else {}))


def test_selected_steps_run_alone_on_the_values_of_a_source(home: Home) -> None:
    steps = home.flow("Waits~ | First | Second < First | Third < Second | Bad! < Third | OnBad < Bad | Flaky? < Third")
    for step in steps:  # each reads the job names of those that it waits for
        names = step.pop("DependsOn")
        step["Arguments"]["Environment"] = {f"OF_{name}": get(f"Steps.{name}.ProcessingJobName") for name in names}
    home.define(*steps)
    source = select(home, None, "First Second Third Bad Flaky")
    assert home.ended(source) == "Failed"
    arn = select(home, source, "Second Third")
    assert (home.ended(arn), home.ran[5:]) == ("Succeeded", ["Second", "Third"])
    found = home.steps(arn)
    lent = {"SourcePipelineExecutionArn": source}
    results = {name: step.get("SelectiveExecutionResult") for name, step in found.items()}
    assert results == {"First": lent, "Second": None, "Third": None}
    jobs = {name: step["Metadata"]["ProcessingJob"]["Arn"].split("/")[1] for name, step in found.items()}
    second = home.sagemaker.describe_processing_job(ProcessingJobName=jobs["Second"])
    assert second["Environment"]["OF_First"] == jobs["First"]
    assert found["First"]["Metadata"] == home.steps(source)["First"]["Metadata"]
    selected = [{"StepName": "Second"}, {"StepName": "Third"}]
    assert home.described(arn)["SelectiveExecutionConfig"] == {**lent, "SelectedSteps": selected}
    assert home.ended(select(home, arn, "Second")) == "Succeeded"  # whose own values came from elsewhere
    home.define(*home.flow("First"), name="other")
    other, running = home.start("other"), select(home, None, "Waits")
    refusals: list[tuple[str | None, str, str]] = [
        (source, "First Third", "missing: Second"),
        (source, "Secnd", "Did you mean 'Second'"),
        (source, "OnBad", "values of Bad, which did not succeed"),
        (None, "Second", "values of First; name an execution"),
        (other, "Second", "an execution of pipeline 'other'"),
        (running, "Second", "is Executing; only an execution that has ended"),
        (f"{source}x", "Second", "Could not find pipeline execution"),
        (source, " ".join(f"S{n}" for n in range(51)), "at most 50 entries"),
    ]
    for place, chosen, said in refusals:
        with pytest.raises(ClientError, match=re.escape(said)) as caught:
            select(home, place, chosen)
        assert caught.value.response["Error"]["Code"] == "ValidationException"
    flaky = select(home, source, "Flaky")
    assert home.ended(flaky) == "Failed"
    home.go()
    before = len(home.ran)
    assert (home.retry(flaky), home.ran[before:]) == ("Succeeded", ["Flaky"])
    assert home.statuses(flaky) == {"Third": "Succeeded", "Flaky": "Succeeded"}
    assert {home.ended(other), home.ended(running)} == {"Succeeded"}


def test_a_step_of_a_branch_runs_without_its_condition_and_a_condition_alone_runs_no_branch(home: Home) -> None:
    home.define(*home.flow("First"), condition("Gate", [compare("Equals", 1, 2)], home.flow("Yes"), home.flow("No")))
    for selected, ran in (
        ("First", "First"),
        ("Yes", "Yes"),
        ("Gate", "Gate"),
        ("Gate Yes", "Gate"),
        ("Gate No", "Gate No"),
    ):
        arn = select(home, None, selected)
        assert (home.ended(arn), set(home.steps(arn))) == ("Succeeded", set(ran.split()))


def test_run_takes_from_and_only_and_finds_the_execution_that_has_what_is_needed(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/o/a', 'w').write('made')", outputs=["o"])
    code = "print(open('/opt/ml/processing/input/i/a').read())"
    second = lab.processing("Second", code, inputs={"i": output_uri("First", "o")})
    steps = [first, second, lab.processing("Third", "", DependsOn=["Second"])]

    def refused(said: str, *options: str) -> None:
        report = lab.run(*steps, options=options)
        assert (report.code, report.stdout) == (2, "")
        assert said in report.stderr

    refused("No execution of pipeline 'lab' has what the chosen steps read, the values of First", "--only", "Second")
    whole = lab.run(*steps)
    assert lab.run(*steps, options=["--only", "Third"]).statuses == {"Third": "Succeeded"}
    later = lab.run(*steps, options=["--from", "Second"])  # not of the newest, which has run Third alone
    assert later.statuses == dict.fromkeys(["First", "Second", "Third"], "Succeeded")
    assert later.log("Second") == "made\n"
    assert [row["source_execution"] for row in later.document["steps"]] == [whole.document["execution_arn"], None, None]
    refused("No step has the name 'Secnd'", "--from", "Secnd")
    refused("Did you mean 'First'?", "--only", "Fist,Third")
    refused("missing: Second", "--only", "First,Third")
    refused("give one of them", "--only", "First", "--from", "First")
    newest = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout  # what was refused has started nothing
    assert re.search(r"First .* of an earlier execution", newest)
