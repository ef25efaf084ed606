"""Watching an execution: it outlives requests that are not answered, and looks less often while nothing happens."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from pipeline.errors import PassingError
from pipeline.service import executions


class Watched:
    """A target of which `watch` needs the name only."""

    name = "local"


@pytest.mark.parametrize("throttled", [3, executions.WATCH_ATTEMPTS])
def test_watching_outlives_a_few_requests_that_are_not_answered(monkeypatch, throttled):
    answers: list[Exception | dict[str, str]] = [PassingError("throttled")] * throttled
    answers.append({"PipelineExecutionStatus": "Succeeded"})

    def describe(target: object, arn: str) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(executions, "describe", describe)
    monkeypatch.setattr(executions, "steps", lambda target, arn: [])
    if throttled < executions.WATCH_ATTEMPTS:
        assert executions.watch(Watched(), "arn", lambda steps: None) == "Succeeded"
    else:
        with pytest.raises(PassingError):
            executions.watch(Watched(), "arn", lambda steps: None)
    assert len(answers) == (throttled == executions.WATCH_ATTEMPTS)


def test_watching_slows_down_while_nothing_happens_and_not_on_aws(monkeypatch):
    """Looking at steps 20 times a second took a tenth of the processors from a training of minutes."""
    clock, looks = 0.0, [0.0]

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds
        looks.append(clock)

    def describe(target: object, arn: str) -> dict[str, str]:
        return {"PipelineExecutionStatus": "Executing" if clock < 62 else "Succeeded"}

    monkeypatch.setattr(executions, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock))
    monkeypatch.setattr(executions, "describe", describe)
    monkeypatch.setattr(executions, "steps", lambda target, arn: ["Prepare"] if clock < 60 else ["Prepare", "Train"])

    assert executions.watch(Watched(), "arn", lambda steps: None) == "Succeeded"

    waits = [later - earlier for earlier, later in pairwise(looks)]
    assert waits[0] == pytest.approx(0.05)
    assert max(waits) == pytest.approx(0.5)
    assert len([look for look in looks if 30 <= look < 60]) == pytest.approx(60, abs=2)
    assert len([look for look in looks if 60.5 <= look < 62]) == pytest.approx(30, abs=2)  # there was news
