"""What becomes of a version in each status of the endpoint; models, configurations and autoscaling that go with it."""

from typing import Any

import pytest
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.responses import SageMakerResponse

from deploy import DeployError
from tests.steps.deploy.conftest import SETTINGS, time_out

IN_SERVICE = "once it is InService, its state change event or `run_pipeline.py approve 2` deploys it"
GONE = "once it is gone, `run_pipeline.py approve 2` creates it anew"
BUSY = {
    **dict.fromkeys(("Creating", "Updating", "SystemUpdating", "RollingBack", "OutOfService"), IN_SERVICE),
    "Deleting": GONE,
    "UpdateRollbackFailed": "delete the endpoint, then use `run_pipeline.py approve 2`",
}


def test_busy_endpoint_is_left_alone(account: Any) -> None:
    shape = account.sagemaker.meta.service_model.shape_for("EndpointStatus")
    assert set(shape.enum) == {"InService", "Failed", *BUSY}
    account.play("1A ~2A")
    account.forget()
    for status, again in BUSY.items():
        answer = account.play(f"={status} s2")
        message = f"Endpoint digits-endpoint is {status}, so digits version 2 is not deployed: {again}."
        assert (answer["endpoint_status"], answer["message"]) == (status, message)
    assert account.changes == []


def test_failed_endpoint_that_is_slow_to_go_is_not_waited_for(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.play("1A =Failed")
    account.endpoint.failure_reason = "The container {app} did not answer /ping."
    with monkeypatch.context() as patch:
        patch.setattr(type(account.backend), "delete_endpoint", lambda self, name: account.play("=Deleting"))
        answer = account.play("s1")
        assert answer["endpoint_status"] == "Deleting"
        assert answer["message"] == (
            "Endpoint digits-endpoint had failed (The container {app} did not answer /ping) and is being deleted: "
            f"{GONE.replace('2', '1')}."
        )
        with pytest.raises(DeployError, match="is being deleted: once it is gone"):  # so that Lambda calls again
            account.play("=Failed 1")
    with pytest.raises(DeployError, match="is Deleting, so digits version 1 is not deployed"):
        account.play("1")
    assert account.play("x 1")["endpoint_status"] == "Creating"


def test_deployment_under_way_is_recognised(account: Any) -> None:
    assert "is Creating with digits version 1 already." in account.play("1A =Creating 1")["message"]
    account.play("=InService 2A =Updating <?")
    assert "is Updating, so digits version 2 is not deployed" in account.play("2")["message"]
    pending = list(account.backend.endpoint_configs)[-1]  # until the update is done, the endpoint has both
    account.endpoint.pending_deployment_summary = {"EndpointConfigName": pending}
    assert "is Updating with digits version 2 already." in account.play("2")["message"]


def alarm(account: Any, name: str, state: str) -> None:
    metric = {"MetricName": "ModelLatency", "Namespace": "AWS/SageMaker", "Statistic": "Sum", "Period": 60}
    limits = {"EvaluationPeriods": 1, "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold"}
    account.cloudwatch.put_metric_alarm(AlarmName=name, **metric, **limits)
    account.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="test")


ALARMS = [  # states of both alarms; those that may undo the update; the wait before the old fleet's end; the sentence
    (("OK", "INSUFFICIENT_DATA"), ["errors", "latency"], 300, ""),
    (("ALARM", "OK"), ["latency"], 300, " It is not undone by errors, in ALARM before the update."),
    (("ALARM", "ALARM"), [], 0, " It is not undone by errors, latency, in ALARM before the update."),
]


@pytest.mark.parametrize(("states", "watching", "wait", "sentence"), ALARMS)
def test_a_broken_model_does_not_block_its_own_fix(
    account: Any, monkeypatch: Any, states: tuple[str, str], watching: list[str], wait: int, sentence: str
) -> None:
    monkeypatch.setenv("ROLLBACK_ALARMS", "errors, latency")
    for name, state in zip(("errors", "latency"), states, strict=True):
        alarm(account, name, state)
    answer = account.play("1A 2A")
    assert answer["message"] == f"Endpoint digits-endpoint is being updated to digits version 2.{sentence}"
    deployment = account.request("UpdateEndpoint")["DeploymentConfig"]
    alarms = deployment.get("AutoRollbackConfiguration", {"Alarms": []})["Alarms"]
    assert [each["AlarmName"] for each in alarms] == watching
    assert deployment["BlueGreenUpdatePolicy"]["TerminationWaitInSeconds"] == wait


