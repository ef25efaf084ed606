"""Which step runs when: conditions, branches, DependsOn with triggers, failures, and how the execution ends by that."""

from typing import Any

import pytest

from tests.local.engine.conftest import Home
from tests.local.lab import Lab, compare, condition, fail, get, join, json_get, parameter
from tests.local.samples import run_cli

Json = dict[str, Any]
OK, BAD = "pass", "raise SystemExit(1)"


def after(step: str, trigger: str) -> Json:
    """An entry of DependsOn."""
    return {"Step": step, "Trigger": trigger}


def test_each_trigger_runs_its_steps_and_a_handled_failure_is_completed_with_failures(home: Home) -> None:
    home.put(
        home.noting("Bad", BAD),
        home.noting("Good"),
        home.noting("OnFailure", depends_on=[after("Bad", "Failed")]),
        home.noting("OnAny", depends_on=[after("Bad", "Any"), after("Good", "Any")]),
        home.noting("OnStopped", depends_on=[after("Bad", "Stopped")]),
        home.noting("OnSuccess", depends_on=["Bad"]),
        home.noting("OnFailureOfGood", depends_on=[after("Good", "Failed")]),
        home.noting("AfterHandler", depends_on=["OnFailure"]),
        home.noting("AfterWhatNeverRan", depends_on=[after("OnSuccess", "Any")]),
        home.noting("Both", depends_on=["Good", after("Bad", "Failed")]),
    )
    arn = home.start()
    assert home.ended(arn) == "CompletedWithFailures"
    ran = ["AfterHandler", "Bad", "Both", "Good", "OnAny", "OnFailure"]
    assert sorted(home.ran) == ran
    assert home.statuses(arn) == {name: "Failed" if name == "Bad" else "Succeeded" for name in home.statuses(arn)}
    with pytest.raises(home.sagemaker.exceptions.ClientError, match="this one is CompletedWithFailures"):
        home.retry(arn)


def test_a_failure_that_nobody_handles_or_whose_handler_fails_or_cannot_run_fails_the_execution(home: Home) -> None:
    on_failure = [after("Bad", "Failed")]
    never = condition("Never", [compare("Equals", 1, 2)], [home.noting("Handler", depends_on=on_failure)])
    slow = home.noting("Slow", "import time; time.sleep(0.5)")
    for steps, ran in (
        ([home.noting("Handler", BAD, depends_on=on_failure)], ["Bad", "Handler"]),
        ([slow, home.noting("Next", depends_on=["Slow"])], ["Bad", "Slow"]),
        ([never], ["Bad"]),
    ):
        home.put(home.noting("Bad", BAD), *steps)
        home.forget()
        arn = home.start()
        assert home.ended(arn) == "Failed"
        assert home.described(arn)["FailureReason"] == "Step failure: One or multiple steps failed."
        assert sorted(home.ran) == ran


def test_retry_runs_what_failed_and_what_ran_because_of_that_and_nothing_else(home: Home) -> None:
    fails = home.failing_until_go
    home.put(
        home.noting("Good"),
        home.noting("Flaky", fails, depends_on=["Good"]),
        home.noting("Handler", depends_on=[after("Flaky", "Failed")]),
        home.noting("Unhandled", fails, depends_on=["Good"]),
    )
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
    inner = condition(
        "Inner",
        [
            {"Type": "In", "QueryValue": json_get("Eval", "kind"), "Values": ["y", get("Parameters.Who")]},
            {"Type": "Or", "Conditions": [compare("Equals", 1, 2), compare("LessThan", 1, 2)]},
        ],
        [lab.processing("Taken", "")],
        [fail("Bad", "never")],
    )
    gate = condition(
        "Gate",
        [
            compare("GreaterThanOrEqualTo", json_get("Eval", "n[1]['a.b']"), get("Parameters.Min")),
            {"Type": "Not", "Condition": compare("Equals", get("Parameters.Deploy"), False)},
        ],
        [inner],
        [lab.processing("NotTaken", ""), condition("Other", [compare("Equals", 1, 1)], [lab.processing("Deep", "")])],
    )
    steps = [
        lab.processing("AfterNotTaken", "", DependsOn=["NotTaken"]),
        lab.processing("AfterAny", "", DependsOn=[after("NotTaken", "Any")]),
        lab.processing("AfterGate", "", DependsOn=["Gate"]),
        lab.processing("AfterInner", "", DependsOn=["Inner"]),
        gate,
        judged,
    ]
    declared = [parameter("Min", "Float", 0.5), parameter("Deploy", "Boolean", True), parameter("Who", "String", "x")]
    report = lab.run(*steps, parameters=declared)
    ran = ["Eval", "Gate", "Inner", "Taken", "AfterGate", "AfterInner"]
    assert report.statuses == dict.fromkeys(ran, "Succeeded")
    assert [report.step(name)["outcome"] for name in ("Gate", "Inner", "Taken")] == ["True", "True", None]


def test_a_false_condition_ends_in_a_fail_step_that_neither_a_handler_nor_retry_undoes(lab: Lab) -> None:
    too_low = fail("TooLow", join(" ", 0.25, join("", "is below ", get("Parameters.Min"))))
    gate = condition(
        "Gate", [compare("GreaterThan", 0.25, get("Parameters.Min"))], [lab.processing("Yes", "")], [too_low]
    )
    steps = [gate, lab.processing("Bad", BAD), lab.processing("Handler", "", DependsOn=[after("Bad", "Failed")])]
    report = lab.run(*steps, parameters=[parameter("Min", "Float", 0.5)], options=["--param", "Min=9e-1"])
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert report.statuses["TooLow"] == "0.25 is below 0.9"
    assert report.step("Gate")["outcome"] == "False"
    summary = run_cli("status", "--home", lab.home, "--pipeline", "lab").stdout
    assert "TooLow failed: 0.25 is below 0.9" in summary
    assert "retry" not in summary
    done = run_cli("retry", "--home", lab.home, "--pipeline", "lab")
    assert done.returncode == 1
    assert done.stderr.endswith("An execution that a Fail step ended cannot be retried; start a new one.\n")


def test_200_nested_conditions_and_a_chain_of_200_steps_run(lab: Lab) -> None:
    step = lab.processing("Innermost", "")
    for number in range(200):
        step = condition(f"If{number}", [compare("Equals", number, number)], [step])
    chain = [
        condition(f"C{n}", [compare("Equals", 1, 1)]) | {"DependsOn": [f"C{n - 1}"] if n else []} for n in range(200)
    ]
    report = lab.run(step, *reversed(chain))
    assert report.code == 0, report.stderr
    assert set(report.statuses.values()) == {"Succeeded"}
    assert len(report.statuses) == 401


def test_no_more_steps_run_at_once_than_the_start_or_the_retry_allows(home: Home) -> None:
    fails = f"import time\ntime.sleep(0.2)\n{home.failing_until_go}"
    home.put(*[home.noting(f"Step{number}", fails) for number in range(4)])
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
