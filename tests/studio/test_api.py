"""The API over HTTP, as boto3, the AWS CLI and bare requests meet it."""

import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from tests.local.lab import ROOT
from tests.local.samples import definition, python_step

SIGNED = "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"


def ask(studio: Any, service: str, method: str, path: str, data: Any = None, **headers: str) -> requests.Response:
    """A bare request that is signed for a service; `x_y` stands for the header x-y."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    signed = {"Authorization": SIGNED.format(service), **named}
    return requests.request(method, studio.url + path, data=data, headers=signed, timeout=30)


@pytest.fixture(scope="module")
def s3(studio: Any) -> Any:
    client = studio.client("s3")
    client.create_bucket(Bucket="bkt")
    return client


def code(answer: requests.Response) -> str:
    """The code of an error, of XML or JSON."""
    found = re.search(r"<Code>(\w+)</Code>|\"__type\": \"(\w+)\"", answer.text)
    assert found and 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    return found[1] or found[2]


def test_objects_go_in_and_out_whole_by_range_in_parts_and_as_copies(studio, s3, tmp_path):
    key, content = "ü a+b/%41?x#", bytes(range(256)) * 70_000  # 18 MB: three parts
    s3.put_object(Bucket="bkt", Key=key, Body=b"0123456789")
    assert (studio.home / "s3/bkt" / key).read_bytes() == b"0123456789"
    assert s3.get_object(Bucket="bkt", Key=key, Range="bytes=2-4")["Body"].read() == b"234"
    s3.upload_fileobj(io.BytesIO(content), "bkt", "large")
    s3.copy({"Bucket": "bkt", "Key": "large"}, "bkt", "copied")
    s3.download_file("bkt", "copied", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == content
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", PaginationConfig={"PageSize": 2})
    assert [found["Key"] for page in pages for found in page["Contents"]] == ["copied", "large", key]
    deleted = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "large"}, {"Key": "copied"}]})["Deleted"]
    assert len(deleted) == 2
    assert s3.head_object(Bucket="bkt", Key=key)["ContentType"] == "binary/octet-stream"
    assert not list((studio.home / "uploads").iterdir())


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_addresses_put_and_get(studio, version):
    client = studio.client("s3", signature_version=version)
    which = {"Bucket": "bkt", "Key": "presigned"}
    put, get = (client.generate_presigned_url(name, Params=which) for name in ("put_object", "get_object"))
    assert requests.put(put, data=b"<script>", timeout=30).status_code == 200
    answer = requests.get(f"{get}&response-content-type=text/html", timeout=30)
    assert (answer.content, answer.headers["Content-Type"]) == (b"<script>", "text/html")
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    answer = requests.get(f"{get}&response-set-cookie=a&response-expires=a%0d%0ab: c", timeout=30)
    assert answer.headers["Expires"] == "a??b: c"
    assert not {"set-cookie", "b"} & answer.headers.keys()


CHUNKED = {"content_encoding": "aws-chunked", "x_amz_decoded_content_length": "9"}
TRAILER = b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"5\r\nhello\r\n4\r\nyou!\r\n0\r\n" + TRAILER, "helloyou!"),
        (b"5;chunk-signature=ab\r\nhello\r\n4;chunk-signature=cd\r\nyou!\r\n0;chunk-signature=ef\r\n\r\n", "helloyou!"),
        (b"5\r\nhello\r\n4\r\nyo", "IncompleteBody"),
        (b"5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (b"-5\r\nhello\r\n0\r\n\r\n", "IncompleteBody"),
        (b"ffffffffffffffffffff\r\nhello", "IncompleteBody"),
        (b"hello", "IncompleteBody"),
    ],
)
def test_bodies_in_chunks_are_taken_apart_and_kept_whole_or_not_at_all(studio, s3, body, outcome):
    s3.delete_object(Bucket="bkt", Key="chunked")
    answer = ask(studio, "s3", "PUT", "/bkt/chunked", body, **CHUNKED)
    if outcome == "helloyou!":
        assert s3.get_object(Bucket="bkt", Key="chunked")["Body"].read().decode() == outcome
    else:
        assert code(answer) == outcome
        assert not (studio.home / "s3/bkt/chunked").exists()
    assert not list((studio.home / "uploads").iterdir())


def test_an_object_is_put_through_and_read_without_being_held_in_memory(studio, s3):
    def much() -> Any:
        for _ in range(100):
            yield bytes(2**20)

    def memory() -> int:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{studio.process.pid}/status").read_text())
        return int(found[1]) if found else 0

    before = memory()
    assert ask(studio, "s3", "PUT", "/bkt/much", much()).status_code == 200
    pieces = s3.get_object(Bucket="bkt", Key="much")["Body"].iter_chunks(2**20)
    assert sum(map(len, pieces)) == 100 * 2**20
    s3.delete_object(Bucket="bkt", Key="much")
    assert memory() - before < 60_000  # kB


def test_an_upload_that_stays_away_holds_nobody_up_and_leaves_nothing(studio, s3):
    port = int(studio.url.rpartition(":")[2])
    head = f"PUT /bkt/half HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {SIGNED.format('s3')}\r\n"
    talks = [socket.create_connection(("127.0.0.1", port)) for _ in range(70)]  # more than threads
    for talk in talks:
        talk.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
    assert s3.list_objects_v2(Bucket="bkt", Prefix="half")["KeyCount"] == 0
    for talk in talks:
        talk.close()
    assert s3.list_objects_v2(Bucket="bkt", Prefix="half")["KeyCount"] == 0


@pytest.mark.parametrize(
    ("service", "method", "path", "data", "outcome"),
    [
        ("s3", "PUT", "/bkt/..%2f..%2fstate.db", b"", "InvalidRequest"),
        ("s3", "PUT", "/%2e%2e/state.db", b"", "InvalidRequest"),
        ("s3", "PUT", "/bkt/a%00b", b"", "InvalidRequest"),
        ("s3", "PUT", "/bkt/%ff%fe", b"", "InvalidRequest"),
        ("s3", "PUT", "/bkt/" + "a/" * 600 + "b", b"", "KeyTooLongError"),
        ("s3", "GET", "/bkt?list-type=2&max-keys=-1", None, "InvalidArgument"),
        ("s3", "PUT", "/bkt/k?partNumber=0&uploadId=x", b"", "InvalidArgument"),
        ("s3", "POST", "/bkt?delete", b"<!DOCTYPE a [<!ENTITY b 'c'>]><Delete/>", "MalformedXML"),
        ("s3", "POST", "/bkt?delete", b"<Delete>" + b"<a>" * 100_000, "MalformedXML"),
        ("s3", "POST", "/bkt?delete", b"\xff\xfe\x00", "MalformedXML"),
        ("s3", "PUT", "/bkt/k?tagging", b"<Tagging/>", "NotImplemented"),
        ("s3", "PATCH", "/bkt/k", None, "UnknownOperationException"),
        ("sts", "POST", "/", b"Action=Nothing", "UnknownOperationException"),
        ("iam", "POST", "/", b"Action=GetRole&RoleName=", "ValidationException"),
        ("lambda", "GET", "/nothing", None, "UnknownOperationException"),
        ("lambda", "POST", "/2015-03-31/functions/f/invocations", b"{", "InvalidRequestContentException"),
        ("nothing", "GET", "/", None, "UnknownOperationException"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_the_services_shape(studio, s3, service, method, path, data, outcome):
    answer = ask(studio, service, method, path, data)
    assert code(answer) == outcome
    assert answer.headers["x-amzn-RequestId"]


@pytest.mark.parametrize(
    ("operation", "body", "outcome"),
    [
        ("ListPipelines", b"{", "SerializationException"),
        ("ListPipelines", b"[" * 100_000, "SerializationException"),
        ("ListPipelines", b'"text"', "SerializationException"),
        ("ListPipelines", b'{"PipelineNamePrefix": "\xff"}', "SerializationException"),
        ("ListPipelines", b'{"CreatedAfter": "yesterday"}', "SerializationException"),
        ("ListPipelines", b'{"MaxResults": "many"}', "ValidationException"),
        ("ListPipelines", b'{"NextToken": "x"}', "ValidationException"),
        ("DescribePipeline", b'{"PipelineName": null}', "ValidationException"),
        ("ListTags", b'{"ResourceArn": "arn:aws:a:b:c:d", "NextToken": "%s"}' % (b"9" * 5000), "ValidationException"),
        ("NoSuchThing", b"{}", "UnknownOperationException"),
    ],
)
def test_a_body_that_is_none_of_the_operations_is_refused(studio, operation, body, outcome):
    assert code(ask(studio, "sagemaker", "POST", "/", body, x_amz_target=f"SageMaker.{operation}")) == outcome


def test_services_are_told_apart_by_the_signature_and_refusals_reach_boto3(studio):
    assert studio.client("sts").get_caller_identity()["Account"] == "000000000000"
    assert studio.client("iam").get_role(RoleName="any")["Role"]["RoleName"] == "any"
    assert studio.client("sagemaker").list_pipelines(CreatedAfter="2020-01-01")["PipelineSummaries"] == []
    for service, call, outcome in (
        ("sagemaker", "list_apps", "sagemaker:ListApps; docs/api.md lists what it answers"),
        ("dynamodb", "list_tables", "docs/api.md lists what it answers"),
        ("sts", "get_session_token", "sts:GetSessionToken"),
    ):
        with pytest.raises(ClientError, match=outcome) as caught:
            getattr(studio.client(service), call)()
        assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
    with pytest.raises(ClientError, match="Endpoint none of account 000000000000 not found"):
        studio.client("sagemaker-runtime").invoke_endpoint(EndpointName="none", Body=b"")
    assert ask(studio, "s3", "HEAD", "/bkt/none").status_code == 404


def test_a_script_of_the_aws_cli_goes_through(studio, tmp_path):
    (tmp_path / "main.py").write_text("def run(event, context): return f'hello {event[\"who\"]}'\n")
    (tmp_path / "definition.json").write_text(json.dumps(definition(python_step("Say", "print('hello from the job')"))))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**studio.variables(), "PATH": path, "AWS_HOME": str(studio.home), "AWS_CONFIG_FILE": "/dev/null"}
    words = ["bash", "-x", str(Path(__file__).with_name("stock_cli.sh"))]
    said = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200, check=False)
    assert said.returncode == 0, said.stdout[-1500:] + said.stderr[-1500:]


def test_odd_requests_are_all_answered_and_leave_nothing_outside_the_home():
    words = [sys.executable, str(ROOT / "benchmarks/fuzz_api.py"), "--seconds", "3"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
