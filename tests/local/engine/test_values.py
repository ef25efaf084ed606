"""What steps read of each other, of parameters and of the execution; and failures that are tried again."""

import json
import re
import time
from typing import Any

import pytest

from pipeline.local.engine.execution import retry_wait
from tests.local.lab import (
    ROLE,
    Lab,
    compare,
    condition,
    get,
    join,
    json_get,
    output_uri,
    parameter,
    s3_output,
)

PRINT = "import json, sys; print(json.dumps(sys.argv[1:]))"
WRITE = """
    import sys
    open("/opt/ml/processing/output/report/evaluation.json", "w").write(sys.argv[1])
"""
REPORT = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "evaluation.json"}


def reporting(lab: Lab, name: str, content: Any) -> dict[str, Any]:
    """A Processing step that writes a property file."""
    return lab.processing(name, WRITE, outputs=["report"], arguments=[json.dumps(content)], PropertyFiles=[REPORT])


def test_values_travel_between_steps_in_their_types(lab: Lab) -> None:
    lab.put("s3://bucket/facts/numbers.json", '{"a": [{"b": 7}], "text": "t"}')
    s3 = {"Std:JsonGet": {"S3Uri": join("/", "s3:/", "bucket/facts", "numbers.json"), "Path": "a[0].b"}}
    step = lab.processing(
        "Print",
        PRINT,
        arguments=[
            get("Parameters.S"),
            get("Parameters.I"),
            get("Parameters.F"),
            get("Parameters.B"),
            s3,
            json_get("Eval", "deep['x y'].z"),
            join("/", "a", join("-", 1, 2.5, False), get("Execution.PipelineName")),
            get("Execution.PipelineExecutionId"),
            get("Execution.PipelineExecutionArn"),
            get("Execution.PipelineArn"),
            get("Execution.ProcessingJobName"),
            get("Execution.StartDateTime"),
            get("PipelineExperimentConfig.TrialName"),
            get("Steps.Eval.ProcessingJobName"),
            get("Steps.Eval.AppSpecification.ImageUri"),
        ],
    )
    report = lab.run(
        step,
        reporting(lab, "Eval", {"deep": {"x y": {"z": "ü"}}}),
        parameters=[
            parameter("S", "String", ""),
            parameter("I", "Integer"),
            parameter("F", "Float", 1),
            parameter("B", "Boolean", False),
        ],
        options=["--param", "I=-3", "--param", "B=True", "--param", "S=a=b c"],
        PipelineExperimentConfig={
            "ExperimentName": get("Execution.PipelineName"),
            "TrialName": get("Execution.PipelineExecutionId"),
        },
        MlflowConfig=None,
    )
    assert report.statuses == {"Eval": "Succeeded", "Print": "Succeeded"}
    arn = report.document["execution_arn"]
    execution = arn.rpartition("/")[2]
    found = report.printed("Print")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop(11))
    assert found == [
        "a=b c",
        "-3",
        "1.0",
        "true",
        "7",
        "ü",
        "a/1-2.5-false/lab",
        execution,
        arn,
        arn.partition("/execution/")[0],
        report.record("Print")["Job"],
        execution,
        report.record("Eval")["Job"],
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/any:1",
    ]
    assert report.document["parameters"] == {"S": "a=b c", "I": -3, "F": 1.0, "B": True}


def test_a_value_that_is_not_there_fails_the_step_that_reads_it(lab: Lab) -> None:
    texts = condition("Types", [compare("GreaterThan", json_get("Eval", "text"), 1)])
    missing = condition("Missing", [compare("GreaterThan", json_get("Eval", "none.at.all"), 1)])
    no_output = lab.processing("Property", PRINT, arguments=[get("Steps.Eval.ProcessingOutputConfig.Outputs['x']")])
    no_file = lab.processing("NoFile", "", outputs=["report"], PropertyFiles=[REPORT])
    unread = condition("Unread", [compare("Equals", json_get("NoFile", "a"), 1)])
    report = lab.run(reporting(lab, "Eval", {"text": "2"}), texts, missing, no_output, no_file, unread)
    execution = report.document["execution_arn"].rpartition("/")[2]
    uri = f"s3://bucket/out/{execution}/NoFile/report/evaluation.json"
    expected = {
        "Eval": "Succeeded",
        "NoFile": "Succeeded",
        "Types": "ClientError: GreaterThan compares 'text' of Steps.Eval.PropertyFiles.Report = \"2\" (a string) with "
        "1 (a number), but both must be of the same type. Convert one of them where it is written.",
        "Missing": "ClientError: In property file 'Report' of step 'Eval', $.none was not found: $ has 'text'.",
        "Property": "ClientError: Steps.Eval.ProcessingOutputConfig.Outputs.x was not found: "
        "Steps.Eval.ProcessingOutputConfig.Outputs has 'report'.",
        "Unread": f"ClientError: {uri} does not exist in the local S3 at {lab.home}/s3.",
    }
    assert report.code == 1
    assert report.statuses.items() <= expected.items()
    assert {"Eval", "NoFile"} < set(report.statuses)


