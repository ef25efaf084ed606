"""Every operation of the dispatcher's tables, asked by boto3 over HTTP: botocore's parsers lose nothing of its answer.

`answers.json` holds the requests that a name alone does not make, in their order: {X} is the last X of an answer. What
the tables have beside them is asked by the names that are known by then, and what deletes comes last.
"""

import io
import json
import re
import secrets
import time
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.api import operations
from tests.local.lab import packed
from tests.local.samples import definition, model_archive, python_step

REQUESTS = json.loads(Path(__file__).with_name("answers.json").read_text())
ASKED = {(service, operation) for service, operation, _ in REQUESTS}
REST = [(service, name, None) for service, names in operations().items() for name in sorted(names)]
REST = [request for request in REST if request[:2] not in ASKED]
LAST = ("Delete", "AbortMultipart")


class Client:
    """Asks, and keeps what it has seen: the members of requests and answers by their names."""

    def __init__(self, studio: Any) -> None:
        self.studio, self.clients = studio, {name: studio.client(name) for name in operations()}
        self.seen: dict[str, Any] = {"AnyRole": "arn:aws:iam::000000000000:role/any"}
        self.lacking: list[str] = []
        self.seen["Definition"] = json.dumps(definition(python_step("Sleep", "import time; time.sleep(60)")))

    def filled(self, value: Any) -> Any:
        """A request with what its texts in braces stand for."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        return self.seen.get(value[1:-1], value) if isinstance(value, str) and value[:1] == "{" else value

    def ask(self, service: str, operation: str, request: Any) -> None:
        """Ask, and compare the answer with the model."""
        client = self.clients[service]
        if operation.startswith("wait:"):
            waiter = client.get_waiter(operation.removeprefix("wait:"))
            waiter.config.delay = 0.2
            return waiter.wait(**request)
        self.seen["Token"] = secrets.token_hex(16)
        model = client.meta.service_model.operation_model(operation)
        if request is None:
            names = model.input_shape.required_members if model.input_shape else []
            request = {name: self.seen[name] for name in names}
        request = self.filled(request)
        answer = getattr(client, xform_name(operation))(**request)
        assert answer.pop("ResponseMetadata")["RequestId"]
        if model.output_shape:
            self.lacking += lacking(answer, model.output_shape, operation)
        self.seen |= {**request, **answer}
        return None


def lacking(value: Any, shape: Any, place: str) -> list[str]:
    """What a parsed answer lacks of what its shape requires, or has and should not."""
    if shape.type_name == "structure" and isinstance(value, dict):
        missing = [f"{place}.{name}" for name in shape.required_members if name not in value]
        parts = [lacking(member, shape.members[name], f"{place}.{name}") for name, member in value.items()]
        return [*missing, *chain.from_iterable(parts)]
    if shape.type_name == "list":
        return list(chain.from_iterable(lacking(item, shape.member, place) for item in value))
    return [f"{place}: {value}"] if value not in (None, *(getattr(shape, "enum", None) or [value])) else []


@pytest.fixture(scope="module")
def client(studio: Any) -> Client:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("main.py", "def run(event, context): return 1\n")
    files = {"model.tar.gz": model_archive("answers"), "code.zip": code.getvalue()}
    files["code.tar.gz"] = packed({"train.py": "import time; print('score=1', flush=True); time.sleep(60)\n"})
    for key, content in files.items():
        studio.client("s3").put_object(Bucket="answers", Key=key, Body=content)
    return Client(studio)


def test_every_operation_is_answered_as_its_model_has_it(client: Client) -> None:
    rest = sorted(REST, key=lambda request: (request[1].startswith(LAST), request[1] == "DeleteBucket"))
    for service, operation, request in [*REQUESTS, *rest]:
        for wait_seconds in [0.3] * 60 + [0]:
            try:
                client.ask(service, operation, request)
                break
            except (ClientError, KeyError) as problem:
                if not re.search("this one is Stopping|log stream does not exist", str(problem)) or not wait_seconds:
                    raise AssertionError(f"{service}:{operation}") from problem
                time.sleep(wait_seconds)
    assert "\n".join(client.lacking) == ""
