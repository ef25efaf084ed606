"""What steps read of each other, of parameters and of the execution; and failures that are tried again."""

import json
import re
import time
from typing import Any

import pytest

from pipeline.local.engine.execution import retry_wait
from tests.local.lab import IMAGE, Lab, compare, condition, get, join, json_get, output_uri, parameter, s3_output

PRINT = "import json, sys; print(json.dumps(sys.argv[1:]))"
WRITE = "import sys\nopen('/opt/ml/processing/output/report/evaluation.json', 'w').write(sys.argv[1])"
REPORT = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "evaluation.json"}


def reporting(lab: Lab, name: str, content: Any) -> dict[str, Any]:
    """A Processing step that writes a property file."""
    return lab.processing(name, WRITE, outputs=["report"], arguments=[json.dumps(content)], PropertyFiles=[REPORT])


READ = """
    Parameters.S Parameters.I Parameters.F Parameters.B Execution.PipelineExecutionId Execution.PipelineExecutionArn
    Execution.PipelineArn Execution.ProcessingJobName PipelineExperimentConfig.TrialName Steps.Eval.ProcessingJobName
    Steps.Eval.AppSpecification.ImageUri Execution.StartDateTime
""".split()  # noqa: SIM905


def test_values_travel_between_steps_in_their_types(lab: Lab) -> None:
    lab.put("s3://bucket/facts/numbers.json", '{"a": [{"b": 7}], "text": "t"}')
    s3 = {"Std:JsonGet": {"S3Uri": join("/", "s3:/", "bucket/facts", "numbers.json"), "Path": "a[0].b"}}
    joined = join("/", "a", join("-", 1, 2.5, False), get("Execution.PipelineName"))
    arguments = [*map(get, READ), s3, json_get("Eval", "deep['x y'].z"), joined]
    declared = [parameter("S", "String", ""), parameter("I", "Integer"), parameter("F", "Float", 1)]
    experiment = {"ExperimentName": "Execution.PipelineName", "TrialName": "Execution.PipelineExecutionId"}
    report = lab.run(
        lab.processing("Print", PRINT, arguments=arguments),
        reporting(lab, "Eval", {"deep": {"x y": {"z": "ü"}}}),
        parameters=[*declared, parameter("B", "Boolean", False)],
        options=["--param", "I=-3", "--param", "B=True", "--param", "S=a=b c"],
        PipelineExperimentConfig={name: get(path) for name, path in experiment.items()},
        MlflowConfig=None,
    )
    assert report.statuses == {"Eval": "Succeeded", "Print": "Succeeded"}
    arn, found = report.document["execution_arn"], report.printed("Print")
    execution, jobs = arn.rpartition("/")[2], [report.record(name)["Job"] for name in ("Print", "Eval")]
    assert found[:7] == ["a=b c", "-3", "1.0", "true", execution, arn, arn.partition("/execution/")[0]]
    assert found[7:11] == [jobs[0], execution, jobs[1], IMAGE]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found[11])
    assert found[12:] == ["7", "ü", "a/1-2.5-false/lab"]
    assert report.document["parameters"] == {"S": "a=b c", "I": -3, "F": 1.0, "B": True}


def test_a_value_that_is_not_there_fails_the_step_that_reads_it(lab: Lab) -> None:
    deep = "open('/opt/ml/processing/output/report/evaluation.json', 'w').write('[' * 100000)"
    reads = {
        "Missing": ("Eval", "none.at.all"),
        "Types": ("Eval", "text"),
        "Unread": ("NoFile", "a"),
        "Deep": ("Bad", "a"),
    }
    report = lab.run(
        reporting(lab, "Eval", {"text": "2"}),
        lab.processing("NoFile", "", outputs=["report"], PropertyFiles=[REPORT]),
        lab.processing("Bad", deep, outputs=["report"], PropertyFiles=[REPORT]),
        lab.processing("Property", PRINT, arguments=[get("Steps.Eval.ProcessingOutputConfig.Outputs['x']")]),
        *(condition(name, [compare("GreaterThan", json_get(*read), 1)]) for name, read in reads.items()),
        # which handles each failure, so that the next step starts:
        *(condition(f"After{name}", [], []) | {"DependsOn": [after(name)]} for name in (*reads, "Property")),
    )
    expected = {
        "Types": "ClientError: GreaterThan compares 'text' of Steps.Eval.PropertyFiles.Report = \"2\" (a string) with ",
        "Missing": "ClientError: In property file 'Report' of step 'Eval', $.none was not found: $ has 'text'.",
        "Property": "ClientError: Steps.Eval.ProcessingOutputConfig.Outputs.x was not found: ",
        "Unread": "ClientError: s3://bucket/out/",
        "Deep": "s3://bucket/out/",
    }
    assert {name: said[: len(expected[name])] for name, said in report.statuses.items() if name in expected} == expected
    assert "is not JSON that can be read" in report.statuses["Deep"]


