"""The handler survives a fault injected at each of its calls: the retry of the same event ends where it would have.

For each scenario and each kind of fault, the event is handled once for every call that it makes, and the fault strikes
there. Then the state must be consistent, and after a retry and the endpoint's own event the same as without any fault.
"""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from classifier.deployment.services import DeployError

CHAMPION_URI = "s3://artifacts/digits/champion"
ERRORS = (DeployError, ClientError, BotoCoreError)
LASTING = " from there on"
FAULTS = ("refused", "throttled", "timed out", f"timed out{LASTING}", "broken", "answer lost")
CHANGES_ONLY = ("broken", "answer lost")  # to a call that only reads, these are what a time-out is
UNTOUCHED = ("refused", "throttled")  # the service certainly did nothing: whatever this call made goes again
READS = ("Describe", "List", "Head", "Get")
CHAMPION = ("HeadObject", "GetObject", "CopyObject", "PutObject", "DeleteObject")  # after a deployment that stays

Event = Callable[[], dict[str, str]]


def create(account: Any) -> Event:
    """The first version, by the step."""
    arn = account.register_model()
    return lambda: account.step(arn)


def update(account: Any) -> Event:
    """A second version is approved."""
    account.state_change(account.register_model())
    account.endpoint_change()
    arn = account.register_model()
    return lambda: account.state_change(arn)


def remove_unused(account: Any) -> Event:
    """The fifth version, with one unused configuration kept."""
    for _ in range(4):
        account.state_change(account.register_model())
    arn = account.register_model()
    return lambda: account.state_change(arn)


def reject(account: Any) -> Event:
    """The version in service is rejected."""
    for _ in range(3):
        arn = account.register_model()
        account.state_change(arn)
        account.endpoint_change()
    account.judge(arn, "Rejected")
    return lambda: account.state_change(arn)


def withdraw(account: Any) -> Event:
    """The only approved version is rejected."""
    arn = account.register_model()
    account.state_change(arn)
    account.endpoint_change()
    account.judge(arn, "Rejected")
    return lambda: account.state_change(arn)


def recreate(account: Any) -> Event:
    """A new version for a failed endpoint."""
    account.state_change(account.register_model())
    account.endpoint_change()
    account.endpoint.endpoint_status = "Failed"
    arn = account.register_model()
    return lambda: account.state_change(arn)


def settle(account: Any) -> Event:
    """The new endpoint is in service: autoscaling."""
    account.state_change(account.register_model())
    return lambda: account.endpoint_change()


def catch_up(account: Any) -> Event:
    """The endpoint is in service again, and a version was approved meanwhile."""
    account.state_change(account.register_model())
    account.register_model()
    return lambda: account.endpoint_change()


SCENARIOS = [create, update, remove_unused, reject, recreate, settle, catch_up]
WITH_CHAMPION = [create, update, reject, withdraw, catch_up]


def assert_consistent(account: Any) -> None:
    """What the endpoint serves exists, down to the model package."""
    state = account.state()
    for config, _ in state["endpoints"].values():
        assert state["configs"][config][0]["ModelName"] in state["models"]
    for variants in state["configs"].values():
        assert variants[0]["ModelName"] in state["models"]
    named, kept = state["champion"]["version"], state["champion"]["model"]
    assert named in (None, kept), "champion.json never names another version than the archive's beside it"


@pytest.fixture
def autoscaled(set_environment: Callable[..., None]) -> None:
    set_environment(keep_versions=1, autoscaling_max=4)


@pytest.mark.usefixtures("autoscaled")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_retry_after_a_fault_at_any_call_ends_in_the_same_state(
    account: Any, scenario: Callable[[Any], Event], fault: str
) -> None:
    strike_each_call(account, scenario(account), fault, lambda operation: True)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", WITH_CHAMPION)
def test_the_champion_follows_whichever_of_its_calls_or_of_the_endpoint_s_is_struck(
    account: Any, set_environment: Callable[..., None], scenario: Callable[[Any], Event], fault: str
) -> None:
    set_environment(champion_uri=CHAMPION_URI)
    strikes = (*CHAMPION, "CreateEndpoint", "UpdateEndpoint")
    strike_each_call(account, scenario(account), fault, lambda operation: operation in strikes)


def strike_each_call(account: Any, event: Event, fault: str, is_struck: Callable[[str], bool]) -> None:
    """Handle the event anew for each chosen call, the fault at that call, and compare what is there after the retry."""
    before, start = account.state(), account.saved()
    account.forget()
    finish(account, event)
    calls, expected = first_calls(account), account.state()

    for number, operation in enumerate(calls):
        if not is_struck(operation) or (fault in CHANGES_ONLY and operation.startswith(READS)):
            continue
        context = f"{fault} at call {number}, {operation}"
        account.restore(start)
        with account.failing(number, fault.removesuffix(LASTING), is_lasting=fault.endswith(LASTING)):
            is_raised = raises(event)
        assert_consistent(account)
        if is_raised and fault in UNTOUCHED and operation not in CHAMPION:
            after = account.state()
            assert set(after["models"]) <= set(before["models"]), context
            assert set(after["configs"]) <= set(before["configs"]), context
        finish(account, event)
        assert account.state() == expected, context
        assert_consistent(account)


def finish(account: Any, event: Event) -> None:
    """The event, and the one that follows from the endpoint once it is InService."""
    status = event()["endpoint_status"]
    account.requests.append(("End", {}))
    if status != "InService":
        account.endpoint_change()


def first_calls(account: Any) -> list[str]:
    """The operations called until the first `finish` had its event handled."""
    names = [name for name, _ in account.requests]
    return names[: names.index("End")]


def raises(event: Event) -> bool:
    """Whether the handler raised, so that its caller tries again."""
    try:
        event()
    except ERRORS:
        return True
    return False
