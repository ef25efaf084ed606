"""Which step runs when: conditions, branches, DependsOn with triggers, failures, selections, and how it all ends."""

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.engine.conftest import Home
from tests.local.lab import Lab, compare, condition, fail, get, join, json_get, output_uri, parameter
from tests.local.samples import run_cli

Json = dict[str, Any]
CHAIN = "First | Alone | Second < First | Third < Second | Fourth < Third"


@pytest.mark.parametrize(
    ("flow", "status", "ran"),
    [
        (
            "Bad! | Good | OnFailure < Bad:Failed | OnAny < Bad:Any Good:Any | OnStopped < Bad:Stopped"
            "| OnSuccess < Bad | OnFailureOfGood < Good:Failed | AfterHandler < OnFailure"
            "| AfterWhatNeverRan < OnSuccess:Any | Both < Good Bad:Failed",
            "CompletedWithFailures",
            "AfterHandler Bad Both Good OnAny OnFailure",
        ),
        ("Bad! | Handler! < Bad:Failed", "Failed", "Bad Handler"),
        ("Bad? | Slow | Next < Slow Bad", "Failed", "Bad Slow"),
    ],
)
def test_triggers_decide_what_runs_and_an_unhandled_failure_fails_the_execution(
    home: Home, flow: str, status: str, ran: str
) -> None:
    home.define(*home.flow(flow))
    arn = home.start()
    assert home.ended(arn) == status
    assert sorted(home.ran) == ran.split()
    reason = home.described(arn).get("FailureReason")
    assert reason == ("Step failure: One or multiple steps failed." if status == "Failed" else None)
    if status != "Failed":
        assert [name for name, found in home.statuses(arn).items() if found != "Succeeded"] == ["Bad"]
        with pytest.raises(ClientError, match="this one is CompletedWithFailures"):
            home.retry(arn)


def test_a_handler_in_a_branch_that_is_not_taken_handles_nothing(home: Home) -> None:
    never = condition("Never", [compare("Equals", 1, 2)], home.flow("Handler < Bad:Failed"))
    home.define(*home.flow("Bad!"), never)
    assert home.ended(home.start()) == "Failed"
    assert home.ran == ["Bad"]


def test_what_a_failed_step_has_not_got_fails_the_step_that_reads_it(home: Home) -> None:
    output = {"OutputName": "report", "S3Output": {"S3Uri": "s3://b/o", "LocalPath": "/opt/ml/processing/o"}}
    file = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "e.json"}
    [bad] = home.flow("Bad!")
    bad["Arguments"]["ProcessingOutputConfig"] = {"Outputs": [output]}
    reads = condition("Reads", [compare("Equals", json_get("Bad", "a"), 1)]) | {
        "DependsOn": [{"Step": "Bad", "Trigger": "Failed"}]
    }
    home.define(bad | {"PropertyFiles": [file]}, reads)
    arn = home.start()
    assert home.ended(arn) == "Failed"
    assert "'Report' cannot be read, because step 'Bad' failed" in home.steps(arn)["Reads"]["FailureReason"]


def test_retry_runs_what_failed_and_what_ran_because_of_that_and_nothing_else(home: Home) -> None:
    home.define(*home.flow("Good | Flaky? < Good | Handler < Flaky:Failed | Unhandled? < Good"))
    arn = home.start()
    assert home.ended(arn) == "Failed"
    home.go()
    assert home.retry(arn) == "Succeeded"
    assert home.statuses(arn) == dict.fromkeys(["Good", "Flaky", "Unhandled"], "Succeeded")
    assert (home.ran.count("Good"), home.ran.count("Flaky"), home.ran.count("Unhandled")) == (1, 2, 2)


