"""Definitions run as whole processes: branches, values from step to step, order, and what is refused beforehand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.local.lab import (
    ROLE,
    Lab,
    call,
    compare,
    condition,
    fail,
    get,
    join,
    json_get,
    output_uri,
    parameter,
    s3_output,
    source,
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


SDK_CASE = json.loads((Path(__file__).parent / "cases" / "sdk_pipeline.json").read_text())  # compiled by SDK 3.27
SDK_PREP = """
    import argparse, json, pathlib
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int)
    parser.add_argument("--flag")
    told = parser.parse_args()
    out = pathlib.Path("/opt/ml/processing/output")
    (out / "train/x.csv").write_text("1,2\\n" * told.n)
    (out / "report/evaluation.json").write_text(json.dumps({"metrics": {"acc": {"value": 0.91}}}))
    print(told.flag, [path.read_text() for path in pathlib.Path("/opt/ml/processing/input").rglob("*.txt")])
"""
SDK_TRAIN = """
    import argparse, os
    from helper import half
    parser = argparse.ArgumentParser()
    for name in ("lr", "epochs", "flag", "sizes"):
        parser.add_argument(f"--{name}")
    told, rest = parser.parse_known_args()
    print(told.flag, told.sizes, sorted(rest))
    for epoch in range(int(told.epochs)):
        print(f"epoch={epoch} val_acc={half + 0.1 * epoch:.4f} loss=1e-3", flush=True)
    lines = open(os.environ["SM_CHANNEL_TRAIN"] + "/x.csv").readlines()
    open(os.environ["SM_MODEL_DIR"] + "/lines.txt", "w").write(str(len(lines)))
"""
SDK_HANDLER = """
    def handler(event, context):
        return {"s": f"lr{event['best']}", "i": event["n"], "b": event["flag"], "f": event["acc"]}
