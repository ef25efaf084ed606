"""Retry policies: which failure is tried again, how often, and after how long."""

import time
from typing import Any

from pipeline.local.engine.retries import retry_wait

LOST = "SageMaker.JOB_INTERNAL_ERROR"


def waits(policy: dict[str, Any], *, code: str | None = LOST, attempts: int = 4) -> list[float | None]:
    """The waits before each of the first retries."""
    return [retry_wait([policy], code, used, time.monotonic()) for used in range(attempts)]


def test_waits_grow_by_the_backoff_rate_until_the_attempts_are_used_up() -> None:
    policy = {"ExceptionType": [LOST], "IntervalSeconds": 2, "BackoffRate": 1.5, "MaxAttempts": 3}
    assert waits(policy) == [2, 3, 4.5, None]


def test_the_usual_policy_doubles_one_second_five_times() -> None:
    assert waits({"ExceptionType": [LOST]}, attempts=6) == [1, 2, 4, 8, 16, None]


def test_a_policy_may_end_by_time_instead() -> None:
    policy = {"ExceptionType": [LOST], "IntervalSeconds": 30, "ExpireAfterMin": 1}
    assert waits(policy) == [30, None, None, None]


def test_only_a_named_exception_type_is_tried_again() -> None:
    assert waits({"ExceptionType": ["Step.THROTTLING"]}, attempts=1) == [None]
    assert waits({"ExceptionType": [LOST]}, code=None, attempts=1) == [None]
    assert waits({"ExceptionType": LOST}, attempts=1) == [1]
    assert waits({"ExceptionType": LOST}, code=None, attempts=1) == [None]


def test_the_first_policy_that_names_the_exception_type_counts() -> None:
    policies: list[dict[str, Any]] = [
        {"ExceptionType": ["Step.THROTTLING"], "IntervalSeconds": 9},
        {"ExceptionType": [LOST, "x"]},
    ]
    assert retry_wait(policies, LOST, 0, time.monotonic()) == 1
    assert retry_wait(policies, "Step.THROTTLING", 0, time.monotonic()) == 9