def test_what_an_earlier_release_made_and_tagged_is_understood(account: Any) -> None:
    account.play("1A")
    for model in account.backend._models.values():
        model.tags, model.primary_container, model.containers = [], None, [{"ModelPackageName": account.arns[0]}]
    tags = [{"Key": "deploy:attempted", "Value": account.register()}]
    account.sagemaker.add_tags(ResourceArn=account.endpoint.arn, Tags=tags)
    assert "serves digits version 1 after the update to digits version 2 failed" in account.play("e")["message"]
    assert account.play("2")["endpoint_status"] == "Updating"
    assert account.served() == 2


def test_what_was_attempted_is_written_before_the_update_and_an_update_that_never_began_is_tried_again(
    account: Any,
) -> None:
    account.play("1A ~2A")
    with account.refusing("UpdateEndpoint", "Rate exceeded", "ThrottlingException"), pytest.raises(DeployError):
        account.play("e")
    [tag] = account.sagemaker.list_tags(ResourceArn=account.endpoint.arn)["Tags"]
    name, before, _ = tag["Value"].split()
    assert (tag["Key"], before, name[:9]) == ("deploy:attempted", account.endpoint.endpoint_config_name, "digits-2-")
    assert account.play("e")["endpoint_status"] == "Updating"
    assert account.play("<? e e")["endpoint_status"] == "InService"
    assert account.served() == 1


def test_event_of_another_endpoint_is_ignored_and_names_may_be_in_lower_case(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_NAME", "Digits-Endpoint")
    answer = account.event("Endpoint", EndpointName="another")
    assert answer["message"] == "Endpoint another is not Digits-Endpoint, so it is left alone."
    answer = account.event("Endpoint", EndpointName="digits-endpoint")
    assert answer["message"] == "Endpoint Digits-Endpoint is NotDeployed, so nothing changes."


def make_by_hand(account: Any, model: str, config: str) -> None:
    """A model and an endpoint configuration that are not the function's."""
    role = SETTINGS["EXECUTION_ROLE_ARN"]
    account.sagemaker.create_model(ModelName=model, ExecutionRoleArn=role, PrimaryContainer={"Image": "i"})
    variant = {"VariantName": "v", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    account.sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant])


@pytest.mark.parametrize("is_by_hand", [True, False])
def test_endpoint_without_a_registered_version_is_left_alone_by_its_event(account: Any, is_by_hand: bool) -> None:
    if is_by_hand:
        make_by_hand(account, "m", "c")
        account.sagemaker.create_endpoint(EndpointName="digits-endpoint", EndpointConfigName="c")
    else:
        account.play("1A")
        account.backend.model_packages.pop(account.arns[0])
    account.forget()
    answer = account.play("e")
    assert answer["message"] == "Endpoint digits-endpoint serves no registered version, so nothing changes."
    assert account.changes == []


def test_request_whose_answer_was_lost_is_a_success(account: Any) -> None:
    with account.hooked("after-call.sagemaker.CreateEndpoint", time_out):
        assert account.play("1A")["endpoint_status"] == "Creating"
    with account.hooked("after-call.sagemaker.UpdateEndpoint", time_out):
        assert account.play("2A")["endpoint_status"] == "Updating"
    assert account.served() == 2


def test_configuration_that_a_concurrent_call_put_into_service_is_a_success(account: Any) -> None:
    account.play("1A ~2A")

    def be_quicker(**_: Any) -> None:
        account.endpoint.endpoint_status = "Updating"
        pending = list(account.backend.endpoint_configs)[-1]
        account.endpoint.pending_deployment_summary = {"EndpointConfigName": pending}

    with account.hooked("before-call.sagemaker.UpdateEndpoint", be_quicker):
        answer = account.play("2")
    assert answer["message"] == "Endpoint digits-endpoint is being updated to digits version 2."
    assert account.configs() == account.models() == ["1", "2"]


