"""The `aws` and `prices` sections of pipeline.yaml: the account that the aws target works in, and what it charges."""

import datetime
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.config import schedule_expression
from pipeline.config.formats import BUCKET, IMAGE, INSTANCE_TYPE, KMS_KEY_ARN, MONEY, POLICY_ARN, ROLE_ARN
from pipeline.config.setting import (
    Read,
    Rule,
    boolean,
    integer,
    list_of,
    mapping_of,
    null_or,
    refuse,
    setting,
    text,
    whole_number,
)
from pipeline.config.yaml_lines import Value

RETENTION_DAYS = (  # PutRetentionPolicy takes these and no others
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731),
    *(1096, 1827, 2192, 2557, 2922, 3288, 3653),
)
PROJECT_LENGTH = 40
TAG_KEY = text(r"(?!aws:)[\w .:/=+\-@]+", "a tag's key: letters, digits, spaces and . : / = + - @ _", longest=128)
TAG_VALUE = text(r"[\w .:/=+\-@]*", "a tag's value: letters, digits, spaces and . : / = + - @ _", longest=256)
PROJECT = text(r"[a-z](-?[a-z0-9])*", "lower-case letters, digits and single dashes", longest=PROJECT_LENGTH)
FUNCTION = text(r"[a-zA-Z0-9_-]+", "letters, digits, dashes and underscores", longest=64)
EMAIL = text(r"[^@\s]+@[^@\s]+\.[^@\s.]+", "an e-mail address")


def log_retention(value: Value) -> int:
    """A number of days that CloudWatch Logs takes."""
    found = integer(value)
    if found not in RETENTION_DAYS:
        accepted = ", ".join(map(str, RETENTION_DAYS))
        refuse(value, f"must be a number of days that CloudWatch Logs takes ({accepted}), but got {found}.")
    return found


def schedule(value: Value) -> str:
    """An expression that EventBridge Scheduler takes."""
    found = text(".+", f"a schedule such as {schedule_expression.ACCEPTED}")(value)
    if fault := schedule_expression.fault(found):
        refuse(value, fault)
    return found


def iso_date(value: Value) -> str:
    """A day of the calendar."""
    found = text(r"\d{4}-\d\d-\d\d", "a date such as 2026-01-31")(value)
    try:
        datetime.date.fromisoformat(found)
    except ValueError:
        refuse(value, f"must be a day that exists, but got {value}.")
    return found


def identifiers(prefix: str, at_most: int) -> Read[tuple[str, ...]]:
    """A list of EC2 identifiers."""
    return list_of(text(rf"{prefix}-[0-9a-f]{{8,17}}", f"an identifier such as {prefix}-0123abcd"), at_most=at_most)


def groups_without_subnets(subnet_ids: tuple[str, ...], security_group_ids: tuple[str, ...]) -> str | None:
    """VpcConfig wants both."""
    if bool(subnet_ids) == bool(security_group_ids):
        return None
    return "must name subnets and security groups, or neither, but only one of the two lists is filled."


@dataclass(frozen=True)
class VpcConfig:
    """An existing VPC for jobs and endpoint; empty lists are none."""

    rules: ClassVar = (Rule(("subnet_ids", "security_group_ids"), groups_without_subnets, at_section=True),)
    subnet_ids: tuple[str, ...] = setting((), identifiers("subnet", 16))
    security_group_ids: tuple[str, ...] = setting((), identifiers("sg", 5))


@dataclass(frozen=True)
class AwsConfig:
    """What the aws target needs; None where the stack or the account gives it."""

    region: str = setting("us-east-1", text(r"[a-z]{2,}(-[a-z]+)+-\d+", "a region such as us-east-1"))
    project: str = setting("image-classification", PROJECT)
    bucket: str | None = setting(None, null_or(BUCKET))
    role_arn: str | None = setting(None, null_or(ROLE_ARN))
    training_image: str | None = setting(None, null_or(IMAGE))
    inference_image: str | None = setting(None, null_or(IMAGE))
    deploy_function: str = setting("image-classification-deploy", FUNCTION)
    vpc: VpcConfig = field(default_factory=VpcConfig)
    kms_key_arn: str | None = setting(None, null_or(KMS_KEY_ARN))
    network_isolation: bool = setting(False, boolean)
    permissions_boundary_arn: str | None = setting(None, null_or(POLICY_ARN))
    tags: dict[str, str] = field(default_factory=dict, metadata={"read": mapping_of(TAG_KEY, TAG_VALUE, at_most=40)})
    log_retention_days: int = setting(30, log_retention)
    artifact_retention_days: int = setting(90, whole_number(at_least=1))
    alarm_email: str | None = setting(None, null_or(EMAIL))
    retrain_schedule: str = setting("rate(7 days)", schedule)


def us_east_1_prices() -> dict[str, float]:
    """On-demand instance-hours of SageMaker training, processing and hosting, in US dollars."""
    return {
        "ml.t3.medium": 0.05,
        "ml.m5.large": 0.115,
        "ml.m5.xlarge": 0.23,
        "ml.m5.2xlarge": 0.461,
        "ml.m5.4xlarge": 0.922,
        "ml.c5.large": 0.102,
        "ml.c5.xlarge": 0.204,
        "ml.c5.2xlarge": 0.408,
        "ml.g4dn.xlarge": 0.736,
        "ml.g4dn.2xlarge": 0.94,
        "ml.g5.xlarge": 1.408,
        "ml.g5.2xlarge": 1.515,
    }


@dataclass(frozen=True)
class PricesConfig:
    """What the account is charged, as far as estimates need it."""

    date: str = setting("2025-01-31", iso_date)
    currency: str = setting("USD", text("[A-Z]{3}", "a currency's code such as USD"))
    per_hour: dict[str, float] = field(
        default_factory=us_east_1_prices, metadata={"read": mapping_of(INSTANCE_TYPE, MONEY)}
    )
    storage_gb_month: float = setting(0.023, MONEY)
    image_gb_month: float = setting(0.10, MONEY)
    alarm_month: float = setting(0.10, MONEY)
