"""The retrain schedule, which the stack makes in EventBridge Scheduler and a user sets; the local target has it too."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
    pipeline_arn: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    begin: datetime.datetime | None = None
    end: datetime.datetime | None = None
    is_deleted_after: bool = False  # once it has no time left

    @property
    def is_on(self) -> bool:
        """Whether it starts anything."""
        return self.state == ON

    def next_times(self, after: datetime.datetime, count: int = 1) -> list[datetime.datetime]:
        """Return when it starts the pipeline next; never while it is off. A rate counts from the last change on."""
        if not self.is_on:
            return []
        after = max(after, self.changed, self.begin or self.changed)
        times = schedule_expression.next_times(
            self.expression, after=after, changed=self.changed, timezone=self.timezone, count=count
        )
        return [time for time in times if self.end is None or time <= self.end]

    def __str__(self) -> str:
        return f"{self.expression} {self.timezone}, {'on' if self.is_on else 'off'}"


def schedule_name(config: Config) -> str:
    """Return the name that the stack gives it."""
    return f"{config.aws.project}-retrain"


def find(client: Client, config: Config) -> Schedule | None:
    """Return the schedule, or None before there is one."""
    answer = describe(client("scheduler").get_schedule, Name=schedule_name(config))
    return None if answer is None else read(answer)


def every(client: Client) -> list[Schedule]:
    """Return all schedules of the group `default`."""
    scheduler = client("scheduler")
    pages = scheduler.get_paginator("list_schedules").paginate(GroupName="default")
    return [read(scheduler.get_schedule(Name=each["Name"])) for page in pages for each in page["Schedules"]]


def read(answer: Mapping[str, Any]) -> Schedule:
    """Return GetSchedule's answer as a schedule."""
    target = answer["Target"]
    parameters = target.get("SageMakerPipelineParameters", {}).get("PipelineParameterList", [])
    return Schedule(
        name=answer["Name"],
        expression=answer["ScheduleExpression"],
        timezone=answer.get("ScheduleExpressionTimezone", "UTC"),
        state=answer.get("State", ON),
        changed=answer["LastModificationDate"],
        pipeline_arn=target["Arn"],
        parameters={item["Name"]: item["Value"] for item in parameters},
        begin=answer.get("StartDate"),
        end=answer.get("EndDate"),
        is_deleted_after=answer.get("ActionAfterCompletion") == "DELETE",
    )


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
    change(client, show(client, config).name, **changes)
    return show(client, config)


def change(client: Client, name: str, **changes: str) -> None:
    """Change members of any schedule; the others stay."""
    present = client("scheduler").get_schedule(Name=name)
    client("scheduler").update_schedule(**{key: present[key] for key in UPDATED if key in present} | changes)
