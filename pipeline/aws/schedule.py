"""The retrain schedule, which the stack makes in EventBridge Scheduler and a user sets; the local target has it too."""

import datetime
from dataclasses import dataclass

from pipeline.aws.requests import describe
from pipeline.aws.stack import Client
from pipeline.config import schedule_expression
from pipeline.config.config import Config
from pipeline.errors import ServiceError, UsageError

ON, OFF = "ENABLED", "DISABLED"
UPDATED = (  # the members of GetSchedule's answer that UpdateSchedule takes; it resets what it is not sent
    "Name", "GroupName", "Description", "FlexibleTimeWindow", "Target", "ScheduleExpression",
    "ScheduleExpressionTimezone", "State", "KmsKeyArn", "ActionAfterCompletion",
)  # fmt: skip


@dataclass(frozen=True)
class Schedule:
    """When the pipeline starts by itself; state is ENABLED or DISABLED."""

    name: str
    expression: str
    timezone: str
    state: str
    changed: datetime.datetime

    @property
    def is_on(self) -> bool:
        """Whether it starts anything."""
        return self.state == ON

    def next_times(self, after: datetime.datetime, count: int = 1) -> list[datetime.datetime]:
        """Return when it starts the pipeline next; never while it is off. A rate counts from the last change on."""
        if not self.is_on:
            return []
        return schedule_expression.next_times(
            self.expression, after=max(after, self.changed), changed=self.changed, timezone=self.timezone, count=count
        )

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}, {'on' if self.is_on else 'off'}"


def schedule_name(config: Config) -> str:
    """Return the name that the stack gives it."""
    return f"{config.aws.project}-retrain"


def find(client: Client, config: Config) -> Schedule | None:
    """Return the schedule, or None before there is one."""
    answer = describe(client("scheduler").get_schedule, Name=schedule_name(config))
    if answer is None:
        return None
    timezone, state = answer.get("ScheduleExpressionTimezone", "UTC"), answer.get("State", ON)
    return Schedule(answer["Name"], answer["ScheduleExpression"], timezone, state, answer["LastModificationDate"])


def show(client: Client, config: Config) -> Schedule:
    """Return the schedule; a ServiceError before there is one."""
    if found := find(client, config):
        return found
    raise ServiceError(f"There is no schedule '{schedule_name(config)}': `run_pipeline.py infra` makes it.")


def set_expression(client: Client, config: Config, expression: str) -> Schedule:
    """Switch the schedule on with this expression; a UsageError if Scheduler would refuse it or it is in the past."""
    if fault := schedule_expression.fault(expression, now=datetime.datetime.now(datetime.UTC)):
        raise UsageError(f"The schedule {fault}")
    return update(client, config, ScheduleExpression=expression, State=ON)


def switch_off(client: Client, config: Config) -> Schedule:
    """Start nothing any more; the expression is kept. A ServiceError before there is a schedule."""
    return update(client, config, State=OFF)


def update(client: Client, config: Config, **changes: str) -> Schedule:
    """Change members of the schedule; the others stay."""
    present = client("scheduler").get_schedule(Name=show(client, config).name)
    kept = {name: present[name] for name in UPDATED if name in present}
    client("scheduler").update_schedule(**{**kept, **changes})
    return show(client, config)
