"""S3 and Lambda of the local target, as handlers use them."""

import io
import json
from datetime import datetime

import pytest
from botocore.exceptions import ClientError

from pipeline.local.jobs.functions import put_function
from pipeline.local.store.storage import Storage
from tests.local.service.home import LAMBDA, refusal


def test_an_object_is_copied_and_stays_as_it_was_when_its_source_is_replaced(home):
    s3 = home.session.client("s3")
    s3.put_object(Bucket="source", Key="from/ü+ 1.txt", Body=b"one")
    source = {"Bucket": "source", "Key": "from/ü+ 1.txt"}
    copied = s3.copy_object(Bucket="other", Key="to/1.txt", CopySource=source, TaggingDirective="REPLACE")
    etag = copied["CopyObjectResult"]["ETag"]
    assert isinstance(copied["CopyObjectResult"]["LastModified"], datetime)
    assert s3.head_object(Bucket="other", Key="to/1.txt")["ETag"] == etag
    s3.put_object(Bucket="source", Key="from/ü+ 1.txt", Body=b"two")
    assert s3.get_object(Bucket="other", Key="to/1.txt")["Body"].read() == b"one"
    again = s3.copy_object(Bucket="other", Key="to/1.txt", CopySource=source)
    assert again["CopyObjectResult"]["ETag"] != etag
    assert s3.get_object(Bucket="other", Key="to/1.txt")["Body"].read() == b"two"
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket="other", Key="to/2.txt", CopySource={"Bucket": "source", "Key": "none"})
    assert caught.value.response["Error"] == {
        "Code": "NoSuchKey",
        "Message": "The specified key does not exist: s3://source/none",
    }


def test_objects_are_written_read_listed_and_deleted(home):
    s3 = home.session.client("s3")
    keys = ["x/1.txt", "x/a b&c.txt", "x/ü+%/2.txt", "y.txt"]
    for key in keys:
        s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    found = s3.get_object(Bucket="bucket", Key="x/ü+%/2.txt")
    assert found["Body"].read().decode() == "x/ü+%/2.txt"
    assert isinstance(found["LastModified"], datetime)
    assert s3.head_object(Bucket="bucket", Key="y.txt")["ContentLength"] == 5
    assert s3.get_object(Bucket="bucket", Key="y.txt", Range="bytes=1-2")["Body"].read() == b".t"
    assert s3.get_object(Bucket="bucket", Key="y.txt", Range="bytes=-3")["Body"].read() == b"txt"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", PaginationConfig={"PageSize": 3})
    assert [item["Key"] for page in pages for item in page["Contents"]] == sorted(keys)
    listed = s3.list_objects_v2(Bucket="bucket", Prefix="x/", Delimiter="/")
    assert [item["Key"] for item in listed["Contents"]] == ["x/1.txt", "x/a b&c.txt"]
    assert [item["Prefix"] for item in listed["CommonPrefixes"]] == ["x/ü+%/"]
    assert s3.list_objects_v2(Bucket="bucket", Prefix="none")["KeyCount"] == 0
    s3.delete_object(Bucket="bucket", Key="y.txt")
    s3.delete_object(Bucket="bucket", Key="y.txt")
    assert refusal(s3.get_object, Bucket="bucket", Key="y.txt")[0] == "NoSuchKey"
    assert refusal(s3.head_object, Bucket="bucket", Key="y.txt")[0] == "404"


def test_files_go_up_and_come_down_whole(home, tmp_path):
    s3, content = home.session.client("s3"), bytes(range(256)) * 40_000  # 10 MB: more than one part
    (tmp_path / "up").write_bytes(content[: 5 * 2**20])
    s3.upload_file(str(tmp_path / "up"), "bucket", "large")
    s3.upload_fileobj(io.BytesIO(b"small"), "bucket", "small")
    Storage(home.state).write("s3://bucket/larger", content)
    for key in ("large", "small", "larger"):
        s3.download_file("bucket", key, str(tmp_path / key))
    assert (tmp_path / "large").read_bytes() == content[: 5 * 2**20]
    assert (tmp_path / "small").read_bytes() == b"small"
    assert (tmp_path / "larger").read_bytes() == content


def test_what_s3_cannot_do_here_is_refused(home):
    s3 = home.session.client("s3")
    assert refusal(s3.list_buckets) == ("NotImplemented", "The local target does not answer s3:ListBuckets.")
    s3.put_object(Bucket="bucket", Key="file", Body=b"")
    assert refusal(s3.put_object, Bucket="bucket", Key="file/below", Body=b"")[0] == "InvalidRequest"
    assert refusal(s3.get_object, Bucket="bucket", Key="../../state.db") == (
        "InvalidRequest",
        "'s3://bucket/../../state.db' is not a usable S3 URI; expected s3://bucket/key.",
    )


def test_a_function_is_invoked_with_clients_that_are_answered_here(home):
    client = home.session.client("lambda")
    answer = client.invoke(FunctionName=LAMBDA, Payload=json.dumps({"a": "ü"}))
    assert (answer["StatusCode"], "FunctionError" in answer) == (200, False)
    assert json.loads(answer["Payload"].read()) == {
        "pipelines": "everything",
        "refused": "The local target does not answer sts:GetCallerIdentity.",
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
