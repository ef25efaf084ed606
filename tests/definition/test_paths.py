"""Property paths and JSON paths: the cases of cases/paths.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.definition.paths import PathError, format_path, json_get, look_up, tokenize

GROUPS = json.loads((Path(__file__).parent / "cases" / "paths.json").read_text())
CASES = [(group["reader"], group["given"], case) for group in GROUPS for case in group["cases"]]


def read(reader: str, document: Any, path: Any) -> Any:
    """The value at a path, read the one way or the other."""
    if reader == "look_up":
        return look_up(document, tokenize(path), root="Steps.S")
    return json_get(document, path, root="$")


@pytest.mark.parametrize(("reader", "given", "case"), CASES, ids=[f"{r}:{c['path']}" for r, _, c in CASES])
def test_path(reader: str, given: Any, case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(PathError) as caught:
            read(reader, given, case["path"])
        assert str(caught.value) == case["error"]
    else:
        assert read(reader, given, case["path"]) == case["result"]


def test_indexes_are_numbers_and_quoted_digits_are_names() -> None:
    assert tokenize("a[0]['0'].b") == ("a", 0, "0", "b")


def test_a_path_that_was_formatted_reads_back_the_same() -> None:
    tokens = ("Outputs", "val:acc", 3, "top 5. of all", "S3Uri", "it's")
    assert tokenize(format_path(tokens)) == tokens
