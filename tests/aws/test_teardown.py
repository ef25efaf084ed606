"""Everything that was made is listed, and removed: the account is empty again."""

import json
from pathlib import Path
from typing import Any

import moto_stacks
import pytest
from moto.cloudformation.models import cloudformation_backends
from moto.s3.models import s3_backends
from own_account import ROLE, backend, execute, make_pipeline, step

from pipeline.aws import inventory, schedule, stack, teardown
from pipeline.aws.inventory import Item
from pipeline.errors import ServiceError

ENDPOINT = "image-classification"
MODEL = "image-classification-1-abcdef-123456"
LISTED = json.loads((Path(__file__).with_name("cases") / "listed.json").read_text())
JOB_LOGS = [f"/aws/sagemaker/{kind}Jobs" for kind in ("Training", "Transform", "Processing")]


@pytest.fixture
def used(client, config, made, register) -> dict[str, str]:
    """An account in which the pipeline ran, registered a version, and deployed it with autoscaling."""
    make_pipeline(client)
    run_jobs(client)
    serve(client, ENDPOINT, MODEL, {"ModelPackageName": register(made["BucketName"])}, 2)
    client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{ENDPOINT}/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=1,
        MaxCapacity=3,
    )
    schedule.set_expression(client, config, "rate(1 day)")
    for content in (b"x" * 1000, b"y" * 2000):
        client("s3").put_object(Bucket=made["BucketName"], Key="image-classification/data/1", Body=content)
    return made


def serve(client, endpoint: str, model: str, container: dict[str, str], instances: int = 1) -> None:
    """Make a model, an endpoint configuration and an endpoint."""
    sagemaker = client("sagemaker")
    sagemaker.create_model(ModelName=model, ExecutionRoleArn=ROLE, Containers=[container])
    variant = {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName=f"{model}-123456", ProductionVariants=[{**variant, "InitialInstanceCount": instances}]
    )
    sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=f"{model}-123456")


def run_jobs(client) -> None:
    """Leave an execution and the records of its steps' jobs: a search with a trial, and a training with its log."""
    sagemaker, logs, steps = client("sagemaker"), client("logs"), []
    for name in ("pipelines-abc-TrainWithDebugger-1", "pipelines-abc-Tune-1-001"):
        arn = sagemaker.create_training_job(
            TrainingJobName=name,
            AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
            RoleArn=ROLE,
            OutputDataConfig={"S3OutputPath": "s3://bucket/"},
            ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )["TrainingJobArn"]
        steps += [step("Train", "TrainingJob", arn)] if "Train" in name else []
    arn = sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="pipelines-abc-Tune-1",
        HyperParameterTuningJobConfig={"Strategy": "Bayesian", "ResourceLimits": {"MaxParallelTrainingJobs": 1}},
    )["HyperParameterTuningJobArn"]
    execute(client, *steps, step("Tune", "TuningJob", arn))
    for name in JOB_LOGS:
        logs.create_log_group(logGroupName=name)
    for kind, job in (
        ("Training", "pipelines-abc-TrainWithDebugger-1"),
        ("Training", "another-job"),
        ("Transform", "image-classification-transform-0123456789ab"),
        ("Transform", "of-others-transform-01"),
    ):
        logs.create_log_stream(logGroupName=f"/aws/sagemaker/{kind}Jobs", logStreamName=f"{job}/algo-1")


def remove_all(client, config, *, delete_data: bool = True) -> list[str]:
    return list(teardown.remove(client, config, inventory.find(client, config), delete_data=delete_data))


def test_everything_is_listed_with_what_is_billed_by_the_hour(client, config, used):
    items = inventory.find(client, config)
    assert [(item.kind, item.name) for item in items[1:6]] == [
        ("endpoint configuration", f"{MODEL}-123456"),
        ("model", MODEL),
        ("pipeline", "image-classification"),
        ("model version", "image-classification/1"),
        ("model package group", "image-classification"),
    ]
    assert items[0] == Item("endpoint", ENDPOINT, "InService, 2 x ml.m5.large, 1460 instance-hours a month")
    rest = {item.kind: item for item in items[3:]}
    assert (rest["pipeline"].note, rest["schedule"].note) == ("1 execution", "rate(1 day) UTC, on")
    app, base = [item for item in items if item.kind == "stack"]
    assert app.name == "image-classification-app"
    assert (app.note.partition(", ")[2], base.note.partition(", ")[2]) == ("4 alarms", "0.00 GB of images")
    assert rest["data"].name == f"s3://{used['BucketName']}/ (5 objects, 0.00 GB)"


def test_teardown_leaves_nothing_but_the_data_which_can_be_removed_later(client, config, used):
    told = remove_all(client, config, delete_data=False)
    place = f"s3://{used['BucketName']}/ (5 objects, 0.00 GB)"
    assert told[-1].startswith(f"{place} kept: `run_pipeline.py teardown --delete-data` removes it; `aws.bucket: ")
    assert [item.kind for item in inventory.find(client, config)] == ["data"]
    assert remove_all(client, config) == [f"{place} removed"]
    assert client("s3").list_buckets()["Buckets"] == []


