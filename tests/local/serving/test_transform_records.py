"""The records of a transform job: what is sent, what is kept, what is refused before anything runs."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.serving_requests import (
    FilterError,
    endpoint_config_faults,
    filtered,
    read_filter,
    transform_faults,
)
from pipeline.local.jobs.transform import ObjectError, Records

CASES = Path(__file__).parent / "cases"


def cases(name: str, part: str | None = None) -> Any:
    found = json.loads((CASES / f"{name}.json").read_text())
    return found[part] if part else found


def request(case: dict[str, Any]) -> dict[str, Any]:
    processing = {"InputFilter": "input_filter", "JoinSource": "join", "OutputFilter": "output_filter"}
    kind = {"ContentType": case["type"]} if "type" in case else {}
    return {
        "TransformInput": {
            "SplitType": case.get("split", "None"), "CompressionType": case.get("compression", "None"), **kind,
        },
        "TransformOutput": {"AssembleWith": case.get("assemble", "None")},
        "BatchStrategy": case.get("strategy", "MultiRecord"),
        "MaxPayloadInMB": case.get("megabytes", 6),
        "DataProcessing": {member: case[name] for member, name in processing.items() if name in case},
    }  # fmt: skip


def content(case: dict[str, Any]) -> bytes:
    if isinstance(case["input"], str):
        return str(case["input"]).encode()
    letter, count, end = case["input"]
    return (letter * count + end + "\n").encode() if end else (letter * (count + 1)).encode()


@pytest.mark.parametrize("case", cases("transforms"), ids=lambda case: case["name"])
def test_an_object_is_split_sent_joined_filtered_and_assembled(case):
    assert list(transform_faults(request(case))) == []
    sent: list[bytes] = []

    def answers(bodies):
        sent.extend(bodies)
        return iter([answer.encode() for answer in case.get("answers", [""] * len(sent))])

    try:
        data = gzip.compress(content(case)) if "packed" in case else content(case)
        stored = Records(request(case)).transformed("x", data, answers)
        assert stored.decode() == case.get("output", "")
        assert "fails" not in case
    except ObjectError as problem:
        assert case["fails"] in str(problem)
    if "lines_sent" in case:
        assert [body.count(b"\n") + 1 for body in sent] == case["lines_sent"]
    else:
        assert [body.decode() for body in sent] == case.get("requests", [])


@pytest.mark.parametrize("case", cases("filters", "values"), ids=lambda case: case["path"])
def test_a_filter_selects_what_the_guide_says(case):
    if "fails" in case:
        with pytest.raises(FilterError, match=case["fails"]):
            filtered(case["value"], read_filter(case["path"]))
    else:
        assert filtered(case["value"], read_filter(case["path"])) == case["gives"]


@pytest.mark.parametrize("case", cases("filters", "refused"), ids=lambda case: case["path"])
def test_an_operator_that_sagemaker_lacks_is_refused_by_name(case):
    with pytest.raises(FilterError) as caught:
        read_filter(case["path"])
    assert case["because"] in str(caught.value)


@pytest.mark.parametrize("case", cases("refused_requests"), ids=lambda case: case["because"])
def test_a_request_that_is_not_followed_here_is_refused_by_name(case):
    [fault] = (endpoint_config_faults if "ProductionVariants" in case else transform_faults)(case)
    assert case["because"] in fault


def test_expressions_are_judged_when_they_have_values():
    value = {"Get": "Parameters.Split"}
    processing = {"DataProcessing": {"InputFilter": value, "JoinSource": "Input"}, "MaxPayloadInMB": value}
    assert not list(transform_faults({"TransformInput": {"SplitType": value, "ContentType": "text/csv"}, **processing}))
