"""Selective execution: which steps run, where the values of the others come from, and what is refused."""

import json
import re

import pytest
from botocore.exceptions import ClientError

from tests.local.engine.conftest import Home
from tests.local.lab import Lab, compare, condition, get, output_uri
from tests.local.samples import run_cli


def chain(home: Home) -> None:
    """First -> Second -> Third -> Fourth, each reading the name of the job before; Alone reads nothing."""
    steps = [home.noting("First"), home.noting("Alone")]
    for before, name in (("First", "Second"), ("Second", "Third"), ("Third", "Fourth")):
        step = home.noting(name)
        step["Arguments"]["Environment"] = {"BEFORE": get(f"Steps.{before}.ProcessingJobName")}
        steps.append(step)
    home.put(*steps)


def test_selected_steps_run_alone_on_the_values_of_the_source(home: Home) -> None:
    chain(home)
    source = home.start()
    assert home.ended(source) == "Succeeded"
    home.forget()
    arn = home.select(source, "Third", "Fourth")
    assert home.ended(arn) == "Succeeded"
    assert home.ran == ["Third", "Fourth"]
    steps = home.steps(arn)
    assert list(steps) == ["Second", "Third", "Fourth"]
    assert steps["Second"]["SelectiveExecutionResult"] == {"SourcePipelineExecutionArn": source}
    assert "SelectiveExecutionResult" not in steps["Third"]
    second, third = (
        steps_of[name]["Metadata"]["ProcessingJob"]["Arn"].rpartition("/")[2]
        for name, steps_of in (("Second", home.steps(source)), ("Third", steps))
    )
    job = home.sagemaker.describe_processing_job(ProcessingJobName=third)
    assert job["Environment"]["BEFORE"] == second
    config = home.described(arn)["SelectiveExecutionConfig"]
    assert config["SourcePipelineExecutionArn"] == source
    assert config["SelectedSteps"] == [{"StepName": "Third"}, {"StepName": "Fourth"}]
    again = home.select(arn, "Third")  # whose own values came from elsewhere
    assert home.ended(again) == "Succeeded"
    alone = home.select(None, "Alone")
    assert (home.ended(alone), list(home.steps(alone))) == ("Succeeded", ["Alone"])


def test_what_cannot_be_selected_is_a_validation_exception(home: Home) -> None:
    chain(home)
    done = home.start()
    home.ended(done)
    home.put(home.noting("First"), name="other")
    other = home.start("other")
    home.ended(other)
    for source, selected, said in (
        (done, ["Second", "Fourth"], "missing: Third"),
        (done, ["Secnd"], "Did you mean 'Second'"),
        (None, ["Second"], "values of First; name an execution"),
        (other, ["Second"], "an execution of pipeline 'other'"),
        (f"{done}x", ["Second"], "Could not find pipeline execution"),
        (done, [f"S{n}" for n in range(51)], "at most 50 entries"),
    ):
        with pytest.raises(ClientError, match=re.escape(said)) as caught:
            home.select(source, *selected)
        assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_a_source_may_have_failed_but_not_in_a_step_that_is_needed_and_retry_keeps_the_selection(home: Home) -> None:
    fails = home.noting("Second", "import os, sys\nsys.exit(not os.path.exists('/nowhere'))")
    third = home.noting("Third", home.failing_until_go)
    for step, before in ((third, "First"), (last := home.noting("Last"), "Second")):
        step["Arguments"]["Environment"] = {"BEFORE": get(f"Steps.{before}.ProcessingJobName")}
    fails["DependsOn"] = ["First"]
    home.put(home.noting("First"), fails, third, last)
    source = home.start()
    assert home.ended(source) == "Failed"
    with pytest.raises(ClientError, match="values of Second, which did not succeed"):
        home.select(source, "Last")
    arn = home.select(source, "Third")
    assert home.ended(arn) == "Failed"
    home.go()
    assert home.retry(arn) == "Succeeded"
    assert home.statuses(arn) == {"First": "Succeeded", "Third": "Succeeded"}
    assert home.ran.count("First") == 1
    home.put(home.waiting("First"), third)
    home.gate.unlink()
    running = home.start()
    with pytest.raises(ClientError, match="is Executing; only an execution that has ended"):
        home.select(running, "Third")
    home.go()
    home.ended(running)


def test_a_step_of_a_branch_runs_without_its_condition_and_a_condition_alone_runs_no_branch(home: Home) -> None:
    gate = condition("Gate", [compare("Equals", 1, 2)], [home.noting("Yes")], [home.noting("No")])
    home.put(home.noting("First"), gate)
    for selected, ran in (
        (["Yes"], {"Yes"}),
        (["Gate"], {"Gate"}),
        (["Gate", "Yes"], {"Gate"}),
        (["Gate", "No"], {"Gate", "No"}),
    ):
        arn = home.select(None, *selected)
        assert (home.ended(arn), set(home.steps(arn))) == ("Succeeded", ran)


def test_run_takes_from_and_only_and_finds_the_execution_that_has_what_is_needed(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/o/a', 'w').write('made')", outputs=["o"])
    reading = "print(open('/opt/ml/processing/input/i/a').read())"
    second = lab.processing("Second", reading, inputs={"i": output_uri("First", "o")})
    third = lab.processing("Third", "", DependsOn=["Second"])
    steps = [first, second, third]
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
