"""The handler survives a fault at each of its calls: the retry of the same event ends where it would have.

For each scenario and each kind of fault, the event is handled once for every call that it makes, and the fault strikes
there. Then the state must be consistent, and after a retry and the endpoint's own event the same as without any fault.
"""

import contextlib
import itertools
import json

import pytest

from deploy import DeployError
from tests.steps.deploy.conftest import READING, refusal, time_out

FAULTS = {  # botocore's event, and what happens then
    "refused": ("before-call", lambda **_: refusal("ThrottlingException", "Rate exceeded")),
    "timed out from there on": ("before-call", time_out),
    "answer lost": ("after-call", time_out),
}
SCENARIOS = {  # what happens before, and the event that is struck
    "create": ("~1A", "s1"),
    "update": ("1A e ~2A", "2"),
    "remove unused": ("1A 2A 3A ~4A", "4"),
    "reject": ("1A 2A e ~2R", "2"),
    "withdraw": ("1A e ~1R", "1"),
    "recreate": ("1A e =Failed ~2A", "2"),
    "settle": ("1A", "e"),
    "catch up": ("1A ~2A", "e"),
    "catch up after a rollback": ("1A 2A < ~3A", "e"),
    "rolled back without a reason": ("1A e 2A <0", "e"),
    "tried again by a person": ("1A 2A <0 e ~2A", "2"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_retry_after_a_fault_at_any_call_ends_in_the_same_state(account, scenario, fault):
    account.set(KEEP_VERSIONS=1, AUTOSCALING_MAX=4, ROLLBACK_ALARMS="errors")
    before, event = SCENARIOS[scenario]
    account.play(before)
    start = account.saved()
    account.requests.clear()
    account.play(event)
    calls = [name for name, _ in account.requests]
    account.play("e")
    expected = account.state()
    for number, operation in enumerate(calls):
        if fault == "answer lost" and operation.startswith(READING):
            continue  # to a call that only reads, that is what a time-out is
        account.restore(start)
        account.requests.clear()
        strike(account, event, number, fault)
        assert_consistent(account.state())
        account.play(f"{event} e")
        assert account.state() == expected, f"{fault} at call {number}, {operation}"
        assert account.changes.count("UpdateEndpoint") <= 2, "the same events do not update it again and again"


def strike(account, event, number, fault):
    """Handle the event with a fault at the call of this number (from 0)."""
    when, answer = FAULTS[fault]
    left = itertools.count(number, -1)

    def hook(**_):
        now = next(left)
        return answer() if now == 0 or (now < 0 and fault.endswith("from there on")) else None

    with account.hooked(when, hook), contextlib.suppress(DeployError):
        account.play(event)


def assert_consistent(state):
    """What the endpoint serves exists, and champion.json never names another version than the archive's beside it."""
    for config, _ in state["endpoints"].values():
        assert state["configs"][config][0]["ModelName"] in state["models"]
    if described := state["champion"].get("champion.json"):
        assert json.loads(described)["model_package_arn"].endswith(f"/{state['champion'].get('model.tar.gz')}")
