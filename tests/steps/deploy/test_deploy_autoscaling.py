"""Autoscaling of the endpoint's variant."""

from collections.abc import Callable
from typing import Any

import pytest

from classifier.deployment.autoscaling import apply_autoscaling
from classifier.deployment.hosting import Hosting

RESOURCE = "endpoint/digits-endpoint/variant/AllTraffic"
SetEnvironment = Callable[..., None]


def test_new_endpoint_is_registered_once_it_is_in_service(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_min=1, autoscaling_max=4, autoscaling_target=300)
    account.state_change(account.register())
    assert account.targets() == []

    account.endpoint_change()

    assert account.targets() == [{"ResourceId": RESOURCE, "MinCapacity": 1, "MaxCapacity": 4}]
    assert account.policies() == [("invocations-per-instance", 300.0)]
    assert account.request("PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"] == {
        "TargetValue": 300.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
        "ScaleInCooldown": 300,
        "ScaleOutCooldown": 300,
    }


def test_next_call_registers_without_an_event(account: Any) -> None:
    arn = account.register()
    account.step(arn, autoscaling_max=2)

    account.step(arn, autoscaling_max=2)

    assert [target["MaxCapacity"] for target in account.targets()] == [2]


def test_repeated_events_leave_one_target_and_one_policy(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_max=4)
    account.state_change(account.register())

    for _ in range(3):
        account.endpoint_change()

    assert (len(account.targets()), len(account.policies())) == (1, 1)


def test_update_keeps_the_target(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_max=4)
    account.state_change(account.register())
    account.endpoint_change()

    account.state_change(account.register())

    assert len(account.targets()) == 1
    assert account.request("UpdateEndpoint")["RetainAllVariantProperties"] is True


def test_one_instance_at_most_switches_it_off(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_max=4)
    account.state_change(account.register())
    account.endpoint_change()
    set_environment(autoscaling_max=1)

    account.endpoint_change()

    assert account.targets() == []
    account.endpoint_change()


def test_nothing_configured_calls_nothing(account: Any, set_environment: SetEnvironment) -> None:
    set_environment()
    account.state_change(account.register())
    account.endpoint_change()

    assert not [name for name, _ in account.requests if "Scal" in name]


def test_target_is_removed_before_a_failed_endpoint_is(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_max=4)
    arn = account.register()
    account.state_change(arn)
    account.endpoint_change()
    account.endpoint.endpoint_status = "Failed"
    account.forget()

    account.state_change(arn)

    assert account.changes == ["DeregisterScalableTarget", "DeleteEndpoint", "CreateEndpoint"]
    assert account.targets() == []


def test_rolled_back_endpoint_is_autoscaled_too(account: Any, set_environment: SetEnvironment) -> None:
    set_environment(autoscaling_max=4)
    account.state_change(account.register())
    first = account.endpoint.endpoint_config_name
    account.state_change(account.register())
    account.endpoint.endpoint_config_name, account.endpoint.failure_reason = first, "An alarm triggered."

    account.endpoint_change()

    assert len(account.targets()) == 1


def test_serverless_endpoint_is_not_registered(account: Any) -> None:
    arn = account.register()
    for _ in range(2):
        account.step(arn, serverless_memory_mb=2048, autoscaling_max=4)

    assert account.targets() == []


@pytest.mark.parametrize("code", ["ObjectNotFoundException", "ValidationException"])
def test_target_that_is_not_there_needs_no_removal(account: Any, code: str) -> None:
    hosting = Hosting("digits-endpoint", "r", "ml.m5.large", 1, autoscaling_max=1)

    with account.refusing("DeregisterScalableTarget", "No scalable target found for service namespace: x", code):
        apply_autoscaling(hosting)
