"""Lambda functions, invoked by clients and by events."""

import json

from pipeline.local.jobs.functions import put_function
from pipeline.local.store.storage import Storage
from tests.local.sagemaker.home import LAMBDA, refusal


def test_a_function_is_invoked_with_clients_that_are_answered_here(home):
    client = home.session.client("lambda")
    answer = client.invoke(FunctionName=LAMBDA, Payload=json.dumps({"a": "ü"}))
    assert (answer["StatusCode"], "FunctionError" in answer) == (200, False)
    assert json.loads(answer["Payload"].read()) == {
        "pipelines": "everything",
        "refused": "The local target does not answer dynamodb:ListTables.",
        "function": "hello",
    }
    assert json.loads(Storage(home.state).read("s3://b/from lambda/ü.json")) == {"a": "ü"}


def test_a_function_that_raises_is_told_as_lambda_tells_it(home):
    client = home.session.client("lambda")
    answer = client.invoke(FunctionName="hello", Payload=b'{"raise": 1}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"].read()) == {"errorMessage": "no such thing", "errorType": "ValueError"}
    assert client.invoke(FunctionName="hello", InvocationType="Event", Payload=b'{"raise": 1}')["StatusCode"] == 202
    assert client.invoke(FunctionName="hello", InvocationType="DryRun")["StatusCode"] == 204
    assert refusal(client.invoke, FunctionName="nobody") == (
        "ResourceNotFoundException",
        "Function not found: nobody",
    )
    assert refusal(client.list_functions)[1] == "The local target does not answer lambda:ListFunctions."


def test_an_approval_reaches_the_function_of_the_groups_rule(home, tmp_path):
    (tmp_path / "heard.py").write_text(
        "import json, pathlib\n"
        "def handler(event, context):\n"
        "    status = event['detail']['ModelApprovalStatus']\n"
        f"    pathlib.Path({str(tmp_path / 'event')!r}).write_text(json.dumps(event))\n"
        "    assert status != 'Rejected', 'it was good'\n"
    )
    put_function(home.state, "heard", tmp_path / "heard.py", "heard.handler")
    home.state.put("Rule", "group", {"FunctionName": "heard"})
    arn = home.steps()["Register"]["Metadata"]["RegisterModel"]["Arn"]
    home.sagemaker.update_model_package(ModelPackageArn=arn, ApprovalDescription="no event of this")
    assert not (tmp_path / "event").exists()
    home.sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    event = json.loads((tmp_path / "event").read_text())
    assert (event["source"], event["detail-type"]) == ("aws.sagemaker", "SageMaker Model Package State Change")
    assert event["detail"]["ModelPackageArn"] == arn
    assert event["detail"]["ModelPackageVersion"] == 1
    assert refusal(home.sagemaker.update_model_package, ModelPackageArn=arn, ModelApprovalStatus="Rejected") == (
        "EventDeliveryFailed",
        "The version is Rejected now, but function 'heard', which heard of it, failed: AssertionError: it was good",
    )
    assert home.sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"] == "Rejected"
