"""Asks a server of its own thousands of odd things: `python benchmarks/fuzz_api.py --seconds 300 --seed 1`.

The requests are made of botocore's models: some as they should be, most with something wrong in the members, the
body, the path, the query or the headers, some mere bytes. The status is 1 if an answer has a status of 500 or more, if
one does not come, if the server has ended or written a traceback, or if a file lies outside the home.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from random import Random
from socket import SHUT_WR, create_connection
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipeline.local.sagemaker.api import operations  # noqa: E402 - found by the line above

RAISED = re.compile(r"(?m)^  File .*\n(?:    .*\n)*[\w.]+(?:Error|Exception|Exit).*")  # where, and what
ANSWER_SECONDS = 30
MOST_FAILURES = 30
NAMES = ["one", "two"]
ROLE, PIPELINE = "arn:aws:iam::000000000000:role/any", "arn:aws:sagemaker:us-east-1:000000000000:pipeline/one"
TEXTS = [*NAMES, ROLE, PIPELINE, "s3://bkt/k", "s3://local/none/", "1", "text/csv", "rate(1 day)", "UTC", "a" * 32]
DEFINITION = {"Version": "2020-12-01", "Steps": [{"Name": "F", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}}]}
KNOWN: dict[str, list[Any]] = {  # by the name of a member
    "PipelineDefinition": [json.dumps(DEFINITION), "{}", "[", "x"],
    "Bucket": ["bkt", "local", "none"],
    "Key": ["k", "k", "a/b", "a//b", "folder/", "ü &<", "k" * 300, "..", "../../x", "a/./b", ".k.0123abcd"],
    "CopySource": ["bkt/k", "none/k", "bkt/../x"],
    "logGroupName": [f"/aws/sagemaker/{kind}Jobs" for kind in ("Training", "Processing", "Transform")],
    "Range": ["bytes=0-1", "bytes=-5", "bytes=9-2", "bytes=a", "bytes=0-99999999999999999999", "x"],
}
CONTAINER = {"Image": "one", "ModelDataUrl": "s3://bkt/k"}
VARIANT = {"VariantName": "one", "ModelName": "one", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
WHERE = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bkt/"}}
SCRIPT = ["python3", "-c", "print('score=1')"]
CLUSTER = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
LIMIT = {"MaxRuntimeInSeconds": 9}
SEEDS: list[tuple[str, str, Any]] = [  # what works, and is asked again with something else in it
    ("s3", "CreateBucket", {"Bucket": "bkt"}),
    ("s3", "PutObject", {"Bucket": "bkt", "Key": "k", "Body": b"content"}),
    ("s3", "CreateMultipartUpload", {"Bucket": "bkt", "Key": "k"}),
    ("s3", "DeleteObjects", {"Bucket": "bkt", "Delete": {"Objects": [{"Key": "none"}]}}),
    ("sagemaker", "CreatePipeline", {"PipelineName": "one", "PipelineDefinition": json.dumps(DEFINITION),
                                     "RoleArn": ROLE, "ClientRequestToken": "a" * 32}),
    ("sagemaker", "StartPipelineExecution", {"PipelineName": "one"}),
    ("sagemaker", "CreateModelPackage", {"ModelPackageGroupName": "one",
                                         "InferenceSpecification": {"Containers": [CONTAINER]}}),
    ("sagemaker", "CreateModel", {"ModelName": "one", "PrimaryContainer": CONTAINER, "ExecutionRoleArn": ROLE}),
    ("sagemaker", "CreateEndpointConfig", {"EndpointConfigName": "one", "ProductionVariants": [VARIANT]}),
    ("sagemaker", "CreateProcessingJob", {"ProcessingJobName": "one", "RoleArn": ROLE, "StoppingCondition": LIMIT,
        "AppSpecification": {"ImageUri": "one", "ContainerEntrypoint": SCRIPT},
        "ProcessingResources": {"ClusterConfig": CLUSTER}}),
    ("sagemaker", "CreateTrainingJob", {"TrainingJobName": "one", "RoleArn": ROLE, "StoppingCondition": LIMIT,
        "AlgorithmSpecification": {"TrainingImage": "one", "TrainingInputMode": "File", "ContainerEntrypoint": SCRIPT},
        "OutputDataConfig": {"S3OutputPath": "s3://bkt/out"}, "ResourceConfig": CLUSTER}),
    ("sagemaker", "CreateTransformJob", {"TransformJobName": "one", "ModelName": "one",
        "TransformInput": {"DataSource": WHERE}, "TransformOutput": {"S3OutputPath": "s3://bkt/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"}}),
    ("sagemaker", "Search", {"Resource": "PipelineExecution", "SearchExpression": {"Filters": [
        {"Name": "PipelineExecutionStatus", "Operator": "Equals", "Value": "Failed"}]}}),
    ("scheduler", "CreateSchedule", {"Name": "one", "ScheduleExpression": "rate(1 day)",
        "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": {"Arn": PIPELINE, "RoleArn": ROLE}}),
]  # fmt: skip
SEEN = re.compile(rb"arn:aws:sagemaker:[^\"<]+|(?<=<UploadId>)\w+|(?<=Token\": \")[^\"]+")  # to be asked for again
ODD: list[Any] = [
    None, True, 0, -1, 2**31, 2**63, -(2**70), 1e308, 0.5, "", " ", "\0", "\ud800", "\r\n", "ü" * 9, "x" * 70_000,
    "../../../x", "/etc/passwd", "s3://../../x", "s3://b\0/x", "arn:aws:sagemaker:::", "%00", "<script>", [], {},
    [[[]]], {"": None}, {"a": {"a": {}}}, "9" * 5000, "NaN", "1970-01-01T00:00:00", "99999-01-01",
]  # fmt: skip
PATHS = ["/..", "/%2e%2e/x", "/%00", "//", "/%ff", "/a" * 900, "/../../etc/passwd", "/%", "/;x=1", "/?", "/*"]
QUERIES = [
    "max-keys=x", "partNumber=x", "uploads", "%ff=%00", "acl", "a&a=b", "versionId=1", "encoding-type=url", "<a>=<b>",
    "delimiter=%ff", "continuation-token=%ff", "MaxResults=x", "prefix=%00", "list-type=2&max-keys=0", "uploadId=..",
]  # fmt: skip
METHODS = ["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS", "X" * 99]
HEADERS = [
    "range", "if-match", "x-amz-copy-source", "x-amz-target", "content-encoding", "content-md5", "content-type", "host",
    "x-amz-decoded-content-length", "authorization", "x-amz-checksum-mode", "x-amz-invocation-type", "connection",
    "accept", "if-none-match", "transfer-encoding", "content-length", "expect",
]  # fmt: skip
FRAMING = HEADERS[-3:]  # with them the server may rightly wait for more
VALUES = [
    "", "-1", "0", "99999999999999999999", "\xff\xfe", "aws-chunked", "chunked", "a" * 9000, "*", "bytes=1-",
    "SageMaker.", "AWS4-HMAC-SHA256 Credential=", "bkt/k", "none/../x", "DryRun", "Event", "close", '"x"',
    "application/cbor", "AWS4-HMAC-SHA256 Credential=a/b/c/nothing/aws4_request",
    "AWS4-HMAC-SHA256 Credential=a/b/c/sagemaker/aws4_request",
]  # fmt: skip
BODIES = [
    b"{", b"[" * 50_000, b'{"a":' * 50_000, b"null", b"\xff\xfe\x00", b"<a>" * 50_000, b"5\r\nhello\r\n0\r\n\r\n",
    b"zz\r\n",
    b"<!DOCTYPE a [<!ENTITY b '%s'>]><a>&b;</a>", b"Action=GetRole", b"\0" * 99, b'{"a": NaN}', b'{"a": 1e999}',
]  # fmt: skip


class Maker:
    """Makes requests of the services' models."""

    def __init__(self, chance: Random, url: str) -> None:
        self.chance, self.host, self.caught, self.count = chance, urlsplit(url).netloc, [], 0
        self.texts = deque([*TEXTS], maxlen=60)
        core = botocore.session.Session()
        core.set_credentials("any", "thing")
        core.register("before-send", self.catch)
        settings = Config(parameter_validation=False, retries={"max_attempts": 0})
        self.choices, self.clients = [], {}
        for service, functions in operations().items():
            client = core.create_client(service, "us-east-1", endpoint_url=url, config=settings)
            self.clients[service] = client
            self.choices += [(client, name) for name in functions]
            self.choices.append((client, chance.choice(client.meta.service_model.operation_names)))

    def catch(self, request: Any, **rest: Any) -> None:
        """Keep a request and have its client fail."""
        self.caught.append(request)
        raise RuntimeError

    def value(self, shape: Any, name: str, depth: int = 0) -> Any:
        """A value of a shape, or now and then one that is none."""
        choose, kind, least = self.chance.choice, shape.type_name, shape.metadata.get("min", 0)
        if depth and self.chance.random() < 0.02:
            return choose(ODD)
        if name in KNOWN:
            return choose(KNOWN[name])
        if kind == "structure":
            likely = 0.3 / (depth + 1)
            wanted = [n for n in shape.members if n in shape.required_members or self.chance.random() < likely]
            return {member: self.value(shape.members[member], member, depth + 1) for member in wanted}
        if kind in ("list", "map"):
            inner, most = shape.member if kind == "list" else shape.value, max(least, 2 if depth < 6 else 0)
            items = [self.value(inner, name, depth + 1) for _ in range(self.chance.randint(least, most))]
            return items if kind == "list" else {choose(NAMES): item for item in items}
        if kind == "string":
            pattern = re.sub(r"\\p\{\w+\}|\\z", "", shape.metadata.get("pattern", ".*"))
            texts = [text for text in shape.enum or self.texts if len(text) >= least and re.fullmatch(pattern, text)]
            named = [text for text in texts if text in NAMES]
            return choose(named if named and self.chance.random() < 0.7 else texts or NAMES)
        others = {"boolean": [True, False], "timestamp": [0, 1.7e9], "blob": [b"", b"content", b"UEsDBA=="]}
        return choose(others.get(kind, [max(1, least), 2, 7, 100]))

    def changed(self, value: Any) -> Any:
        """A value with now and then something else in it."""
        if self.chance.random() < 0.05:
            return self.chance.choice([*ODD, *self.texts, *NAMES])
        if isinstance(value, dict):
            return {key: self.changed(item) for key, item in value.items()}
        return [self.changed(item) for item in value] if isinstance(value, list) else value

    def request(self) -> tuple[bytes, bool]:
        """A request, and whether it is whole, so that an answer has to come."""
        while not self.caught:
            self.count += 1
            (client, name), wanted = self.chance.choice(self.choices), None
            if self.count <= len(SEEDS) or self.chance.random() < 0.3:
                service, name, wanted = SEEDS[self.count - 1] if self.count <= len(SEEDS) else self.chance.choice(SEEDS)
                client, wanted = self.clients[service], wanted if self.count <= len(SEEDS) else self.changed(wanted)
            shape = client.meta.service_model.operation_model(name).input_shape
            try:
                members = wanted or (self.value(shape, "") if shape else {})
                getattr(client, botocore.xform_name(name))(**members)
            except Exception:  # noqa: BLE001 - the one above, or what a client says to values that it cannot send
                continue
        sent = self.caught.pop()
        body = sent.body.read() if hasattr(sent.body, "read") else sent.body or b""
        parts = urlsplit(sent.url)
        texts = {key.lower(): v.decode("latin-1") if isinstance(v, bytes) else v for key, v in sent.headers.items()}
        headers = {"host": self.host, **{key: value for key, value in texts.items() if key not in FRAMING}}
        content = bytearray(body.encode() if isinstance(body, str) else body)
        return self.spoiled(sent.method, sent.url.partition(parts.netloc)[2] or "/", headers, content)

    def spoiled(self, method: str, path: str, headers: dict[str, str], content: bytearray) -> tuple[bytes, bool]:
        """The bytes of a request with something wrong, or nothing."""
        dice, choose, is_whole = (
            self.chance.randrange(0 if self.count > len(SEEDS) else 50, 120),
            self.chance.choice,
            True,
        )
        if dice < 10 and content:
            content[self.chance.randrange(len(content))] = self.chance.randrange(256)
        elif dice < 15:
            content = bytearray(choose(BODIES))
        elif dice < 20:
            path = choose([path, ""]) + choose(PATHS)
        elif dice < 25:
            path += ("&" if "?" in path else "?") + choose(QUERIES)
        elif dice < 30:
            method = choose(METHODS)
        headers["content-length"] = str(len(content))
        if 30 <= dice < 40:
            name = choose(HEADERS)
            headers[name], is_whole = choose(VALUES), name not in FRAMING
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *(": ".join(pair) for pair in headers.items()), "", ""])
        whole = head.encode("latin-1") + content
        if dice == 99:
            return choose([whole[: self.chance.randrange(len(whole))], self.chance.randbytes(200)]), False
        return whole, is_whole