def test_nested_conditions_take_the_right_branches_and_what_waits_for_another_never_runs(lab: Lab) -> None:
    report_file = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "e.json"}
    write = """open("/opt/ml/processing/output/report/e.json", "w").write('{"kind": "x", "n": [0, {"a.b": 0.9}]}')"""
    judged = lab.processing("Eval", write, outputs=["report"], PropertyFiles=[report_file])
    kinds = {"Type": "In", "QueryValue": json_get("Eval", "kind"), "Values": ["y", get("Parameters.Who")]}
    either = {"Type": "Or", "Conditions": [compare("Equals", 1, 2), compare("LessThan", 1, 2)]}
    inner = condition("Inner", [kinds, either], [lab.processing("Taken", "")], [fail("Bad", "never")])
    enough = compare("GreaterThanOrEqualTo", json_get("Eval", "n[1]['a.b']"), get("Parameters.Min"))
    deploys = {"Type": "Not", "Condition": compare("Equals", get("Parameters.Deploy"), False)}
    other = condition("Other", [compare("Equals", 1, 1)], [lab.processing("Deep", "")])
    gate = condition("Gate", [enough, deploys], [inner], [lab.processing("NotTaken", ""), other])
    waits = [("NotTaken", "Completed"), ("NotTaken", "Any"), ("Gate", "Completed"), ("Inner", "Completed")]
    steps = [
        lab.processing(f"After{name}{trigger}", "", DependsOn=[{"Step": name, "Trigger": trigger}])
        for name, trigger in waits
    ]
    declared = [parameter("Min", "Float", 0.5), parameter("Deploy", "Boolean", True), parameter("Who", "String", "x")]
    report = lab.run(*steps, gate, judged, parameters=declared)
    ran = ["Eval", "Gate", "Inner", "Taken", "AfterGateCompleted", "AfterInnerCompleted"]
    assert report.statuses == dict.fromkeys(ran, "Succeeded")
    assert [report.step(name)["outcome"] for name in ("Gate", "Inner", "Taken")] == ["True", "True", None]


def test_a_false_condition_ends_in_a_fail_step_that_neither_a_handler_nor_retry_undoes(lab: Lab) -> None:
    too_low = fail("TooLow", join(" ", 0.25, join("", "is below ", get("Parameters.Min"))))
    enough = compare("GreaterThan", 0.25, get("Parameters.Min"))
    gate = condition("Gate", [enough], [lab.processing("Yes", "")], [too_low])
    handler = lab.processing("Handler", "", DependsOn=[{"Step": "Bad", "Trigger": "Failed"}])
    steps = [gate, lab.processing("Bad", "raise SystemExit(1)"), handler]
    report = lab.run(*steps, parameters=[parameter("Min", "Float", 0.5)], options=["--param", "Min=9e-1"])
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert (report.statuses["TooLow"], report.step("Gate")["outcome"]) == ("0.25 is below 0.9", "False")
    summary = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert "TooLow failed: 0.25 is below 0.9" in summary
    assert "retry" not in summary
    done = run_cli("retry", "--home", lab.home, "--pipeline", "lab")
    assert done.returncode == 1
    assert done.stderr.endswith("An execution that a Fail step ended cannot be retried; start a new one.\n")


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


def test_no_more_steps_run_at_once_than_the_start_or_the_retry_allows(home: Home) -> None:
    home.define(*home.flow("A? | B? | C? | D?"))
    arn = home.start(ParallelismConfiguration={"MaxParallelExecutionSteps": 1})
    assert home.ended(arn) == "Failed"
    assert home.described(arn)["ParallelismConfiguration"] == {"MaxParallelExecutionSteps": 1}
    assert len(home.ran) == 1  # the first failure starts nothing new
    home.go()
    assert home.retry(arn, ParallelismConfiguration={"MaxParallelExecutionSteps": 2}) == "Succeeded"
    rows = list(home.steps(arn).values())
    overlaps = [sum(r["StartTime"] <= row["StartTime"] < r["EndTime"] for r in rows) for row in rows]
    assert max(overlaps) == 2
    assert home.described(arn)["ParallelismConfiguration"] == {"MaxParallelExecutionSteps": 2}


# selective executions


def reading(home: Home, flow: str) -> list[Json]:
    """The steps of a flow, each reading the job names of those that it waits for."""
    steps = home.flow(flow)
    for step in steps:
        names = step.pop("DependsOn")
        step["Arguments"]["Environment"] = {f"OF_{name}": get(f"Steps.{name}.ProcessingJobName") for name in names}
    return steps


def select(home: Home, source: str | None, *steps: str) -> str:
    """Start a selective execution; its ARN."""
    config: Json = {"SelectedSteps": [{"StepName": step} for step in steps]}
    config |= {"SourcePipelineExecutionArn": source} if source else {}
    return home.start(SelectiveExecutionConfig=config)


def job_of(steps: dict[str, Json], name: str) -> str:
    """The name of a step's job."""
    return str(steps[name]["Metadata"]["ProcessingJob"]["Arn"].rpartition("/")[2])