"""


def test_a_definition_compiled_by_the_sdk_runs_to_its_end(lab: Lab) -> None:
    lab.put("s3://bkt/raw/a/b.txt", "raw")
    lab.put("s3://bkt/code/prep.py", source(SDK_PREP))
    files = {"train.py": SDK_TRAIN, "helper.py": "half = 0.5", "requirements.txt": "numpy"}
    for name, text in files.items():
        lab.put(f"s3://bkt/Train/input/code/{name}", source(text))
    lab.archive("s3://bkt/Tune/input/sourcedir/sourcedir.tar.gz", files)
    for step in ("Train", "Tune"):
        sources = {"source_dir": "src", "requirements": "requirements.txt", "entry_script": "train.py"}
        lab.put(f"s3://bkt/{step}/input/sm_drivers/sourcecode.json", json.dumps(sources))
        driver = "python3 /opt/ml/input/data/sm_drivers/distributed_drivers/basic_script_driver.py"
        lab.put(f"s3://bkt/{step}/input/sm_drivers/sm_train.sh", driver)
    functions = [lab.function(SDK_HANDLER)]
    report = lab.run_definition(SDK_CASE, functions=functions)
    assert report.statuses == dict.fromkeys(["Prep", "Train", "Tune", "Lam", "Gate", "Inner", "Final"], "Succeeded")
    best = report.document["best_hyperparameters"]
    assert set(best) == {"lr", "bs", "k"}
    assert report.step("Lam")["outputs"] == {"s": f"lr{best['lr']}", "i": "3", "b": "True", "f": "0.7"}
    assert report.log("Prep") == "true-me-0.5 ['raw']\n"
    assert report.log("Final") == f"lr{best['lr']} []\n"
    arguments = ["--cfg", "--name", "res net", '{"a": 1}']
    assert report.log("Train").splitlines()[0] == f"true [1, 2] {arguments}"
    refused = lab.run_definition(
        SDK_CASE, functions=functions, options=["--param", "Deploy=false", "--param", "Who=you"]
    )
    assert refused.code == 1
    assert refused.statuses["Bad"] == "acc below 0.5"


def test_nested_conditions_take_the_right_branches(lab: Lab) -> None:
    taken, not_taken = (lab.processing(name, "") for name in ("Taken", "NotTaken"))
    beside = lab.processing("AfterNotTaken", "", DependsOn=["NotTaken"])
    innermost = condition(
        "Innermost", [compare("Equals", get("Parameters.Who"), "me")], [taken], [lab.processing("Else", "")]
    )
    inner = condition(
        "Inner",
        [
            {"Type": "In", "QueryValue": json_get("Eval", "kind"), "Values": ["x", get("Parameters.Who")]},
            {"Type": "Or", "Conditions": [compare("Equals", 1, 2), compare("LessThan", 1, json_get("Eval", "n"))]},
        ],
        [innermost],
        [fail("Bad", "never")],
    )
    gate = condition(
        "Gate",
        [
            compare("GreaterThanOrEqualTo", json_get("Eval", "$.list[1].value"), get("Parameters.Min")),
            {"Type": "Not", "Condition": compare("Equals", get("Parameters.Deploy"), False)},
            compare("LessThanOrEqualTo", json_get("Eval", "['a.b']"), 0.5),
            compare("GreaterThan", "b", "a"),
        ],
        [inner],
        [not_taken, condition("Other", [compare("Equals", 1, 1)], [lab.processing("Deep", "")], [])],
    )
    content = {"kind": "x", "n": 2, "list": [0, {"value": 0.9}], "a.b": 0.5}
    report = lab.run(
        beside,
        gate,
        reporting(lab, "Eval", content),
        parameters=[
            parameter("Min", "Float", 0.5),
            parameter("Deploy", "Boolean", True),
            parameter("Who", "String", "me", EnumValues=["me", "you"]),
        ],
    )
    assert report.statuses == dict.fromkeys(["Eval", "Gate", "Inner", "Innermost", "Taken"], "Succeeded")
    assert {name: report.step(name)["outcome"] for name in ("Gate", "Inner", "Innermost")} == {
        "Gate": "True",
        "Inner": "True",
        "Innermost": "True",
    }


def test_a_false_condition_ends_in_a_fail_step_with_its_message(lab: Lab) -> None:
    message = join(" ", "accuracy", json_get("Eval", "acc"), join("", "is below ", get("Parameters.Min")))
    gate = condition(
        "Gate",
        [compare("GreaterThan", json_get("Eval", "acc"), get("Parameters.Min"))],
        [lab.processing("Register", "")],
        [fail("TooLow", message)],
    )
    report = lab.run(
        gate,
        reporting(lab, "Eval", {"acc": 0.25}),
        parameters=[parameter("Min", "Float", 0.5)],
        options=["--param", "Min=9e-1"],
    )
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert report.statuses == {
        "Eval": "Succeeded",
        "Gate": "Succeeded",
        "TooLow": "accuracy 0.25 is below 0.9",
    }
    assert report.step("Gate")["outcome"] == "False"


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


def test_a_failed_step_lets_running_ones_end_and_starts_nothing_new(lab: Lab) -> None:
    steps = [
        lab.processing("Failing", "raise SystemExit(1)"),
        lab.processing("Running", "import time; time.sleep(0.5)"),
        lab.processing("Next", "", DependsOn=["Running"]),
        lab.processing("After", "", DependsOn=[{"Step": "Failing", "Trigger": "Completed"}]),
    ]
    report = lab.run(*steps)
    assert (report.code, report.document["status"]) == (1, "Failed")
    assert report.document["failure_reason"] == "Step failure: One or multiple steps failed."
    assert report.statuses == {"Failing": "AlgorithmError: no output, exit code: 1", "Running": "Succeeded"}


def test_no_more_steps_run_at_once_than_allowed(lab: Lab) -> None:
    steps = [lab.processing(f"Step{number}", "import time; time.sleep(0.15)") for number in range(4)]
    report = lab.run(*steps, options=["--parallel", 2])
    rows = report.document["steps"]
    overlaps = [sum(r["started"] <= row["started"] < r["ended"] for r in rows) for row in rows]
    assert max(overlaps) == 2


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


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "an unknown type": (
        [{"Name": "Q", "Type": "QualityCheck", "Arguments": {}}, {"Name": "P", "Type": "Proccessing", "Arguments": {}}],
        [
            "Step 'Q' is of type QualityCheck, which the local target cannot run; it runs 'Processing', 'Training', "
            "'Tuning', 'Model', 'RegisterModel', 'Lambda', 'Transform', 'Condition' and 'Fail'.",
            "Step 'P' is of type Proccessing, which the local target cannot run; it runs 'Processing', 'Training', "
            "'Tuning', 'Model', 'RegisterModel', 'Lambda', 'Transform', 'Condition' and 'Fail'. Did you mean "
            "'Processing'?",
        ],
    ),
    "a circle": (
        [call("A", {"x": get("Steps.B.OutputParameters['x']")}, {"x": "String"}), call("B", {}, {}, DependsOn=["A"])],
        ["Steps wait for each other in a circle: 'A' waits for 'B' waits for 'A'."],
    ),
    "functions that are not there": (
        [call("A", {}, {}), call("B", {}, {}, function="other:3")],
        [
            "Step 'A' calls the Lambda function 'fn', which is not known here; give it with --lambda "
            "fn=FILE.py:HANDLER.",
            "Step 'B' calls the Lambda function 'other', which is not known here; give it with --lambda "
            "other=FILE.py:HANDLER.",
        ],
    ),
    "requests that lack what is needed": (
        [
            {"Name": "P", "Type": "Processing", "Arguments": {"AppSpecification": {"ImageUri": "i"}}},
            {"Name": "P2", "Type": "Processing", "Arguments": {}},
            {"Name": "T", "Type": "Training", "Arguments": {"AlgorithmSpecification": {"TrainingImage": "i"}}},
            {"Name": "H", "Type": "Tuning", "Arguments": {"HyperParameterTuningJobConfig": {"Strategy": "Random"}}},
            {"Name": "M", "Type": "Model", "Arguments": {}},
            {"Name": "R", "Type": "RegisterModel", "Arguments": {}},
            {"Name": "X", "Type": "Transform", "Arguments": {"ModelName": "m"}},
            {"Name": "L", "Type": "Lambda", "Arguments": {}},
        ],
        [
            "Step 'P' has no AppSpecification.ContainerEntrypoint, and its image's own is not on this machine; name "
            "the program.",
            "Step 'P2' lacks AppSpecification.",
            "Step 'T' lacks OutputDataConfig.S3OutputPath.",
            "Step 'H' lacks TrainingJobDefinition.",
            "Step 'M' lacks PrimaryContainer.",
            "Step 'R' lacks ModelPackageGroupName.",
            "Step 'X' lacks TransformInput.DataSource.S3DataSource.S3Uri.",
            "Step 'X' lacks TransformOutput.S3OutputPath.",
            "Step 'L' needs the ARN of a function as FunctionArn, but has None.",
            "Step 'L' calls the Lambda function '', which is not known here; give it with --lambda =FILE.py:HANDLER.",
        ],
    ),
    "members that cannot be read": (
        [
            {
                "Name": "P",
                "Type": "Processing",
                "CacheConfig": {"Enabled": True, "ExpireAfter": "a day"},
                "RetryPolicies": "none",
                "Arguments": {
                    "AppSpecification": {"ContainerEntrypoint": ["true"]},
                    "ProcessingInputs": [
                        {"InputName": "a", "DatasetDefinition": {}},
                        {"S3Input": {"S3Uri": "s3://b/m", "LocalPath": "/opt/ml/processing/m", "S3InputMode": "Pipe"}},
                    ],
                    "ProcessingOutputConfig": {"Outputs": [{"OutputName": "o", "FeatureStoreOutput": {}}]},
                },
            },
            {
                "Name": "T",
                "Type": "Training",
                "Arguments": {
                    "AlgorithmSpecification": {
                        "ContainerEntrypoint": ["true"],
                        "TrainingInputMode": "Pipe",
                        "MetricDefinitions": [{"Name": "m", "Regex": "("}],
                    },
                    "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
                    "InputDataConfig": [
                        {"ChannelName": "c", "DataSource": {"FileSystemDataSource": {}}},
                        {"ChannelName": "p", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/p"}}},
                    ],
                },
            },
        ],
        [
            "Step 'P' lacks ProcessingInputs[0].S3Input.S3Uri.",
            "Step 'P' lacks ProcessingInputs[0].S3Input.LocalPath.",
            "Step 'P' has a manifest or a pipe in ProcessingInputs[1].S3Input; the local target reads an S3Prefix as "
            "files.",
            "Step 'P' lacks ProcessingOutputConfig.Outputs[0].S3Output.S3Uri.",
            "Step 'P' lacks ProcessingOutputConfig.Outputs[0].S3Output.LocalPath.",
            "Step 'P' has 'a day' as CacheConfig.ExpireAfter, which is not an ISO 8601 duration such as P30D or PT2H.",
            "Step 'P' needs a list of objects as RetryPolicies, but has 'none'.",
            "Step 'T' lacks InputDataConfig[0].DataSource.S3DataSource.S3Uri.",
            "Step 'T' has a manifest or a pipe in InputDataConfig[0]; the local target reads an S3Prefix as files.",
            "Step 'T' has a manifest or a pipe in InputDataConfig[1]; the local target reads an S3Prefix as files.",
            "Step 'T' has '(' as AlgorithmSpecification.MetricDefinitions[0].Regex, which is not a regular expression: "
            "missing ), unterminated subpattern at position 0.",
        ],
    ),
    "an image's own program": (
        [
            {
                "Name": "T",
                "Type": "Training",
                "Arguments": {
                    "AlgorithmSpecification": {"TrainingImage": "xgboost"},
                    "OutputDataConfig": {"S3OutputPath": "s3://b/o"},
                },
            }
        ],
        [
            "Step 'T' would start its image's own 'train' program, which is not on this machine; name a script by a "
            "ContainerEntrypoint or by the hyperparameters sagemaker_program and sagemaker_submit_directory."
        ],
    ),
    "steps that are none": (
        [1, {"Name": "bad name!", "Type": "Fail", "Arguments": None}],
        [
            "A step must be an object with Name, Type and Arguments, but got 1.",
            "Step name 'bad name!' is not 1 to 64 letters, digits, '-' and '_'.",
            "Step 'bad name!' needs an object as Arguments, but got None.",
        ],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_by_name_before_anything_runs(lab: Lab, case: str) -> None:
    steps, sentences = REFUSED[case]
    first = lab.processing("First", "")
    report = lab.run(first, *steps)
    assert report.stderr.splitlines() == sentences
    assert (report.code, report.stdout) == (2, "")
    assert not (lab.home / "jobs").exists()


@pytest.mark.parametrize(
    ("definition", "options", "sentence"),
    [
        ("{", [], "{file} is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)."),
        ([], [], "{file} is not a pipeline definition: it has no list 'Steps'."),
        ({"Steps": {}}, [], "{file} is not a pipeline definition: it has no list 'Steps'."),
        (
            {"Steps": [], "Parameters": [{"Name": "A", "Type": "Integer", "DefaultValue": 1}]},
            ["--param", "A=1.5"],
            "Parameter 'A' must be a whole number, but is '1.5'.",
        ),
        (
            {"Steps": [], "Parameters": {"A": 1}},
            [],
            'Parameters must be a list of objects with Name and Type, but is {{"A": 1}}.',
        ),
        (
            {"Steps": [], "Parameters": [{"Name": "A", "Type": "Boolean"}]},
            [],
            "Parameter 'A' (Boolean) has no default, so it needs a value.",
        ),
    ],
)
def test_a_definition_that_is_none_or_a_wrong_parameter_is_refused(
    lab: Lab, definition: Any, options: list[str], sentence: str
) -> None:
    report = lab.run_definition(definition, options=options)
    assert (report.code, report.stdout) == (2, "")
    assert report.stderr.strip() == sentence.format(file=lab.folder / "lab.json")


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
