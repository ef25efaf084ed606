"""Lambda functions, invoked by clients and by events."""

import io
import json
import zipfile
from typing import Any

from pipeline.local.jobs.functions import put_function
from tests.local.sagemaker.conftest import ROLE, refusal

PACKAGE = {
    "app/__init__.py": "",
    "app/words.py": "GREETING = 'hello'\n",
    "app/main.py": "from .words import GREETING\ndef run(event, context): return f\"{GREETING} {event['who']}\"\n",
}
SLEEP = {"main.py": "import time\ndef run(event, context): time.sleep(event)\n"}


def archive(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return stream.getvalue()


def test_functions_are_made_of_archives_changed_and_deleted(home):
    client, s3 = home.session.client("lambda"), home.session.client("s3")
    request = {"FunctionName": "pack", "Role": ROLE, "Runtime": "python3.11", "Handler": "app/main.run"}

    def said(event: Any) -> Any:
        return json.loads(client.invoke(FunctionName="pack", Payload=json.dumps(event))["Payload"].read())

    made = client.create_function(**request, Code={"ZipFile": archive(PACKAGE)}, Timeout=30)
    assert made["FunctionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:pack"
    client.get_waiter("function_active_v2").wait(FunctionName="pack")
    assert said({"who": "you"}) == "hello you"
    assert refusal(client.create_function, **request, Code={"ZipFile": b""})[0] == "ResourceConflictException"
    s3.put_object(Bucket="bkt", Key="code.zip", Body=archive({**PACKAGE, "app/words.py": "GREETING = 'bye'\n"}))
    client.update_function_code(FunctionName=made["FunctionArn"], S3Bucket="bkt", S3Key="code.zip")
    assert said({"who": "you"}) == "bye you"
    client.delete_function(FunctionName="pack")
    assert refusal(client.get_function, FunctionName="pack")[0] == "ResourceNotFoundException"
    slow = {**request, "Handler": "main.run", "Timeout": 1}
    client.create_function(**slow, Code={"ZipFile": archive(SLEEP)})
    assert said(20)["errorMessage"] == "The function ran longer than 1 seconds."
    client.delete_function(FunctionName="pack")
    for changes, code, sentence in (
        ({"Runtime": "nodejs20.x"}, {"ZipFile": b""}, "Python without layers"),
        ({"Layers": ["arn:aws:lambda:us-east-1:123456789012:layer:a:1"]}, {"ZipFile": b""}, "Python without layers"),
        ({}, {"ImageUri": "image"}, "images are not run here"),
        ({}, {"ZipFile": b"text"}, "Could not unzip"),
        ({"Handler": "other.run"}, {"ZipFile": archive(PACKAGE)}, "Unable to import module 'other'"),
        ({}, {"S3Bucket": "bkt", "S3Key": "none.zip"}, "does not exist"),
    ):
        assert sentence in refusal(client.create_function, **{**request, **changes}, Code=code)[1]


def test_an_approval_reaches_the_function_of_the_groups_rule(home, tmp_path):
    (tmp_path / "heard.py").write_text(
        "import boto3, json\n"
        "def handler(event, context):\n"
        "    status = event['detail']['ModelApprovalStatus']\n"
        "    boto3.client('s3').put_object(Bucket='heard', Key='event', Body=json.dumps(event))\n"
        "    assert status != 'Rejected', 'it was good'\n"
    )
    put_function(home.state, "heard", tmp_path / "heard.py", "heard.handler")
    home.state.put("Rule", "group", {"FunctionName": "heard"})
    arn = home.steps["Register"]["Metadata"]["RegisterModel"]["Arn"]
    home.sagemaker.update_model_package(ModelPackageArn=arn, ApprovalDescription="no event of this")
    heard = home.state.home / "s3" / "heard" / "event"
    assert not heard.exists()
    home.sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    event = json.loads(heard.read_text())
    assert (event["source"], event["detail-type"]) == ("aws.sagemaker", "SageMaker Model Package State Change")
    assert event["detail"]["ModelPackageArn"] == arn
    assert event["detail"]["ModelPackageVersion"] == 1
    assert refusal(home.sagemaker.update_model_package, ModelPackageArn=arn, ModelApprovalStatus="Rejected") == (
        "EventDeliveryFailed",
        "The version is Rejected now, but function 'heard', which heard of it, failed: AssertionError: it was good",
    )
    assert home.sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"] == "Rejected"
