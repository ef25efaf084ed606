"""docs/api.md, which is written from the tables of what is answered."""

from pipeline.local.sagemaker.api import operations
from pipeline.local.sagemaker.reference import page
from tests.local.lab import ROOT


def test_the_page_lists_what_is_answered():
    assert (ROOT / "docs/api.md").read_text() == page(), "python -m pipeline.local.sagemaker.reference"


def test_every_operation_is_one_of_its_service_and_says_what_it_does():
    for functions in operations().values():
        assert all(getattr(function, "func", function).__doc__ for function in functions.values())
    lines = page().splitlines()
    assert "| CreatePipeline | answered |  |" in lines
    assert any(line.startswith("| FilterLogEvents | differs | ") for line in lines)
