"""The requests that serve a version, as botocore and moto accept them."""

from typing import Any

import pytest

from classifier.deployment.hosting import Hosting
from classifier.deployment.model_versions import ModelVersion
from classifier.deployment.rollout import make_plan, update_request

ROLE = "arn:aws:iam::123456789012:role/hosting"
KEY = "arn:aws:kms:us-east-1:123456789012:key/k"
VERSION = ModelVersion(
    "arn:aws:sagemaker:us-east-1:123456789012:model-package/g/7", "g", 7, "Approved", "Completed", {}
)


def hosting(**settings: Any) -> Hosting:
    needed = {"endpoint_name": "e", "execution_role_arn": ROLE, "instance_type": "ml.m5.large"}
    return Hosting(**{**needed, **settings})


def instances(count: int) -> dict[str, Any]:
    """DescribeEndpoint of an endpoint with so many instances."""
    return {"EndpointConfigName": "old", "ProductionVariants": [{"DesiredInstanceCount": count}]}


def test_names_tell_group_version_endpoint_and_content() -> None:
    plan = make_plan(hosting(initial_instance_count=1), VERSION)
    other_endpoint = make_plan(hosting(initial_instance_count=1, endpoint_name="f"), VERSION)
    other_count = make_plan(hosting(initial_instance_count=2), VERSION)
    tagged = make_plan(hosting(initial_instance_count=1, tags={"a": "b"}), VERSION)

    group, version, endpoint, *content = plan.config_name.split("-")
    assert (group, version) == ("g", "7")
    assert [len(part) for part in (endpoint, *content)] == [6, 6, 6]
    assert plan.config_name.startswith(f"{plan.model_name}-")
    assert other_endpoint.config_name.split("-")[2] != endpoint
    assert other_count.model_name == plan.model_name
    assert other_count.config_name != plan.config_name
    assert (tagged.model_name, tagged.config_name) == (plan.model_name, plan.config_name)


def test_long_group_names_are_cut_to_63_characters() -> None:
    long = ModelVersion(VERSION.arn, "g" + "-a" * 31, 999_999, "Approved", "Completed", {})

    name = make_plan(hosting(initial_instance_count=1), long).config_name

    assert len(name) <= 63
    assert "--" not in name


def test_one_instance_is_replaced_all_at_once() -> None:
    settings = hosting(initial_instance_count=1, canary_fraction=0.3, canary_wait_seconds=120)
    plan = make_plan(settings, VERSION)

    assert update_request(plan, instances(1)) == {
        "EndpointName": "e",
        "EndpointConfigName": plan.config_name,
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 120},
                "TerminationWaitInSeconds": 0,
                "MaximumExecutionTimeoutInSeconds": 3840,
            }
        },
    }


def test_two_instances_get_a_canary_and_alarms_roll_it_back() -> None:
    settings = hosting(initial_instance_count=2, canary_fraction=0.3, rollback_alarms=("errors", "latency"))

    assert update_request(make_plan(settings, VERSION), instances(2))["DeploymentConfig"] == {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "CANARY",
                "WaitIntervalInSeconds": 300,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 30},
            },
            "TerminationWaitInSeconds": 300,
            "MaximumExecutionTimeoutInSeconds": 4200,
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}, {"AlarmName": "latency"}]},
    }


ROUTINGS = [
    (2, 0.9, ("CANARY", 50)),
    (3, 0.5, ("CANARY", 50)),
    (2, 0.0, ("ALL_AT_ONCE", None)),
    (4, 0.1, ("CANARY", 10)),
]


