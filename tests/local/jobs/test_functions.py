"""Lambda steps: the handler's event and surroundings, what it answers, and how it fails."""

import os

from tests.local.lab import Lab, call, compare, condition, get, json_get, output_uri, parameter

EVERY = {"s": "String", "i": "Integer", "f": "Float", "b": "Boolean", "nested": "String"}


def out(step: str, name: str) -> dict[str, str]:
    """An output of a Lambda step."""
    return get(f"Steps.{step}.OutputParameters['{name}']")


def test_outputs_have_the_declared_types_downstream(lab: Lab) -> None:
    function = lab.function(
        """
        def handler(event, context):
            return {"s": 5, "i": "3", "f": 1, "b": "true", "nested": {"a": [1]}, "not declared": object is None}
        """
    )
    gate = condition(
        "Gate",
        [
            compare("Equals", out("Call", "s"), "5"),
            compare("Equals", out("Call", "i"), 3),
            compare("LessThan", out("Call", "f"), 1.5),
            compare("Equals", out("Call", "b"), True),
            {"Type": "Not", "Condition": compare("Equals", out("Call", "nested"), "")},
        ],
        [lab.processing("Print", "import sys; print(sys.argv[1:])", arguments=[out("Call", n) for n in EVERY])],
    )
    report = lab.run(call("Call", {}, EVERY), gate, functions=[function])
    assert report.statuses == dict.fromkeys(["Call", "Gate", "Print"], "Succeeded")
    assert report.log("Print") == "['5', '3', '1.0', 'true', '{\"a\": [1]}']\n"
    assert report.step("Call")["outputs"] == {"s": "5", "i": "3", "f": "1.0", "b": "True", "nested": '{"a": [1]}'}


def test_a_handler_is_called_with_its_event_and_as_in_lambda(lab: Lab) -> None:
    (lab.folder / "beside.py").write_text("VALUE = 'imported'\n")
    function = lab.function(
        """
        import json, os
        from beside import VALUE
        def handler(event, context):
            print(json.dumps({"event": event, "beside": VALUE, "cwd": os.getcwd(), "region": os.environ["AWS_REGION"],
                              "name": [os.environ["AWS_LAMBDA_FUNCTION_NAME"], context.function_name],
                              "arn": context.invoked_function_arn,
                              "left": context.get_remaining_time_in_millis() > 1000}))
        """
    )
    event = {"n": get("Parameters.N"), "flag": get("Parameters.Flag"), "f": 0.5, "text": "t", "deep": {"a": [1, None]}}
    parameters = [parameter("N", "Integer", 3), parameter("Flag", "Boolean", False)]
    report = lab.run(call("Call", event, {}), functions=[function], parameters=parameters)
    assert report.statuses == {"Call": "Succeeded"}
    assert report.printed("Call") == {
        "event": {"n": 3, "flag": False, "f": 0.5, "text": "t", "deep": {"a": [1, None]}},
        "beside": "imported",
        "cwd": str(lab.folder),
        "region": "us-east-1",
        "name": ["fn", "fn"],
        "arn": "arn:aws:lambda:us-east-1:000000000000:function:fn",
        "left": True,
    }


