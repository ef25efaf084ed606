"""The function's settings, and the requests that they make."""

from typing import Any

import pytest

from classifier.deployment.hosting import Hosting, read_hosting
from classifier.deployment.rollout import make_plan, update_request
from classifier.deployment.services import DeployError, ModelVersion

ROLE = "arn:aws:iam::123456789012:role/hosting"
KEY = "arn:aws:kms:us-east-1:123456789012:key/k"
VERSION = ModelVersion("arn:aws:sagemaker:us-east-1:1:model-package/g/7", "g", 7, "Approved", "Completed", {})


def hosting(**settings: Any) -> Hosting:
    needed = {"endpoint_name": "e", "execution_role_arn": ROLE, "instance_type": "ml.m5.large"}
    return Hosting(**{**needed, "initial_instance_count": 1, **settings})


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"ENDPOINT_NAME": "e", "EXECUTION_ROLE_ARN": ROLE, "INSTANCE_TYPE": "ml.m5.large"}
    variables = {
        "CANARY_FRACTION": "0.25", "CANARY_WAIT_SECONDS": "60", "ROLLBACK_ALARMS": "errors, latency",
        "AUTOSCALING_MIN": "2", "AUTOSCALING_MAX": "4", "AUTOSCALING_TARGET": "300", "DATA_CAPTURE_PERCENT": "20",
        "DATA_CAPTURE_URI": "s3://b/capture", "SERVERLESS_MEMORY_MB": "1024", "SERVERLESS_MAX_CONCURRENCY": "7",
        "KEEP_VERSIONS": "5", "SUBNET_IDS": "subnet-1,subnet-2", "SECURITY_GROUP_IDS": "sg-1", "KMS_KEY_ARN": KEY,
        "NETWORK_ISOLATION": "True", "CHAMPION_URI": "s3://b/c", "TAGS": '{"team": "vision", "cost": 7}',
    }  # fmt: skip
    for name, value in {**needed, "INITIAL_INSTANCE_COUNT": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    assert read_hosting({}) == hosting(
        initial_instance_count=2, canary_fraction=0.25, canary_wait_seconds=60, rollback_alarms=("errors", "latency"),
        autoscaling_min=2, autoscaling_max=4, autoscaling_target=300.0, data_capture_percent=20,
        data_capture_uri="s3://b/capture", serverless_memory_mb=1024, serverless_max_concurrency=7, keep_versions=5,
        subnet_ids=("subnet-1", "subnet-2"), security_group_ids=("sg-1",), kms_key_arn=KEY, network_isolation=True,
        champion_uri="s3://b/c", tags=({"Key": "team", "Value": "vision"}, {"Key": "cost", "Value": "7"}),
    )  # fmt: skip
    for name in variables:
        monkeypatch.setenv(name, "")
    assert read_hosting({}) == hosting(initial_instance_count=2), "empty variables mean the defaults"


def test_names_tell_group_version_endpoint_and_content() -> None:
    plan, tagged = make_plan(hosting(), VERSION), make_plan(hosting(tags=({"Key": "a", "Value": "b"},)), VERSION)
    other_count = make_plan(hosting(initial_instance_count=2), VERSION)
    group, version, endpoint, *content = plan.config_name.split("-")
    assert (group, version, [len(part) for part in (endpoint, *content)]) == ("g", "7", [6, 6, 6])
    assert plan.config_name.rpartition("-")[0] == plan.model["ModelName"] == other_count.model["ModelName"]
    assert plan.config_name == tagged.config_name != other_count.config_name
    assert make_plan(hosting(endpoint_name="f"), VERSION).config_name.split("-")[2] != endpoint
    long = ModelVersion(VERSION.arn, "g" + "-a" * 31, 999_999, "Approved", "Completed", {})
    name = make_plan(hosting(), long).config_name
    assert len(name) <= 63
    assert "--" not in name


ALL_AT_ONCE, ALARMS = ("ALL_AT_ONCE", None), ("errors", "latency")
ROUTINGS: list[tuple[dict[str, Any], int, tuple[str, int | None], tuple[int, int]]] = [
    # settings, instances now; type and percent of the routing, the wait before the old fleet's end, the time limit
    ({"canary_wait_seconds": 120}, 1, ALL_AT_ONCE, (0, 3840)),
    ({"initial_instance_count": 2, "rollback_alarms": ALARMS}, 2, ("CANARY", 30), (300, 4200)),
    ({"initial_instance_count": 2, "canary_wait_seconds": 0, "rollback_alarms": ALARMS}, 2, ("CANARY", 30), (0, 3600)),
    ({"canary_wait_seconds": 3600, "rollback_alarms": ALARMS}, 1, ALL_AT_ONCE, (3600, 10800)),
    ({"initial_instance_count": 2, "canary_fraction": 0.9}, 2, ("CANARY", 50), (0, 4200)),
    ({"initial_instance_count": 4, "canary_fraction": 0.1}, 4, ("CANARY", 10), (0, 4200)),
    ({"initial_instance_count": 2, "canary_fraction": 0.0}, 2, ALL_AT_ONCE, (0, 4200)),
    ({"initial_instance_count": 2, "autoscaling_max": 4}, 1, ALL_AT_ONCE, (0, 4200)),  # scaled in: no canary
    ({"initial_instance_count": 1, "autoscaling_max": 4}, 3, ("CANARY", 30), (0, 4200)),
]


@pytest.mark.parametrize(("settings", "now", "routing", "seconds"), ROUTINGS)
def test_update_is_blue_green_with_a_canary_where_there_are_instances_to_divide(
    settings: dict[str, Any], now: int, routing: tuple[str, int | None], seconds: tuple[int, int]
) -> None:
    endpoint = {"EndpointConfigName": "old", "ProductionVariants": [{"DesiredInstanceCount": now}]}
    request = update_request(make_plan(hosting(**settings), VERSION), endpoint)
    policy = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    traffic = policy["TrafficRoutingConfiguration"]
    assert (traffic["Type"], traffic.get("CanarySize", {}).get("Value")) == routing
    assert traffic["WaitIntervalInSeconds"] == settings.get("canary_wait_seconds", 300)
    assert (policy["TerminationWaitInSeconds"], policy["MaximumExecutionTimeoutInSeconds"]) == seconds
    assert request.get("RetainAllVariantProperties", False) == ("autoscaling_max" in settings)


@pytest.mark.parametrize("memory", [0, 2048])
def test_update_from_or_to_serverless_is_plain(memory: int) -> None:
    plan = make_plan(hosting(initial_instance_count=2, serverless_memory_mb=memory, autoscaling_max=4), VERSION)
    endpoint = {"EndpointConfigName": "old", "ProductionVariants": [{"CurrentServerlessConfig": {}}]}
    assert update_request(plan, endpoint) == {"EndpointName": "e", "EndpointConfigName": plan.config_name}


def test_settings_reach_the_requests_as_botocore_takes_them(account: Any) -> None:
    settings = {"initial_instance_count": 2, "rollback_alarms": "errors", "kms_key_arn": KEY, "network_isolation": True}
    settings |= {"subnet_ids": "subnet-1,subnet-2", "security_group_ids": "sg-1", "tags": '{"team": "vision"}'}
    settings |= {"data_capture_percent": 20, "data_capture_uri": "s3://b/capture", "autoscaling_max": 4}
    for _ in range(2):
        account.step(account.register(), **settings)
    model, config = account.request("CreateModel"), account.request("CreateEndpointConfig")
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert model["EnableNetworkIsolation"] is True
    assert config["KmsKeyId"] == config["DataCaptureConfig"].pop("KmsKeyId") == KEY
    assert config["DataCaptureConfig"] == {
        "EnableCapture": True,
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": "s3://b/capture",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    team = {"Key": "team", "Value": "vision"}
    assert model["Tags"] == config["Tags"] == [team]
    assert team in account.request("CreateEndpoint")["Tags"]
    update = account.request("UpdateEndpoint")
    assert update["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]
    assert update["DeploymentConfig"]["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "errors"}]}


def test_serverless_endpoint_can_become_one_with_instances_and_not_the_other_way_round(account: Any) -> None:
    settings = {"serverless_memory_mb": 2048, "serverless_max_concurrency": 7, "kms_key_arn": KEY}
    arn = account.register()
    account.step(arn, **settings)
    config, variant = account.request("CreateEndpointConfig"), account.variant()
    assert variant.pop("ServerlessConfig") == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    assert (set(variant), "KmsKeyId" in config) == ({"VariantName", "ModelName"}, False)
    assert account.step(arn)["endpoint_status"] == "Updating"
    assert account.variant()["InstanceType"] == "ml.m5.large"
    with pytest.raises(DeployError, match="has instances, and SageMaker cannot turn it into a serverless one: delete"):
        account.step(arn, **settings)
    assert account.variant()["InstanceType"] == "ml.m5.large"


LOCAL_STORAGE = ["ml.m5d.large", "ml.c6gd.large", "ml.g4dn.xlarge", "ml.g5.xlarge", "ml.p4d.24xlarge", "ml.r7gd.large"]
VOLUMES = ["ml.m5.large", "ml.c5.large", "ml.r8g.large", "ml.inf2.xlarge", "ml.t2.medium", "ml.p3.2xlarge"]


def test_key_is_for_instances_with_volumes_only() -> None:
    plans = {name: make_plan(hosting(instance_type=name, kms_key_arn=KEY), VERSION) for name in LOCAL_STORAGE + VOLUMES}
    assert [name for name, plan in plans.items() if "KmsKeyId" in plan.endpoint_config] == VOLUMES
