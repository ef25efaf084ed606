"""What clients are told, from `cases/`: [service.operation, request, parts of the answer by JMESPath or an error]."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jmespath
import pytest
from botocore.exceptions import ClientError

from pipeline.local import session

FILES = sorted(Path(__file__).with_name("cases").glob("*.json"))
SCENARIOS = {name: calls for file in FILES for name, calls in json.loads(file.read_text()).items()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_clients_are_told(name: str, tmp_path: Path) -> None:
    check(session(tmp_path), SCENARIOS[name])


def check(aws: Any, calls: list[Any]) -> None:
    """Make one call after the other, and compare what each is told."""
    client = cache(aws.client)
    for place, request, expected in calls:
        service, _, operation = place.partition(".")
        found = told(getattr(client(service), operation), request)
        if "error" in expected:
            assert expected["error"] in found.get("error", ""), (place, request, found)
        else:
            assert "error" not in found, (place, request, found)
            assert {key: jmespath.search(key, found) for key in expected} == expected, (place, request)


def told(call: Any, request: dict[str, Any]) -> Any:
    """An answer, its stream read; of a refusal the code and the message."""
    try:
        answer = call(**request)
    except ClientError as problem:
        return {"error": "{Code}: {Message}".format(**problem.response["Error"])}
    return {key: value.read().decode() if key in ("Body", "Payload") else value for key, value in answer.items()}