def test_model_that_a_concurrent_call_created_is_used(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SageMakerResponse.create_model

    def lose_the_race(self: SageMakerResponse) -> ActionResult:
        create(self)
        raise ValidationError(message='Cannot create already existing model "arn".')

    monkeypatch.setattr(SageMakerResponse, "create_model", lose_the_race)
    assert account.play("1A")["endpoint_status"] == "Creating"
    assert account.served() == 1


KEPT = [  # unused versions to keep, what happens, the versions that still have a configuration and a model
    ("2", "1A 2A 3A 4A 5A 6A 7A", ["4", "5", "6", "7"]),  # 6 is in use until the update to 7 is done
    ("1", "1A 2A 3A 4A e", ["3", "4"]),
    ("1", "1A 2A 3A 4A ~4R ~3R ~2R 2 e", ["4", "1"]),  # what is in service stays, however old
]


@pytest.mark.parametrize(("keep", "script", "versions"), KEPT)
def test_unused_configurations_and_models_go_but_the_last_few(
    account: Any, monkeypatch: pytest.MonkeyPatch, keep: str, script: str, versions: list[str]
) -> None:
    monkeypatch.setenv("KEEP_VERSIONS", keep)
    account.play(script)
    assert account.configs() == account.models() == versions


def test_update_under_way_protects_both_configurations(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    account.play("1A 2A 3A 4A")
    names = list(account.backend.endpoint_configs)
    account.endpoint.endpoint_config_name = names[0]
    account.endpoint.pending_deployment_summary = {"EndpointConfigName": names[3]}
    monkeypatch.setenv("KEEP_VERSIONS", "1")
    account.play("e")
    assert account.configs() == ["1", "3", "4"]


def test_resources_of_others_are_left_alone(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEP_VERSIONS", "1")
    for name in ("digits", "digits-1-abcdef-012345", "other-1-abcdef-012345"):
        make_by_hand(account, name, f"{name}-6789ab")
    account.step(account.register(), "staging")
    others = account.state()
    account.play("2A 3A 4A 5A 6A")
    assert others["configs"].items() <= account.state()["configs"].items()
    assert others["models"].items() <= account.state()["models"].items()
    assert len(account.configs()) == len(others["configs"]) + 3


def test_removal_that_fails_does_not_fail_the_deployment(
    account: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEP_VERSIONS", "1")
    account.play("1A 2A 3A ~4A")
    with account.refusing("DeleteEndpointConfig", "Rate exceeded", "ThrottlingException"):
        assert account.play("4")["endpoint_status"] == "Updating"
    assert "Unused models and endpoint configurations were not removed: " in capsys.readouterr().out
    account.play("5A")
    assert account.configs() == account.models() == ["3", "4", "5"]


def test_autoscaling_waits_for_the_endpoint_stays_through_updates_and_is_switched_off(
    account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOSCALING_MAX", "4")
    monkeypatch.setenv("AUTOSCALING_TARGET", "300")
    account.play("1A")
    assert account.targets() == []
    account.play("e e")
    assert account.targets() == [(1, 4)]
    assert account.request("PutScalingPolicy")["TargetTrackingScalingPolicyConfiguration"] == {
        "TargetValue": 300.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    }
    account.play("2A")
    assert account.targets() == [(1, 4)]
    monkeypatch.setenv("AUTOSCALING_MAX", "1")
    account.play("e")
    assert account.targets() == []


@pytest.mark.parametrize(("script", "settings", "targets"), [
    ("1A 1", {"AUTOSCALING_MAX": "4"}, 1),
    ("1A 2A < e", {"AUTOSCALING_MAX": "4"}, 1),
    ("1A e =Failed 1", {"AUTOSCALING_MAX": "4"}, 0),  # it goes before the endpoint does
    ("1A e", {"AUTOSCALING_MAX": "4", "SERVERLESS_MEMORY_MB": "2048"}, 0),
    ("1A e", {"AUTOSCALING_MAX": "1"}, 0),  # there is none to be removed
])  # fmt: skip
def test_autoscaling_comes_with_instances_in_service(
    account: Any, monkeypatch: pytest.MonkeyPatch, script: str, settings: dict[str, str], targets: int
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    account.play(script)
    assert len(account.targets()) == targets
