"""The function's settings, as they reach the requests that serve a version."""

from dataclasses import replace
from typing import Any

import pytest

from deploy import DeployError, ModelVersion, Plan, read_settings

KEY = "arn:aws:kms:us-east-1:123456789012:key/k"
VPC = {"SUBNET_IDS": "subnet-1, subnet-2", "SECURITY_GROUP_IDS": "sg-1"}
CAPTURE = {"DATA_CAPTURE_PERCENT": "20", "DATA_CAPTURE_URI": "s3://b/capture"}


def set_all(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))


def test_settings_reach_the_requests_as_botocore_takes_them(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**VPC, **CAPTURE, "KMS_KEY_ARN": KEY, "TAGS": '{"team": "vision", "cost": 7}'})
    account.play("1A 2A")
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
    tags = [{"Key": "team", "Value": "vision"}, {"Key": "cost", "Value": "7"}]
    assert config["Tags"] == account.request("CreateEndpoint")["Tags"] == tags
    assert model["Tags"] == [*tags, {"Key": "deploy:version", "Value": account.arns[1]}]
    assert account.request("AddTags")["Tags"][:2] == tags


def test_names_tell_group_version_endpoint_and_content(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.play("1A")
    account.step(account.arns[0], "staging")
    monkeypatch.setenv("TAGS", '{"a": "b"}')
    account.play("1")  # which makes none
    monkeypatch.setenv("INITIAL_INSTANCE_COUNT", "2")
    account.play("1")
    first, staging, other_count = (name.split("-") for name in account.backend.endpoint_configs)
    assert (first[:2], [len(part) for part in first[2:]]) == (["digits", "1"], [6, 6])
    assert first[:3] == other_count[:3] and first[3] != other_count[3]
    assert staging[2] != first[2]


def test_a_long_name_of_a_group_is_shortened(account: Any) -> None:
    arn = account.register()
    package = account.backend.model_packages[arn]
    package.model_package_group_name, package.model_package_version = "g" + "-a" * 31, 999_999
    account.sagemaker.create_model_package_group(ModelPackageGroupName="g" + "-a" * 31)
    account.step(arn)
    name = account.request("CreateEndpointConfig")["EndpointConfigName"]
    assert len(name) <= 63 and "--" not in name


ALL_AT_ONCE, TWO = ("ALL_AT_ONCE", None), {"INITIAL_INSTANCE_COUNT": 2}
ROUTINGS: list[tuple[dict[str, Any], int, tuple[str, int | None], tuple[int, int]]] = [
    # settings, instances now; type and percent of the routing, the wait before the old fleet's end, the time limit
    ({"CANARY_WAIT_SECONDS": 120}, 1, ALL_AT_ONCE, (0, 3840)),
    ({**TWO, "ROLLBACK_ALARMS": "errors,latency"}, 2, ("CANARY", 30), (300, 4200)),
    ({**TWO, "CANARY_WAIT_SECONDS": 0, "ROLLBACK_ALARMS": "errors"}, 2, ("CANARY", 30), (0, 3600)),
    ({"CANARY_WAIT_SECONDS": 3600, "ROLLBACK_ALARMS": "errors"}, 1, ALL_AT_ONCE, (3600, 10800)),
    ({"INITIAL_INSTANCE_COUNT": 4, "CANARY_FRACTION": 0.1}, 4, ("CANARY", 10), (0, 4200)),
    ({**TWO, "CANARY_FRACTION": 0}, 2, ALL_AT_ONCE, (0, 4200)),
    ({**TWO, "AUTOSCALING_MAX": 4}, 1, ALL_AT_ONCE, (0, 4200)),  # scaled in: no canary
    ({"AUTOSCALING_MAX": 4}, 3, ("CANARY", 30), (0, 4200)),
]


@pytest.mark.parametrize(("settings", "now", "routing", "seconds"), ROUTINGS)
def test_update_is_blue_green_with_a_canary_where_there_are_instances_to_divide(
    account: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    now: int,
    routing: tuple[str, int | None],
    seconds: tuple[int, int],
) -> None:
    set_all(monkeypatch, settings)
    account.play("1A")
    account.endpoint.production_variants[0]["DesiredInstanceCount"] = now
    account.play("2A")
    request = account.request("UpdateEndpoint")
    policy = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    traffic = policy["TrafficRoutingConfiguration"]
    assert (traffic["Type"], traffic.get("CanarySize", {}).get("Value")) == routing
    assert traffic["WaitIntervalInSeconds"] == settings.get("CANARY_WAIT_SECONDS", 300)
    assert (policy["TerminationWaitInSeconds"], policy["MaximumExecutionTimeoutInSeconds"]) == seconds
    kept = [{"VariantPropertyType": "DataCaptureConfig"}] if "AUTOSCALING_MAX" in settings else None
    assert (request.get("RetainAllVariantProperties"), request.get("ExcludeRetainedVariantProperties")) == (
        kept and True, kept,
    )  # fmt: skip


def test_serverless_endpoint_can_become_one_with_instances_and_not_the_other_way_round(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as serverless:
        set_all(serverless, {"SERVERLESS_MEMORY_MB": 2048, "SERVERLESS_MAX_CONCURRENCY": 7, "KMS_KEY_ARN": KEY})
        account.play("1A")
        config, variant = account.request("CreateEndpointConfig"), account.variant()
        assert variant.pop("ServerlessConfig") == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
        assert (set(variant), "KmsKeyId" in config) == ({"VariantName", "ModelName"}, False)
        assert "EnableNetworkIsolation" not in account.request("CreateModel")
    assert account.play("1")["endpoint_status"] == "Updating"
    assert set(account.request("UpdateEndpoint")) == {"EndpointName", "EndpointConfigName"}
    assert account.variant()["InstanceType"] == "ml.m5.large"
    monkeypatch.setenv("SERVERLESS_MEMORY_MB", "2048")
    with pytest.raises(DeployError, match="has instances, and SageMaker cannot turn it into a serverless one: delete"):
        account.play("1")
    assert account.variant()["InstanceType"] == "ml.m5.large"


LOCAL_STORAGE = ["ml.m5d.large", "ml.c6gd.large", "ml.g4dn.xlarge", "ml.g5.xlarge", "ml.p4d.24xlarge", "ml.r7gd.large"]
VOLUMES = ["ml.m5.large", "ml.c5.large", "ml.r8g.large", "ml.inf2.xlarge", "ml.t2.medium", "ml.p3.2xlarge"]


def test_key_is_for_instances_with_volumes_only(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMS_KEY_ARN", KEY)
    settings, version = read_settings(""), ModelVersion(account.register())
    plans = {name: Plan(replace(settings, instance_type=name), version) for name in LOCAL_STORAGE + VOLUMES}
    assert [name for name, plan in plans.items() if "KmsKeyId" in plan.config] == VOLUMES
