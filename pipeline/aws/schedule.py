"""The retrain schedule: shown, set and switched off in EventBridge Scheduler, where the stack has made it.

The local target answers the same requests.
"""

import datetime
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import stack_name
from pipeline.config import schedule_expression, schedule_times
from pipeline.config.config import Config
from pipeline.errors import ServiceError, UsageError

ON, OFF = "ENABLED", "DISABLED"
SENT_AGAIN = (
    *("Name", "GroupName", "Description", "FlexibleTimeWindow", "Target", "ScheduleExpressionTimezone"),
    *("KmsKeyArn", "ActionAfterCompletion"),
)


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
        """When it starts the pipeline next; not at all while it is off. A rate counts from the last change on."""
        if not self.is_on:
            return []
        return schedule_times.next_times(
            self.expression, after=max(after, self.changed), changed=self.changed, timezone=self.timezone, count=count
        )

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}, {'on' if self.is_on else 'off'}"


def schedule_name(config: Config) -> str:
    """The name that the stack gives it."""
    return f"{stack_name(config)}-retrain"


def found(client: Client, config: Config) -> Schedule | None:
    """The schedule, or None before there is one."""
    described = get(client("scheduler"), schedule_name(config))
    return None if described is None else read(described)


def show(client: Client, config: Config) -> Schedule:
    """The schedule.

    Raises:
        ServiceError: the stack has not been made.
    """
    return read(required(client, config))


def set_expression(client: Client, config: Config, expression: str) -> Schedule:
    """Start the pipeline by this expression from now on.

    Raises:
        UsageError: Scheduler would refuse the expression, or it names a moment that is over.
        ServiceError: the stack has not been made.
    """
    if fault := schedule_expression.fault(expression, now=datetime.datetime.now(datetime.UTC)):
        raise UsageError(f"The schedule {fault}")
    return update(client, required(client, config), ScheduleExpression=expression, State=ON)


def switch_off(client: Client, config: Config) -> Schedule:
    """Start nothing any more; the expression is kept.

    Raises:
        ServiceError: the stack has not been made.
    """
    return update(client, required(client, config), State=OFF)


def required(client: Client, config: Config) -> dict[str, Any]:
    """GetSchedule.

    Raises:
        ServiceError: there is none.
    """
    name = schedule_name(config)
    described = get(client("scheduler"), name)
    if described is None:
        raise ServiceError(f"There is no schedule '{name}': `run_pipeline.py infra` makes it.")
    return described


def get(scheduler: Any, name: str) -> dict[str, Any] | None:
    """GetSchedule, or None if there is none."""
    try:
        described: dict[str, Any] = scheduler.get_schedule(Name=name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise
    return described


def update(client: Client, described: dict[str, Any], **changes: str) -> Schedule:
    """UpdateSchedule, which takes the whole schedule."""
    kept = {name: described[name] for name in SENT_AGAIN if name in described}
    request = {
        **kept,
        "ScheduleExpression": described["ScheduleExpression"],
        "State": described.get("State", ON),
        **changes,
    }
    client("scheduler").update_schedule(**request)
    return read(client("scheduler").get_schedule(Name=described["Name"]))


def read(described: dict[str, Any]) -> Schedule:
    """GetSchedule's answer."""
    return Schedule(
        name=described["Name"],
        expression=described["ScheduleExpression"],
        timezone=described.get("ScheduleExpressionTimezone", "UTC"),
        state=described.get("State", ON),
        changed=described["LastModificationDate"],
    )
