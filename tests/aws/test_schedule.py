"""The retrain schedule: what it is, set, switched off, and kept by a new application of the stack."""

from re import escape

import pytest

from pipeline.aws import infra, schedule
from pipeline.errors import ServiceError, UsageError


def test_it_is_made_switched_off_set_and_switched_off_with_what_it_starts_kept(client, config, made):
    shown = schedule.show(client, config)
    assert (shown.name, str(shown), shown.is_on) == ("image-classification-retrain", "rate(7 days) UTC, off", False)
    before = client("scheduler").get_schedule(Name=made["ScheduleName"])
    assert before["Target"]["Arn"].endswith(":pipeline/image-classification")
    assert before["Target"]["RoleArn"] == made["SchedulerRoleArn"]
    assert str(schedule.set_expression(client, config, "cron(0 3 ? * SUN *)")) == "cron(0 3 ? * SUN *) UTC, on"
    assert str(schedule.switch_off(client, config)) == "cron(0 3 ? * SUN *) UTC, off"
    after = client("scheduler").get_schedule(Name=made["ScheduleName"])
    for name in ("Target", "FlexibleTimeWindow", "Description", "ScheduleExpressionTimezone"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    ("expression", "part"),
    [("every day", "must be like rate(7 days)"), ("at(2020-01-31T03:00:00)", "must name a moment in the future (UTC)")],
)
def test_an_expression_that_would_be_refused_is_not_sent(client, config, expression, part):
    with pytest.raises(UsageError, match=escape(part)):
        schedule.set_expression(client, config, expression)


def test_without_a_stack_it_says_how_to_make_one(client, config):
    for act in (schedule.show, schedule.switch_off, lambda *rest: schedule.set_expression(*rest, "rate(1 day)")):
        with pytest.raises(ServiceError, match=r"no schedule 'image-classification-retrain': `run_pipeline\.py infra`"):
            act(client, config)


def test_a_new_application_of_the_stack_keeps_what_was_set(client, config, made, configured, apply):
    schedule.set_expression(client, config, "cron(0 3 ? * SUN *)")
    other = configured(aws={"retrain_schedule": "rate(1 day)", "log_retention_days": 90})
    apply(other)
    assert str(schedule.show(client, config)) == "cron(0 3 ? * SUN *) UTC, on"
    assert infra.propose(client, other) is None
