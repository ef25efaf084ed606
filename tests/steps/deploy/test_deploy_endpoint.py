"""The endpoint in each of its statuses, the requests that it is sent, and the resources that go with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import DeployError, ModelVersion, Plan, read_settings
from tests.steps.deploy.conftest import MOMENTS, SETTINGS, time_out

CASES = json.loads(Path(__file__).with_name("endpoint.json").read_text())
KEY = "arn:aws:kms:us-east-1:123456789012:key/k"


def test_busy_endpoint_is_left_alone(account):
    shape = account.sagemaker.meta.service_model.shape_for("EndpointStatus")
    assert set(shape.enum) == {"InService", "Failed", *CASES["busy"]}
    account.play("1A ~2A")
    account.requests.clear()
    for status, again in CASES["busy"].items():
        answer = account.play(f"={status} s2")
        message = f"Endpoint digits-endpoint is {status}, so digits version 2 is not deployed: {again}."
        assert (answer["endpoint_status"], answer["message"]) == (status, message)
    assert account.changes == []


def test_failed_endpoint_that_is_slow_to_go_is_not_waited_for(account, monkeypatch):
    account.play("1A =Failed")
    account.endpoint.failure_reason = "The container did not answer /ping."
    with monkeypatch.context() as patch:
        patch.setattr(type(account.backend), "delete_endpoint", lambda self, name: account.play("=Deleting"))
        assert account.play("s1")["message"] == (
            "Endpoint digits-endpoint had failed (The container did not answer /ping). Endpoint digits-endpoint is "
            "Deleting, so digits version 1 is not deployed: once it is gone, `run_pipeline.py approve 1` creates it "
            "anew."
        )
        with pytest.raises(
            DeployError, match=r"had failed .* is not deployed: once it is gone"
        ):  # so that Lambda calls again
            account.play("=Failed 1")
    with pytest.raises(DeployError, match="is Deleting, so digits version 1 is not deployed"):
        account.play("1")
    assert account.play("x 1")["endpoint_status"] == "Creating"


def test_deployment_under_way_is_recognised_and_both_its_configurations_are_kept(account):
    assert "is Creating with digits version 1 already." in account.play("1A =Creating 1")["message"]
    account.play("=InService 2A 3A 4A =Updating <?")
    assert "is Updating, so digits version 4 is not deployed" in account.play("4")["message"]
    names = list(account.backend.endpoint_configs)  # until the update is done, the endpoint has two
    account.endpoint.endpoint_config_name = names[0]
    account.endpoint.pending_deployment_summary = {"EndpointConfigName": names[3]}
    assert "is Updating with digits version 4 already." in account.play("4")["message"]
    account.set(KEEP_VERSIONS=1)
    account.play("=InService e")
    assert account.versions() == ["1", "3", "4"]


@pytest.mark.parametrize(("errors", "latency", "watching", "wait", "sentence"), CASES["alarms"])
def test_a_broken_model_does_not_block_its_own_fix(account, errors, latency, watching, wait, sentence):
    account.set(ROLLBACK_ALARMS="errors, latency")
    for name, state in {"errors": errors, "latency": latency}.items():
        account.cloudwatch.put_metric_alarm(
            AlarmName=name, MetricName="m", Namespace="n", Statistic="Sum", Period=60, EvaluationPeriods=1,
            Threshold=1.0, ComparisonOperator="GreaterThanThreshold",
        )  # fmt: skip
        account.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")
    answer = account.play("1A 2A")
    assert answer["message"] == f"Endpoint digits-endpoint is being updated to digits version 2.{sentence}"
    deployment = account.request("UpdateEndpoint")["DeploymentConfig"]
    alarms = deployment.get("AutoRollbackConfiguration", {"Alarms": []})["Alarms"]
    assert [each["AlarmName"] for each in alarms] == watching
    assert deployment["BlueGreenUpdatePolicy"]["TerminationWaitInSeconds"] == wait


def test_what_an_earlier_release_made_and_tagged_is_understood(account):
    account.play("1A")
    for model in account.backend._models.values():
        model.tags, model.primary_container, model.containers = [], None, [{"ModelPackageName": account.arns[0]}]
    tags = [{"Key": "deploy:attempted", "Value": account.register()}]
    account.sagemaker.add_tags(ResourceArn=account.endpoint.arn, Tags=tags)
    assert "serves digits version 1 after the update to digits version 2 failed" in account.play("e")["message"]
    assert (account.play("2")["endpoint_status"], account.served()) == ("Updating", 2)


@pytest.mark.parametrize("refused", [True, False])
def test_an_update_that_never_began_is_tried_again_and_one_that_was_rolled_back_is_not(account, refused):
    account.play("1A ~2A")
    strike = account.refusing("UpdateEndpoint", "Rate exceeded", "ThrottlingException")
    with strike if refused else account.hooked("before-call.*.UpdateEndpoint", time_out), pytest.raises(DeployError):
        account.play("e")
    *_, tag = account.sagemaker.list_tags(ResourceArn=account.endpoint.arn)["Tags"]  # moto keeps former ones
    assert (tag["Key"], tag["Value"][:9]) == ("deploy:attempted", "" if refused else "digits-2-")
    if refused:  # and autoscaling may change it before the next event
        account.endpoint.last_modified_time = next(MOMENTS)
    assert account.play("e")["endpoint_status"] == "Updating"
    assert (account.play("<? e e")["endpoint_status"], account.served()) == ("InService", 1)
    account.endpoint.last_modified_time = next(MOMENTS)
    assert (account.play("e e")["endpoint_status"], account.served()) == ("InService", 1)


def test_event_of_another_endpoint_is_ignored_and_names_may_be_in_lower_case(account):
    account.set(ENDPOINT_NAME="Digits-Endpoint")
    answer = account.event("Endpoint", EndpointName="another")
    assert answer["message"] == "Endpoint another is not Digits-Endpoint, so it is left alone."
    answer = account.event("Endpoint", EndpointName="digits-endpoint")
    assert answer["message"] == "Endpoint Digits-Endpoint is NotDeployed, so nothing changes."


@pytest.mark.parametrize("kind", ["model", "endpoint_config"])
def test_a_model_or_configuration_in_service_that_somebody_deleted_does_not_block_the_next_version(account, kind):
    account.play("1A e ~2A")
    key = "ModelName" if kind == "model" else "EndpointConfigName"
    getattr(account.sagemaker, f"delete_{kind}")(**{key: account.endpoint.endpoint_config_name})
    assert account.play("e")["message"].endswith("serves no registered version, so nothing changes.")
    assert (account.play("2")["endpoint_status"], account.served()) == ("Updating", 2)


def make_by_hand(account, model, config):
    role = SETTINGS["EXECUTION_ROLE_ARN"]
    account.sagemaker.create_model(ModelName=model, ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"VariantName": "v", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    account.sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant])


@pytest.mark.parametrize("is_by_hand", [True, False])
def test_endpoint_without_a_registered_version_is_left_alone_by_its_event(account, is_by_hand):
    if is_by_hand:
        make_by_hand(account, "m", "c")
        account.sagemaker.create_endpoint(EndpointName="digits-endpoint", EndpointConfigName="c")
    else:
        account.play("1A")
        account.backend.model_packages.pop(account.arns[0])
    account.requests.clear()
    answer = account.play("e")
    assert answer["message"] == "Endpoint digits-endpoint serves no registered version, so nothing changes."
    assert account.changes == []


def test_configuration_that_a_concurrent_call_put_into_service_is_a_success(account):
    account.play("1A ~2A")

    def be_quicker(**_):
        account.endpoint.endpoint_status = "Updating"
        pending = list(account.backend.endpoint_configs)[-1]
        account.endpoint.pending_deployment_summary = {"EndpointConfigName": pending}

    with account.hooked("before-call.sagemaker.UpdateEndpoint", be_quicker):
        answer = account.play("2")
    assert answer["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert account.versions() == ["1", "2"]


@pytest.mark.parametrize(("keep", "script", "versions"), CASES["kept"])
def test_unused_configurations_and_models_go_but_the_last_few(account, keep, script, versions):
    account.set(KEEP_VERSIONS=keep)
    account.play(script)
    assert account.versions() == versions.split()


def test_resources_of_others_are_left_alone(account):
    account.set(KEEP_VERSIONS=1)
    for name in ("digits", "digits-1-abcdef-012345"):
        make_by_hand(account, name, name)
    account.step(account.register(), "staging")
    others = account.state()
    account.play("2A 3A 4A 5A 6A")
    assert others["configs"].items() <= account.state()["configs"].items()
    assert others["models"].items() <= account.state()["models"].items()
    assert len(account.state()["configs"]) == len(others["configs"]) + 3


def test_removal_that_fails_does_not_fail_the_deployment(account, capsys):
    account.set(KEEP_VERSIONS=1)
    account.play("1A 2A 3A ~4A")
    with account.refusing("DeleteEndpointConfig", "Rate exceeded", "ThrottlingException"):
        assert account.play("4")["endpoint_status"] == "Updating"
    assert "Unused models and endpoint configurations were not removed: " in capsys.readouterr().out
    account.play("5A")
    assert account.versions() == ["3", "4", "5"]


@pytest.mark.parametrize(("script", "settings", "targets"), CASES["autoscaling"])
def test_autoscaling_comes_with_instances_in_service(account, script, settings, targets):
    account.set(**settings, AUTOSCALING_TARGET=300)
    account.play(script)
    assert account.targets() == [tuple(target) for target in targets]
    if targets:
        policy = account.request("PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"]
        assert policy["TargetValue"] == 300.0
        account.set(AUTOSCALING_MAX=1)
        account.play("e")
        assert account.targets() == []


@pytest.mark.parametrize(("settings", "now", "percent", "wait", "limit"), CASES["routings"])
def test_update_is_blue_green_with_a_canary_where_there_are_instances_to_divide(
    account, settings, now, percent, wait, limit
):
    account.set(**settings)
    account.play("1A")
    account.endpoint.production_variants[0]["DesiredInstanceCount"] = now
    account.play("2A")
    request = account.request("UpdateEndpoint")
    policy = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    traffic = policy["TrafficRoutingConfiguration"]
    assert traffic["Type"] == ("CANARY" if percent else "ALL_AT_ONCE")
    assert traffic.get("CanarySize", {}).get("Value") == percent
    assert traffic["WaitIntervalInSeconds"] == settings.get("CANARY_WAIT_SECONDS", 300)
    assert (policy["TerminationWaitInSeconds"], policy["MaximumExecutionTimeoutInSeconds"]) == (wait, limit)
    kept = [{"VariantPropertyType": "DataCaptureConfig"}] if "AUTOSCALING_MAX" in settings else None
    assert request.get("ExcludeRetainedVariantProperties") == kept
    assert request.get("RetainAllVariantProperties", False) is bool(kept)


def test_settings_reach_the_requests_as_botocore_takes_them(account):
    capture = {"DATA_CAPTURE_PERCENT": 20, "DATA_CAPTURE_URI": "s3://b/capture"}
    vpc = {"SUBNET_IDS": "subnet-1, subnet-2", "SECURITY_GROUP_IDS": "sg-1"}
    account.set(**vpc, **capture, KMS_KEY_ARN=KEY, TAGS='{"team": "vision", "cost": 7}')
    account.play("1A 2A")
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
    tags = [{"Key": "team", "Value": "vision"}, {"Key": "cost", "Value": "7"}]
    assert config["Tags"] == account.request("CreateEndpoint")["Tags"] == tags
    assert model["Tags"] == [*tags, {"Key": "deploy:version", "Value": account.arns[1]}]
    assert account.request("AddTags")["Tags"][:2] == tags


def test_names_tell_group_version_endpoint_and_content_but_not_tags(account):
    version, settings = ModelVersion(account.register()), read_settings("")
    name, tagged, staging, other_count = (
        Plan(replace(settings, **changed), version).name
        for changed in ({}, {"tags": []}, {"endpoint_name": "staging"}, {"initial_instance_count": 2})
    )
    group, number, endpoint, content = name.split("-")
    assert (group, number, len(endpoint), len(content)) == ("digits", "1", 6, 6)
    assert (name, staging.split("-")[2] == endpoint) == (tagged, False)
    assert name[:-6] == other_count[:-6] and name != other_count
    version.group, version.number = "g" + "-a" * 31, 999_999
    name = Plan(settings, version).name
    assert len(name) <= 63 and "--" not in name


def test_serverless_endpoint_can_become_one_with_instances_and_not_the_other_way_round(account):
    account.set(SERVERLESS_MEMORY_MB=2048, SERVERLESS_MAX_CONCURRENCY=7, KMS_KEY_ARN=KEY, ROLLBACK_ALARMS="errors")
    account.play("1A")
    config = account.request("CreateEndpointConfig")
    [variant] = config["ProductionVariants"]
    assert variant.pop("ServerlessConfig") == {"MemorySizeInMB": 2048, "MaxConcurrency": 7}
    assert (set(variant), "KmsKeyId" in config) == ({"VariantName", "ModelName"}, False)
    assert "EnableNetworkIsolation" not in account.request("CreateModel")
    account.set(SERVERLESS_MEMORY_MB=0)
    assert account.play("1")["endpoint_status"] == "Updating"
    assert set(account.request("UpdateEndpoint")) == {"EndpointName", "EndpointConfigName"}
    account.set(SERVERLESS_MEMORY_MB=2048)
    with pytest.raises(DeployError, match="has instances, and SageMaker cannot turn it into a serverless one: delete"):
        account.play("1")


def test_key_is_for_instances_with_volumes_only(account):
    account.set(KMS_KEY_ARN=KEY)
    settings, version, (volumes, own) = read_settings(""), ModelVersion(account.register()), CASES["volumes"].values()
    plans = {name: Plan(replace(settings, instance_type=name), version) for name in [*own, *volumes]}
    assert [name for name, plan in plans.items() if "KmsKeyId" in plan.config] == volumes
