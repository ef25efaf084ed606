"""Resource types of CloudFormation that moto lacks."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from moto.awslambda.utils import get_backend as lambda_backend
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.core.utils import camelcase_to_underscores
from moto.events.models import events_backends
from moto.s3.models import s3_backends
from moto.scheduler.models import scheduler_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends


class Made:
    """A resource of a bridged type: its physical id, how it is removed, and its attributes."""

    make: Callable[[dict[str, Any], str, str, str], "Parts"]

    def __init__(self, parts: "Parts") -> None:
        self.physical_resource_id, self.remove, self.attributes = parts

    def is_created(self) -> bool:
        return True

    def get_cfn_attribute(self, name: str) -> str:
        return self.attributes[name]

    def delete(self, account_id: str, region: str) -> None:
        self.remove()

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
    ) -> "Made":
        return cls(cls.make(cloudformation_json["Properties"], account_id, region_name, resource_name))

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: "Made", new_resource_name: str, **named: Any) -> "Made":
        original_resource.remove()
        return cls.create_from_cloudformation_json(new_resource_name, **named)


Parts = tuple[str, Callable[[], Any], dict[str, str]]


def as_arguments(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties as the names of moto's arguments."""
    return {camelcase_to_underscores(name): value for name, value in properties.items()}


def make_alarm(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::CloudWatch::Alarm."""
    backend, given = cloudwatch_backends[account][region], {"statistic": None, **as_arguments(properties)}
    given |= {name: int(given[name]) for name in ("evaluation_periods", "period")}
    given |= {"threshold": float(given["threshold"])}
    alarm = backend.put_metric_alarm(given.pop("alarm_name"), description=given.pop("alarm_description"), **given)
    return alarm.name, lambda: backend.delete_alarms([alarm.name]), {"Arn": alarm.alarm_arn}


def make_schedule(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::Scheduler::Schedule."""
    backend = scheduler_backends[account][region]
    every = dict.fromkeys(inspect.signature(backend.create_schedule).parameters)
    schedule = backend.create_schedule(**{**every, **as_arguments(properties)})
    group = backend.get_schedule_group(None)
    return schedule.name, lambda: group.schedules.pop(schedule.name, None), {"Arn": schedule.arn}


def make_subscription(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SNS::Subscription."""
    backend = sns_backends[account][region]
    made = backend.subscribe(properties["TopicArn"], properties["Endpoint"], properties["Protocol"])
    return made.arn, lambda: backend.unsubscribe(made.arn), {}


def make_topic_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SNS::TopicPolicy."""
    for arn in properties["Topics"]:
        sns_backends[account][region].get_topic(arn).policy = json.dumps(properties["PolicyDocument"])
    return name, lambda: None, {}


def make_queue_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SQS::QueuePolicy."""
    for url in properties["Queues"]:
        queue = sqs_backends[account][region].get_queue(url.rpartition("/")[2])
        queue.policy = json.dumps(properties["PolicyDocument"])
    return name, lambda: None, {}


def make_bucket_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::S3::BucketPolicy; only what has no condition, as moto enforces policies and reads no conditions."""
    backend, bucket = s3_backends[account]["aws"], properties["Bucket"]
    statements = [item for item in properties["PolicyDocument"]["Statement"] if "Condition" not in item]
    backend.get_bucket(bucket).whole_policy = properties["PolicyDocument"]["Statement"]  # for tests that simulate IAM
    if statements:
        backend.put_bucket_policy(bucket, json.dumps({"Statement": statements}).encode())
    return bucket, lambda: None, {}


def make_event_bus_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::Events::EventBusPolicy of the default bus."""
    bus, sid = events_backends[account][region].event_buses["default"], properties["StatementId"]
    bus.add_policy({"Statement": [{**properties["Statement"], "Sid": sid}]})
    return name, lambda: bus.remove_statement(sid), {}


def make_event_invoke_config(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::Lambda::EventInvokeConfig."""
    backend, function = lambda_backend(account, region), properties["FunctionName"]
    backend.put_function_event_invoke_config(function, dict(properties))
    return name, lambda: None, {}


TYPES = {
    "AWS::CloudWatch::Alarm": make_alarm,
    "AWS::Events::EventBusPolicy": make_event_bus_policy,
    "AWS::Lambda::EventInvokeConfig": make_event_invoke_config,
    "AWS::S3::BucketPolicy": make_bucket_policy,
    "AWS::SNS::Subscription": make_subscription,
    "AWS::SNS::TopicPolicy": make_topic_policy,
    "AWS::SQS::QueuePolicy": make_queue_policy,
    "AWS::Scheduler::Schedule": make_schedule,
}


def resource_class(type_name: str, make: Callable[..., Parts]) -> type:
    """A class that moto finds among the direct subclasses of its model; it reads a service from the module's name."""
    members = {
        "__module__": "moto.bridge",
        "make": staticmethod(make),
        "cloudformation_type": staticmethod(lambda: type_name),
    }
    return type(CloudFormationModel)(type_name.replace("::", ""), (Made, CloudFormationModel), members)
