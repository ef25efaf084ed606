"""What a case of the definition language expects."""

from typing import Any

import pytest

from pipeline.errors import PipelineError


def expect(case: dict[str, Any], act: Any) -> None:
    """The case's result and its type, or its error."""
    if "error" not in case:
        assert (act(), type(act())) == (case["result"], type(case["result"]))
        return
    with pytest.raises(PipelineError) as caught:
        act()
    assert case["error"] in str(caught.value)
