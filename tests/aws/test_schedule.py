"""The retrain schedule: what it is, set, switched off, and kept by a new application of the stack."""

import pytest

from pipeline.aws import infra, schedule
from pipeline.errors import ServiceError, UsageError


def test_it_is_made_switched_off_with_the_expression_of_pipeline_yaml(client, config, made):
    shown = schedule.show(client, config)
    assert (shown.name, shown.expression, shown.is_on) == ("image-classification-retrain", "rate(7 days)", False)
    assert str(shown) == "rate(7 days) UTC, off"


def test_setting_it_switches_it_on_and_keeps_what_it_starts(client, config, made):
    before = client("scheduler").get_schedule(Name=made["ScheduleName"])
    told = schedule.set_expression(client, config, "cron(0 3 ? * SUN *)")
    assert str(told) == "cron(0 3 ? * SUN *) UTC, on"
    assert schedule.show(client, config) == told
    after = client("scheduler").get_schedule(Name=made["ScheduleName"])
    for name in ("Target", "FlexibleTimeWindow", "Description", "ScheduleExpressionTimezone"):
        assert after[name] == before[name]


def test_switching_it_off_keeps_the_expression(client, config, made):
    schedule.set_expression(client, config, "rate(12 hours)")
    schedule.switch_off(client, config)
    assert str(schedule.show(client, config)) == "rate(12 hours) UTC, off"


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        (
            "every day",
            "The schedule must be like rate(7 days), cron(0 3 ? * SUN *) or at(2030-01-31T03:00:00), "
            "but got 'every day'.",
        ),
        (
            "at(2020-01-31T03:00:00)",
            "The schedule must name a moment in the future (UTC), but got 'at(2020-01-31T03:00:00)'.",
        ),
    ],
)
def test_an_expression_that_would_be_refused_is_not_sent(client, config, made, expression, sentence):
    with pytest.raises(UsageError) as caught:
        schedule.set_expression(client, config, expression)
    assert str(caught.value) == sentence
    assert str(schedule.show(client, config)) == "rate(7 days) UTC, off"


@pytest.mark.parametrize(
    "act",
    [schedule.show, schedule.switch_off, lambda client, config: schedule.set_expression(client, config, "rate(1 day)")],
    ids=["show", "off", "set"],
)
def test_without_a_stack_it_says_how_to_make_one(client, config, act):
    with pytest.raises(ServiceError) as caught:
        act(client, config)
    assert str(caught.value) == (
        "There is no schedule 'image-classification-retrain': `run_pipeline.py infra` makes it."
    )


def test_a_new_application_of_the_stack_keeps_what_was_set(client, config, made, configured, apply):
    schedule.set_expression(client, config, "cron(0 3 ? * SUN *)")
    other = configured(aws={"retrain_schedule": "rate(1 day)", "log_retention_days": 90})
    apply(other)
    assert str(schedule.show(client, config)) == "cron(0 3 ? * SUN *) UTC, on"
    assert infra.propose(client, other) is None