def test_a_handler_asks_sagemaker_and_s3_by_boto3(lab: Lab) -> None:
    function = lab.function(
        """
        import json, resource
        import boto3
        from botocore.exceptions import ClientError
        def handler(event, context):
            s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker", region_name="eu-west-1")
            bucket, _, prefix = event["report"].removeprefix("s3://").partition("/")
            document = json.loads(s3.get_object(Bucket=bucket, Key=f"{prefix}/evaluation.json")["Body"].read())
            s3.put_object(Bucket="bucket", Key="from/lambda.json", Body=json.dumps(document).encode())
            keys = [o["Key"] for o in s3.list_objects_v2(Bucket="bucket", Prefix="from/")["Contents"]]
            job = sagemaker.describe_processing_job(ProcessingJobName=event["job"])
            try:
                sagemaker.describe_training_job(TrainingJobName="none")
            except ClientError as error:
                code = error.response["Error"]["Code"]
            s3.get_object(Bucket="bucket", Key="huge")["Body"].read(10_000_000)
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 500_000, "memory in KB"
            try:
                s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "huge"})
            except ClientError as error:
                code += error.response["Error"]["Code"]
            return {"status": job["ProcessingJobStatus"], "keys": ",".join(keys), "code": code}
        """
    )
    lab.put("s3://bucket/huge", "")
    os.truncate(lab.home / "s3/bucket/huge", 2**40)
    report_file = {"PropertyFileName": "Report", "OutputName": "report", "FilePath": "evaluation.json"}
    evaluate = lab.processing(
        "Eval",
        "open('/opt/ml/processing/output/report/evaluation.json', 'w').write('{\"a\": 1}')",
        outputs=["report"],
        PropertyFiles=[report_file],
    )
    event = {
        "report": output_uri("Eval", "report"),
        "job": get("Steps.Eval.ProcessingJobName"),
        "a": json_get("Eval", "a"),
    }
    step = call("Call", event, {"status": "String", "keys": "String", "code": "String"})
    report = lab.run(step, evaluate, functions=[function])
    assert report.statuses == {"Eval": "Succeeded", "Call": "Succeeded"}
    expected = {"status": "Completed", "keys": "from/lambda.json", "code": "ValidationExceptionNotImplemented"}
    assert report.step("Call")["outputs"] == expected
    assert lab.get("s3://bucket/from/lambda.json") == '{"a": 1}'


LACKS = "The function's answer lacks the output parameter {name!r}; it must be a dictionary with s, i."
WRONG = "The function's output parameter {name!r} must be {kind}, but is {found}."
FAILURES = {
    "def handler(event, context): raise KeyError('name')": "KeyError: 'name'",
    "def handler(event, context): return {'s': 1}": LACKS.format(name="i"),
    "def handler(event, context): return 'text'": LACKS.format(name="s"),
    "def handler(event, context): return {'s': '', 'i': 'one'}": WRONG.format(name="i", kind="Integer", found="'one'"),
    "def handler(event, context): return {'s': '', 'i': 1.5}": WRONG.format(name="i", kind="Integer", found="1.5"),
    "def handler(event, context): return {'s': None, 'i': 1}": WRONG.format(name="s", kind="String", found="null"),
    "def handler(event, context): return {'s': {1}, 'i': 1}": "TypeError: Object of type set is not JSON serializable",
    "import sys\ndef handler(event, context): sys.exit('gone')": "The function's process ended with exit code 1: gone",
    "def other(event, context): pass": "AttributeError: module 'fn8' has no attribute 'handler'",
    "import nothing_of_that_name": "ModuleNotFoundError: No module named 'nothing_of_that_name'",
}


def test_how_a_handler_fails_is_told(lab: Lab) -> None:
    functions = [lab.function(code, f"fn{number}") for number, code in enumerate(FAILURES)]
    outputs = {"s": "String", "i": "Integer"}
    steps = [call(f"Call{n}", {}, outputs, function=f"fn{n}") for n in range(len(functions))]
    report = lab.run(*steps, functions=functions)
    assert report.code == 1
    assert list(report.statuses.values()) == list(FAILURES.values())
    assert "KeyError: 'name'" in report.log("Call0")


def test_a_function_serves_several_steps_and_is_found_by_its_versioned_arn(lab: Lab) -> None:
    function = lab.function("def handler(event, context): return {'n': event['n'] + 1}")
    (lab.folder / "pipeline.py").write_text("raise SystemExit('the working directory is not searched')")
    second = call("Second", {"n": out("First", "n")}, {"n": "Integer"}, function="fn:$LATEST")
    report = lab.run(call("First", {"n": 1}, {"n": "Integer"}), second, functions=[function])
    assert report.step("Second")["outputs"] == {"n": "3"}


def test_a_file_that_is_not_there_is_refused(lab: Lab) -> None:
    report = lab.run(call("Call", {}, {}), functions=["fn=nowhere.py:handler"])
    assert (report.code, report.stderr) == (2, "The code of Lambda function 'fn' is not there: nowhere.py.\n")


def test_an_output_type_that_there_is_not_is_refused_by_name(lab: Lab) -> None:
    function = lab.function("def handler(event, context):\n    return {'x': 1}\n")
    report = lab.run(call("Call", {}, {"x": "P1D"}), functions=[function])
    assert report.code == 2
    assert "OutputType must be one of 'String', 'Integer', 'Float' and 'Boolean', but got 'P1D'" in report.stderr