@pytest.mark.parametrize(("count", "fraction", "expected"), ROUTINGS)
def test_canary_is_at_most_half(count: int, fraction: float, expected: tuple[str, int | None]) -> None:
    plan = make_plan(hosting(initial_instance_count=count, canary_fraction=fraction), VERSION)

    policy = update_request(plan, instances(count))["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    routing = policy["TrafficRoutingConfiguration"]
    assert (routing["Type"], routing.get("CanarySize", {}).get("Value")) == expected


@pytest.mark.parametrize(("now", "routing"), [(1, "ALL_AT_ONCE"), (3, "CANARY")])
def test_autoscaled_endpoint_keeps_its_instances_and_they_decide_about_the_canary(now: int, routing: str) -> None:
    request = update_request(make_plan(hosting(initial_instance_count=2, autoscaling_max=4), VERSION), instances(now))

    assert request["RetainAllVariantProperties"] is True
    assert request["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]
    policy = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"]["Type"] == routing


@pytest.mark.parametrize("memory", [0, 2048])
def test_update_from_or_to_serverless_is_plain(memory: int) -> None:
    plan = make_plan(hosting(initial_instance_count=2, serverless_memory_mb=memory, autoscaling_max=4), VERSION)
    endpoint = {"EndpointConfigName": "old", "ProductionVariants": [{"CurrentServerlessConfig": {}}]}

    assert update_request(plan, endpoint) == {"EndpointName": "e", "EndpointConfigName": plan.config_name}


@pytest.mark.parametrize("wait", [0, 3600])
def test_time_limit_is_within_the_services_bounds(wait: int) -> None:
    settings = hosting(initial_instance_count=2, canary_wait_seconds=wait, rollback_alarms=("a",))

    policy = update_request(make_plan(settings, VERSION), instances(2))["DeploymentConfig"]["BlueGreenUpdatePolicy"]

    assert 600 <= policy["MaximumExecutionTimeoutInSeconds"] <= 28800
    assert policy["MaximumExecutionTimeoutInSeconds"] > 2 * wait


def test_update_request_is_sent_as_planned(account: Any) -> None:
    settings = {"initial_instance_count": 2, "rollback_alarms": "errors", "canary_fraction": 0.5}
    account.step(account.register(), **settings)
    account.step(account.register(), **settings)

    request = account.request("UpdateEndpoint")
    assert request["DeploymentConfig"]["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "errors"}]}
    routing = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing["CanarySize"] == {"Type": "CAPACITY_PERCENT", "Value": 50}


def test_network_key_tags_and_data_capture_reach_the_requests(account: Any) -> None:
    account.step(
        account.register(),
        subnet_ids="subnet-1,subnet-2",
        security_group_ids="sg-1",
        network_isolation="true",
        kms_key_arn=KEY,
        tags='{"team": "vision"}',
        data_capture_percent=20,
        data_capture_uri="s3://b/capture",
    )

    model, config = account.request("CreateModel"), account.request("CreateEndpointConfig")
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert model["EnableNetworkIsolation"] is True
    assert config["KmsKeyId"] == KEY
    assert config["DataCaptureConfig"] == {
        "EnableCapture": True,
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": "s3://b/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        "KmsKeyId": KEY,
    }
    tags = [{"Key": "team", "Value": "vision"}]
    assert model["Tags"] == config["Tags"] == account.request("CreateEndpoint")["Tags"] == tags


def test_serverless_variant_has_no_instances(account: Any) -> None:
    account.step(account.register(), serverless_memory_mb=2048, serverless_max_concurrency=7, kms_key_arn=KEY)

    config = account.request("CreateEndpointConfig")
    (variant,) = config["ProductionVariants"]
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    assert set(variant) == {"VariantName", "ModelName", "ServerlessConfig"}
    assert "KmsKeyId" not in config


def test_serverless_endpoint_can_become_one_with_instances(account: Any) -> None:
    arn = account.register()
    account.step(arn, serverless_memory_mb=2048)

    assert account.step(arn)["endpoint_status"] == "Updating"
    assert account.variant()["InstanceType"] == "ml.m5.large"


LOCAL_STORAGE = ["ml.m5d.large", "ml.c6gd.large", "ml.g4dn.xlarge", "ml.g5.xlarge", "ml.p4d.24xlarge", "ml.r7gd.large"]
VOLUMES = ["ml.m5.large", "ml.c5.large", "ml.r8g.large", "ml.inf2.xlarge", "ml.t2.medium", "ml.p3.2xlarge"]


@pytest.mark.parametrize("instance_type", LOCAL_STORAGE + VOLUMES)
def test_key_is_for_instances_with_volumes_only(instance_type: str) -> None:
    plan = make_plan(hosting(initial_instance_count=1, instance_type=instance_type, kms_key_arn=KEY), VERSION)

    assert ("KmsKeyId" in plan.endpoint_config) == (instance_type in VOLUMES)