def test_models_are_registered_created_and_asked_for_a_batch(lab: Lab) -> None:
    server = """
        import http.server, os
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self): self.answer(b"")
            def do_POST(self): self.answer(self.rfile.read(int(self.headers["Content-Length"])).upper())
            def answer(self, body):
                self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
                self.wfile.write(body)
            def log_message(self, *a): pass
        http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
    """
    train = lab.training(
        "Train",
        f"import os; os.makedirs('/opt/ml/model/code')\nopen('/opt/ml/model/code/serve.py', 'w').write({server!r}"
        ".replace('\\n        ', '\\n'))",
    )
    container = {
        "Image": "img",
        "Environment": {"SAGEMAKER_PROGRAM": "serve.py"},
        "ModelDataUrl": get("Steps.Train.ModelArtifacts.S3ModelArtifacts"),
    }
    register = {
        "Name": "Register",
        "Type": "RegisterModel",
        "Arguments": {
            "ModelPackageGroupName": "grp",
            "InferenceSpecification": {"Containers": [container], "SupportedContentTypes": ["text/plain"]},
            "ModelApprovalStatus": get("Parameters.Approval"),
            "CustomerMetadataProperties": {"n": get("Parameters.N")},
        },
    }
    model = {"Name": "Model", "Type": "Model", "Arguments": {"ExecutionRoleArn": ROLE, "PrimaryContainer": container}}
    lab.put("s3://bucket/batch/a.txt", "hello")
    lab.put("s3://bucket/batch/sub/b.txt", "there")
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/batch"}}
    transform = {
        "Name": "Transform",
        "Type": "Transform",
        "Arguments": {
            "ModelName": get("Steps.Model.ModelName"),
            "TransformInput": {"DataSource": source, "ContentType": "text/plain"},
            "TransformOutput": {"S3OutputPath": "s3://bucket/answers"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        },
    }
    after = lab.processing(
        "After", PRINT, arguments=[get("Steps.Register.ModelPackageArn"), get("Steps.Register.ModelApprovalStatus")]
    )
    parameters = [parameter("Approval", "String", "PendingManualApproval"), parameter("N", "Integer", 7)]
    report = lab.run(after, transform, model, register, train, parameters=parameters)
    assert report.statuses == dict.fromkeys(["Train", "Model", "Register", "Transform", "After"], "Succeeded")
    assert lab.get("s3://bucket/answers/a.txt.out") == "HELLO"
    assert lab.get("s3://bucket/answers/sub/b.txt.out") == "THERE"
    arn = "arn:aws:sagemaker:us-east-1:000000000000:model-package/grp/1"
    assert report.printed("After") == [arn, "PendingManualApproval"]
    assert report.document["model_package_arn"] == arn
    assert report.properties("Register")["CustomerMetadataProperties"] == {"n": "7"}


def test_null_where_lists_and_objects_may_stand_is_nothing(lab: Lab) -> None:
    step = lab.processing("Prep", "", DependsOn=None, CacheConfig=None, RetryPolicies=None, PropertyFiles=None)
    for member in ("ProcessingOutputConfig", "Environment", "StoppingCondition", "ExperimentConfig"):
        step["Arguments"][member] = None
    report = lab.run_definition({"Steps": [step], "Parameters": None, "Metadata": None, "MlflowConfig": None})
    assert report.statuses == {"Prep": "Succeeded"}


def test_outputs_may_be_named_as_they_are_read(lab: Lab) -> None:
    first = lab.processing("First", "open('/opt/ml/processing/output/a b:c/x', 'w').write('it')")
    first["Arguments"]["ProcessingOutputConfig"] = {"Outputs": [s3_output("First", "a b:c")]}
    second = lab.processing(
        "Second", "print(open('/opt/ml/processing/input/d/x').read())", inputs={"d": output_uri("First", "a b:c")}
    )
    assert lab.run(first, second).log("Second") == "it\n"


LOST = "SageMaker.JOB_INTERNAL_ERROR"
THROTTLED = {"ExceptionType": ["Step.THROTTLING"], "IntervalSeconds": 9}


@pytest.mark.parametrize(
    ("policies", "code", "waits"),
    [
        (
            [{"ExceptionType": [LOST], "IntervalSeconds": 2, "BackoffRate": 1.5, "MaxAttempts": 3}],
            LOST,
            [2, 3, 4.5, None],
        ),
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