def after(name: str) -> dict[str, str]:
    """An entry of DependsOn."""
    return {"Step": name, "Trigger": "Failed"}


def test_null_is_nothing_and_outputs_may_be_named_as_they_are_read(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/a b:c/x', 'w').write('it')", RetryPolicies=None)
    for member in ("ProcessingOutputConfig", "Environment", "StoppingCondition", "ExperimentConfig"):
        first["Arguments"][member] = None
    first |= dict.fromkeys(["DependsOn", "CacheConfig", "PropertyFiles"])
    assert lab.run_definition({"Steps": [first], "Parameters": None, "Metadata": None, "MlflowConfig": None}).code
    first["Arguments"]["ProcessingOutputConfig"] = {"Outputs": [s3_output("First", "a b:c")]}
    reading = "print(open('/opt/ml/processing/input/d/x').read())"
    second = lab.processing("Second", reading, inputs={"d": output_uri("First", "a b:c")})
    definition = {"Steps": [second, first], "Parameters": None, "Metadata": None, "MlflowConfig": None}
    assert lab.run_definition(definition).log("Second") == "it\n"


LOST = "SageMaker.JOB_INTERNAL_ERROR"
POLICY = {"ExceptionType": [LOST], "IntervalSeconds": 2, "BackoffRate": 1.5, "MaxAttempts": 3}
THROTTLED = {"ExceptionType": ["Step.THROTTLING"], "IntervalSeconds": 9}


@pytest.mark.parametrize(
    ("policies", "code", "waits"),
    [
        ([POLICY], LOST, [2, 3, 4.5, None]),
        ([{"ExceptionType": [LOST]}], LOST, [1, 2, 4, 8, 16, None]),  # the service's defaults
        ([{"ExceptionType": [LOST], "IntervalSeconds": 30, "ExpireAfterMin": 1}], LOST, [30, None]),
        ([THROTTLED], LOST, [None]),
        ([{"ExceptionType": LOST}], LOST, [1]),  # one name, as the published schema has it
        ([{"ExceptionType": LOST}], None, [None]),
        ([THROTTLED, {"ExceptionType": [LOST, "x"]}], LOST, [1]),
        ([], LOST, [None]),
    ],
)
def test_the_first_policy_that_names_a_failure_says_how_often_and_when(
    policies: list[dict[str, Any]], code: str | None, waits: list[float | None]
) -> None:
    assert [retry_wait(policies, code, used, time.monotonic()) for used in range(len(waits))] == waits


def test_a_job_that_is_killed_is_tried_again_and_a_script_that_fails_is_not(lab: Lab) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    policies = [{"ExceptionType": [LOST], "IntervalSeconds": 1, "MaxAttempts": 1}]
    after = [{"Step": "Killed", "Trigger": "Failed"}]
    steps = [lab.processing("Killed", killed, RetryPolicies=policies)]
    steps.append(lab.processing("Fails", "raise SystemExit(3)", RetryPolicies=policies, DependsOn=after))
    report = lab.run(*steps)
    assert "the job's process was killed from outside" in report.statuses["Killed"]
    assert report.statuses["Fails"] == "AlgorithmError: no output, exit code: 3"
    assert [report.record(name)["AttemptCount"] for name in ("Killed", "Fails")] == [2, 1]
