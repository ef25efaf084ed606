"""What `drift --publish` leads to on AWS: the alarm hears of the metric, and the rule starts the pipeline."""

import json
from typing import Any

import pytest

from pipeline.aws import inventory, stack
from pipeline.cli.reports import put_metric
from pipeline.config.config import load
from pipeline.errors import ConfigError
from pipeline.service.aws_target import AwsTarget


@pytest.fixture
def retraining(configured: Any, apply: Any) -> Any:
    """The configuration of a stack that has been made, with data capture and retraining on drift."""
    found = configured(deploy={"data_capture_percent": 10}, drift={"retrain": True})
    apply(found)
    return found


def drift_alarms(client: Any) -> list[dict[str, Any]]:
    return list(client("cloudwatch").describe_alarms(AlarmNames=["image-classification-drift"])["MetricAlarms"])


def rules(client: Any) -> list[str]:
    return [rule["Name"] for rule in client("events").list_rules()["Rules"]]


def test_the_alarm_reads_the_metric_that_the_command_puts(client, retraining):
    [alarm] = drift_alarms(client)
    put_metric(AwsTarget(retraining), retraining.aws.project, "image-classification", 1.5)
    [metric] = client("cloudwatch").list_metrics(Namespace=alarm["Namespace"])["Metrics"]
    assert (metric["MetricName"], metric["Dimensions"]) == (alarm["MetricName"], alarm["Dimensions"])
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanThreshold")
    assert alarm["TreatMissingData"] == "ignore"  # else each check would start the pipeline anew


def test_the_rule_hears_this_alarm_alone_and_starts_this_pipeline_alone(client, retraining):
    [alarm] = drift_alarms(client)
    pattern = json.loads(client("events").describe_rule(Name="image-classification-drift")["EventPattern"])
    assert pattern == {
        "source": ["aws.cloudwatch"],
        "detail-type": ["CloudWatch Alarm State Change"],
        "resources": [alarm["AlarmArn"]],
        "detail": {"state": {"value": ["ALARM"]}},
    }
    [target] = client("events").list_targets_by_rule(Rule="image-classification-drift")["Targets"]
    assert target["Arn"] == "arn:aws:sagemaker:us-east-1:123456789012:pipeline/image-classification"
    assert target["RoleArn"] == stack.outputs(client, "image-classification")["SchedulerRoleArn"]


@pytest.mark.parametrize(("percent", "alarms"), [(10, 1), (0, 0)])
def test_without_retraining_the_alarm_only_tells_and_without_capture_there_is_none(
    client, configured, apply, percent, alarms
):
    found = configured(deploy={"data_capture_percent": percent})
    apply(found)
    assert (len(drift_alarms(client)), "image-classification-drift" in rules(client)) == (alarms, False)


def test_the_alarm_is_counted_and_goes_with_the_stack(client, retraining):
    [found, _] = [item for item in inventory.find(client, retraining) if item.kind == "stack"]
    assert found.note.endswith(", 5 alarms")
    list(stack.delete(client("cloudformation"), found.name))
    assert (drift_alarms(client), "image-classification-drift" in rules(client)) == ([], False)


def test_retraining_without_capture_is_a_mistake_in_the_configuration(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("drift:\n  retrain: true\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).endswith(
        "pipeline.yaml:2: drift.retrain must be false while deploy.data_capture_percent is 0: nothing is captured, so "
        "no drift can be found."
    )
    path.write_text("drift:\n  retrain: true\ndeploy:\n  data_capture_percent: 1\n")
    assert load(path).drift.retrain