def status_of(port: int, content: bytes, *, is_whole: bool) -> tuple[str, bytes]:
    """The status of the answer, or what there was instead of one, and the beginning of the answer."""
    answer = b""
    try:
        with create_connection(("127.0.0.1", port), ANSWER_SECONDS) as talk:
            talk.sendall(content)
            if not is_whole:
                talk.shutdown(SHUT_WR)
            while b"\r\n\r\n" not in answer and (piece := talk.recv(65536)):
                answer += piece
    except OSError as problem:
        answer = answer or repr(problem).encode()
    found = re.match(rb"HTTP/1\.1 (\d+)", answer)
    return found[1].decode() if found else "as bytes" if not is_whole else f"none: {answer.decode()}", answer


def ask(port: int, seconds: float, chance: Random) -> list[str]:
    """Ask for so long, print how often each status came, and return what went wrong."""
    maker, end = Maker(chance, f"http://127.0.0.1:{port}"), time.monotonic() + seconds
    counts, failures = Counter[str](), []
    while time.monotonic() < end and len(failures) < MOST_FAILURES:
        content, is_whole = maker.request()
        status, answer = status_of(port, content, is_whole=is_whole)
        maker.texts += [text.decode() for text in SEEN.findall(answer)[:5] if status == "200"]
        counts[status] += 1
        if status.startswith(("5", "none")):
            head, _, body = content.partition(b"\r\n\r\n")
            failures.append(f"{status}: {head[:200]!r} {head[-100:]!r} {body[:600]!r}")
    print(
        f"{sum(counts.values())} requests:", ", ".join(f"{status} {count}" for status, count in sorted(counts.items()))
    )
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-api-"))
    home, log, program = folder / "outer/home", folder / "log", [sys.executable, str(ROOT / "run_pipeline.py")]
    with log.open("w") as stream:
        words = [*program, "studio", "--no-open", "--home", str(home)]
        server = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, cwd=folder)
    try:
        while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())) and server.poll() is None:
            time.sleep(0.05)
        failures = ask(int(found[1]), options.seconds, Random(options.seed)) if found else ["The server did not start."]
        server.terminate()
        failures += [f"The server ended with {server.wait(30)}."] * (server.wait(30) != 0)
        failures += sorted(set(RAISED.findall(log.read_text())) or ["A traceback."] * ("Traceback" in log.read_text()))
        failures += [f"{path} lies outside the home." for path in home.parent.iterdir() if path != home]
    finally:
        server.kill()
        subprocess.run([*program, "teardown", "--yes", "--home", str(home)], capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