def test_selected_steps_run_alone_on_the_values_of_the_source(home: Home) -> None:
    home.define(*reading(home, CHAIN))
    source = home.start()
    assert home.ended(source) == "Succeeded"
    arn = select(home, source, "Third", "Fourth")
    assert home.ended(arn) == "Succeeded"
    assert home.ran[5:] == ["Third", "Fourth"]
    steps = home.steps(arn)
    assert list(steps) == ["Second", "Third", "Fourth"]
    results = [steps[name].get("SelectiveExecutionResult") for name in ("Second", "Third")]
    assert results == [{"SourcePipelineExecutionArn": source}, None]
    job = home.sagemaker.describe_processing_job(ProcessingJobName=job_of(steps, "Third"))
    assert job["Environment"]["OF_Second"] == job_of(home.steps(source), "Second")
    selected = [{"StepName": "Third"}, {"StepName": "Fourth"}]
    config = {"SourcePipelineExecutionArn": source, "SelectedSteps": selected}
    assert home.described(arn)["SelectiveExecutionConfig"] == config
    assert home.ended(select(home, arn, "Third")) == "Succeeded"  # whose own values came from elsewhere
    alone = select(home, None, "Alone")
    assert (home.ended(alone), list(home.steps(alone))) == ("Succeeded", ["Alone"])
    home.define(*home.flow("First"), name="other")
    other = home.start("other")
    home.ended(other)
    for place, chosen, said in (
        (source, ["Second", "Fourth"], "missing: Third"),
        (source, ["Secnd"], "Did you mean 'Second'"),
        (None, ["Second"], "values of First; name an execution"),
        (other, ["Second"], "an execution of pipeline 'other'"),
        (f"{source}x", ["Second"], "Could not find pipeline execution"),
        (source, [f"S{n}" for n in range(51)], "at most 50 entries"),
    ):
        with pytest.raises(ClientError, match=re.escape(said)) as caught:
            select(home, place, *chosen)
        assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_source_may_have_failed_but_not_in_a_step_that_is_needed_and_retry_keeps_the_selection(home: Home) -> None:
    home.define(*reading(home, "First | Second! < First | Third? < First | Last < Second"))
    source = home.start()
    assert home.ended(source) == "Failed"
    with pytest.raises(ClientError, match="values of Second, which did not succeed"):
        select(home, source, "Last")
    arn = select(home, source, "Third")
    assert home.ended(arn) == "Failed"
    home.go()
    assert home.retry(arn) == "Succeeded"
    assert home.statuses(arn) == {"First": "Succeeded", "Third": "Succeeded"}
    assert home.ran.count("First") == 1
    home.gate.unlink()
    home.define(*reading(home, "First~ | Third? < First"))
    running = home.start()
    with pytest.raises(ClientError, match="is Executing; only an execution that has ended"):
        select(home, running, "Third")
    home.go()
    home.ended(running)


def test_a_step_of_a_branch_runs_without_its_condition_and_a_condition_alone_runs_no_branch(home: Home) -> None:
    gate = condition("Gate", [compare("Equals", 1, 2)], home.flow("Yes"), home.flow("No"))
    home.define(*home.flow("First"), gate)
    for selected, ran in (("Yes", "Yes"), ("Gate", "Gate"), ("Gate Yes", "Gate"), ("Gate No", "Gate No")):
        arn = select(home, None, *selected.split())
        assert (home.ended(arn), set(home.steps(arn))) == ("Succeeded", set(ran.split()))


def test_run_takes_from_and_only_and_finds_the_execution_that_has_what_is_needed(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/o/a', 'w').write('made')", outputs=["o"])
    code = "print(open('/opt/ml/processing/input/i/a').read())"
    second = lab.processing("Second", code, inputs={"i": output_uri("First", "o")})
    steps = [first, second, lab.processing("Third", "", DependsOn=["Second"])]
    refused = lab.run(*steps, options=["--only", "Second"])
    assert (refused.code, refused.stdout) == (2, "")
    assert "No execution of pipeline 'lab' has what the chosen steps read, the values of First" in refused.stderr
    whole = lab.run(*steps)
    assert lab.run(*steps, options=["--only", "Third"]).statuses == {"Third": "Succeeded"}
    later = lab.run(*steps, options=["--from", "Second"])  # not of the newest, which has run Third alone
    assert later.statuses == dict.fromkeys(["First", "Second", "Third"], "Succeeded")
    assert later.log("Second") == "made\n"
    assert [row["source_execution"] for row in later.document["steps"]] == [whole.document["execution_arn"], None, None]
    table = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert re.search(r"First .* of an earlier execution", table)
    for options, said in (
        (["--from", "Secnd"], "No step has the name 'Secnd'"),
        (["--only", "Fist,Third"], "Did you mean 'First'?"),
        (["--only", "First,Third"], "missing: Second"),
        (["--only", "First", "--from", "First"], "give one of them"),
    ):
        refused = lab.run(*steps, options=options)
        assert (refused.code, refused.stdout) == (2, "")
        assert said in refused.stderr
    newest = json.loads(run_cli("status", "--json", "--home", lab.home, "--pipeline", "lab").stdout)
    assert newest["execution_arn"] == later.document["execution_arn"]  # what was refused has started nothing
