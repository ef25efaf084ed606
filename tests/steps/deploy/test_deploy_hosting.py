"""The deploy function's settings."""

from typing import Any

import pytest

from classifier.deployment.hosting import Hosting, read_hosting
from classifier.deployment.services import DeployError

NEEDED = {
    "endpoint_name": "digits",
    "execution_role_arn": "arn:aws:iam::123456789012:role/hosting",
    "instance_type": "ml.m5.large",
    "initial_instance_count": "2",
}


def test_four_settings_are_enough() -> None:
    assert read_hosting(NEEDED) == Hosting("digits", "arn:aws:iam::123456789012:role/hosting", "ml.m5.large", 2)


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        **{name.upper(): value for name, value in NEEDED.items()},
        "CANARY_FRACTION": "0.25",
        "CANARY_WAIT_SECONDS": "60",
        "ROLLBACK_ALARMS": "errors, latency",
        "AUTOSCALING_MIN": "2",
        "AUTOSCALING_MAX": "4",
        "AUTOSCALING_TARGET": "300",
        "DATA_CAPTURE_PERCENT": "20",
        "DATA_CAPTURE_URI": "s3://b/capture",
        "SERVERLESS_MEMORY_MB": "0",
        "SERVERLESS_MAX_CONCURRENCY": "7",
        "KEEP_VERSIONS": "5",
        "SUBNET_IDS": "subnet-1,subnet-2",
        "SECURITY_GROUP_IDS": "sg-1",
        "NETWORK_ISOLATION": "True",
        "KMS_KEY_ARN": "arn:aws:kms:us-east-1:123456789012:key/k",
        "TAGS": '{"team": "vision", "cost": 7}',
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert read_hosting({}) == Hosting(
        endpoint_name="digits",
        execution_role_arn="arn:aws:iam::123456789012:role/hosting",
        instance_type="ml.m5.large",
        initial_instance_count=2,
        canary_fraction=0.25,
        canary_wait_seconds=60,
        rollback_alarms=("errors", "latency"),
        autoscaling_min=2,
        autoscaling_max=4,
        autoscaling_target=300.0,
        data_capture_percent=20,
        data_capture_uri="s3://b/capture",
        serverless_max_concurrency=7,
        keep_versions=5,
        subnet_ids=("subnet-1", "subnet-2"),
        security_group_ids=("sg-1",),
        network_isolation=True,
        kms_key_arn="arn:aws:kms:us-east-1:123456789012:key/k",
        tags={"team": "vision", "cost": "7"},
    )


def test_empty_variables_mean_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROLLBACK_ALARMS", "SUBNET_IDS", "KMS_KEY_ARN", "TAGS", "CANARY_FRACTION", "NETWORK_ISOLATION"):
        monkeypatch.setenv(name, "")

    assert read_hosting(NEEDED) == Hosting(**{**NEEDED, "initial_instance_count": 2})  # type: ignore[arg-type]


def test_missing_value_names_the_key_and_the_variable() -> None:
    with pytest.raises(DeployError) as error:
        read_hosting({**NEEDED, "execution_role_arn": ""})
    assert str(error.value) == (
        "The event has no 'execution_role_arn' and the environment variable EXECUTION_ROLE_ARN is not set: "
        "give one of them."
    )


PROBLEMS = [
    ({"initial_instance_count": 0}, "initial_instance_count must be a whole number of at least 1, but got '0'."),
    (
        {"initial_instance_count": "many"},
        "initial_instance_count must be a whole number of at least 1, but got 'many'.",
    ),
    ({"initial_instance_count": 1.5}, "initial_instance_count must be a whole number of at least 1, but got '1.5'."),
    ({"canary_fraction": "1.5"}, "canary_fraction must be a number from 0 to 1, but got '1.5'."),
    ({"canary_fraction": "nan"}, "canary_fraction must be a number from 0 to 1, but got 'nan'."),
    ({"canary_wait_seconds": 4000}, "canary_wait_seconds must be a whole number from 0 to 3600, but got '4000'."),
    ({"keep_versions": 0}, "keep_versions must be a whole number of at least 1, but got '0'."),
    ({"network_isolation": "yes"}, "network_isolation must be true or false, but got 'yes'."),
    ({"tags": "a=b"}, "tags must be a JSON object, but got 'a=b'."),
    ({"tags": '["a"]'}, "tags must be a JSON object, but got '[\"a\"]'."),
    (
        {"data_capture_percent": 20},
        "data_capture_percent needs DATA_CAPTURE_URI, but it is not set: set it to an S3 prefix.",
    ),
    (
        {"subnet_ids": "subnet-1"},
        "A VPC needs SUBNET_IDS and SECURITY_GROUP_IDS, but only one is set: set both or none.",
    ),
    (
        {"autoscaling_min": 5, "autoscaling_max": 4},
        "autoscaling_min must be at most autoscaling_max (4), but got 5.",
    ),
    (
        {"serverless_memory_mb": 2048, "network_isolation": "true"},
        "A serverless endpoint has no data capture, VPC or network isolation: "
        "set serverless_memory_mb to 0 or switch those off.",
    ),
]


@pytest.mark.parametrize(("changed", "sentence"), PROBLEMS)
def test_unacceptable_setting_is_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DeployError) as error:
        read_hosting({**NEEDED, **changed})
    assert str(error.value) == sentence