def test_things_are_removed_before_what_they_use_and_nothing_is_left(client, config, used):
    told = remove_all(client, config)
    order = [
        "schedule image-classification-retrain switched off",
        f"scaling of endpoint/{ENDPOINT}/variant/AllTraffic removed",
        f"endpoint {ENDPOINT} removed",
        f"endpoint configuration {MODEL}-123456 removed",
        f"model {MODEL} removed",
        "pipeline image-classification removed",
        "model version image-classification/1 removed",
        "model package group image-classification removed",
        "stack image-classification-app removed",
        "stack image-classification removed",
    ]
    assert [line for line in told if line in order] == order
    assert inventory.find(client, config) == []
    assert what_is_left(client) == {"logStreams": ["another-job/algo-1", "of-others-transform-01/algo-1"]}


def what_is_left(client) -> dict[str, list[Any]]:
    """Everything that the services of an account list; the other project's log streams have to stay."""
    logs, scaling = client("logs"), client("application-autoscaling")
    groups = {group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]}
    streams = [logs.describe_log_streams(logGroupName=name)["logStreams"] for name in JOB_LOGS if name in groups]
    found = {
        "logGroups": groups - set(JOB_LOGS),
        "logStreams": [stream["logStreamName"] for listed in streams for stream in listed],
        "targets": scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"],
        **{kind: getattr(client(service), name)().get(key) for kind, (service, name, key) in LISTED.items()},
    }
    return {kind: things for kind, things in found.items() if things}


def test_what_belongs_to_others_stays(client, config, used):
    """Names that begin as ours, as those of an environment or of a project of a similar name do, are not ours."""
    container = {"ModelPackageName": "arn:aws:sagemaker:us-east-1:123456789012:model-package/image-classification-v2/1"}
    serve(client, "image-classification-v2", "image-classification-v2-1-abc", container)
    serve(client, "other", "image-classification-of-others", {"Image": "image"})
    client("s3").create_bucket(Bucket="bucket-of-others")
    remove_all(client, config)
    left = what_is_left(client)
    models = {found["ModelName"] for found in left["models"]}
    assert models == {"image-classification-v2-1-abc", "image-classification-of-others"}
    assert {found["EndpointName"] for found in left["endpoints"]} == {"image-classification-v2", "other"}
    assert len(left["configs"]) == 2
    assert [found["Name"] for found in left["buckets"]] == ["bucket-of-others"]


def test_an_empty_account_holds_nothing_and_a_stack_of_another_project_stays(client, config):
    assert inventory.find(client, config) == remove_all(client, config) == []
    template = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}'
    client("cloudformation").create_stack(StackName="image-classification", TemplateBody=template)
    assert inventory.find(client, config) == []


def test_more_versions_than_one_request_deletes_are_all_removed(client, config, made):
    stored, bucket = s3_backends["123456789012"]["aws"], made["BucketName"]
    for number in range(525):  # two versions of each; beside them lies the functions' code
        for content in (b"old", b"new"):
            stored.put_object(bucket, f"image-classification/data/{number:04}", content)
    client("s3").delete_object(Bucket=bucket, Key="image-classification/data/0000")
    assert remove_all(client, config)[-1] == f"s3://{bucket}/ (1052 objects, 0.00 GB) removed"
    assert client("s3").list_buckets()["Buckets"] == []


def test_of_a_bucket_of_the_user_only_the_pipelines_part_is_removed(client, configured, apply):
    s3 = client("s3")
    s3.create_bucket(Bucket="my-own-bucket")
    for key in ("holiday.jpg", "image-classification/data/1"):
        s3.put_object(Bucket="my-own-bucket", Key=key, Body=b"x")
    own = configured(aws={"bucket": "my-own-bucket"})
    apply(own)
    assert remove_all(client, own)[-1] == "s3://my-own-bucket/image-classification/ (3 objects, 0.00 GB) removed"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="my-own-bucket")["Contents"]] == ["holiday.jpg"]


def test_a_running_execution_is_listed_and_stopped_before_its_pipeline_is_removed(client, config, used):
    (pipeline,) = backend().pipelines.values()
    (execution,) = pipeline.pipeline_executions.values()
    execution.pipeline_execution_status = "Executing"
    (running,) = [item for item in inventory.find(client, config) if item.kind == "execution"]
    told = remove_all(client, config)
    assert told.index(f"execution {running.name} stopping") < told.index("pipeline image-classification removed")


def test_a_stack_that_cannot_be_removed_says_which_resource_and_why(client, config, used, monkeypatch):
    stacks = cloudformation_backends["123456789012"]["us-east-1"].stacks.values()
    (made,) = [found for found in stacks if found.name == "image-classification"]

    def fail(self: Any, name: str) -> None:
        """The events of a deletion that a repository withstood; moto deletes whatever it is told to."""
        reason = "The repository is in use"
        moto_stacks.tell(made, "TrainingRepository", "AWS::ECR::Repository", "DELETE_FAILED", reason)
        made._add_stack_event("DELETE_FAILED", "The following resource(s) failed to delete: [TrainingRepository].")

    monkeypatch.setattr("moto.cloudformation.models.CloudFormationBackend.delete_stack", fail)
    with pytest.raises(ServiceError) as caught:
        list(stack.delete(client("cloudformation"), "image-classification"))
    cause = "TrainingRepository (AWS::ECR::Repository) failed: The repository is in use"
    assert str(caught.value) == f"Stack 'image-classification' could not be removed: {cause}"
