"""Everything that was made is listed with its price, and removed: the account is empty again."""

import json
from dataclasses import replace

import moto_stacks
import pytest
from moto.s3.models import s3_backends
from moto.sagemaker.models import sagemaker_backends

from pipeline.aws import infra, inventory, model_group, schedule, teardown
from pipeline.aws.inventory import Item

ENDPOINT = "image-classification"
NAME = "image-classification-1-abcdef-123456"


@pytest.fixture
def used(client, config, made):
    """An account in which the pipeline ran, registered a version, and deployed it with autoscaling."""
    sagemaker = client("sagemaker")
    sagemaker.create_pipeline(
        PipelineName=ENDPOINT, PipelineDefinition="{}", RoleArn=made["PipelineRoleArn"], ClientRequestToken="x" * 32
    )
    execution = sagemaker.start_pipeline_execution(PipelineName=ENDPOINT)["PipelineExecutionArn"]
    run_jobs(client, made, execution)
    model_group.ensure(client, config)
    version = register(client)
    serve(client, version, made["EndpointRoleArn"])
    scaled = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{ENDPOINT}/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    client("application-autoscaling").register_scalable_target(**scaled, MinCapacity=1, MaxCapacity=3)
    schedule.set_expression(client, config, "rate(1 day)")
    client("s3").put_object(Bucket=made["BucketName"], Key="image-classification/data/1", Body=b"x" * 1000)
    client("s3").put_object(Bucket=made["BucketName"], Key="image-classification/data/1", Body=b"y" * 2000)
    return made


def register(client) -> str:
    container = {"Image": "image", "ModelDataUrl": "s3://bucket/model.tar.gz"}
    answer = client("sagemaker").create_model_package(
        ModelPackageGroupName="image-classification",
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [container], "SupportedContentTypes": ["x/y"], "SupportedResponseMIMETypes": ["x/y"],
        },
    )  # fmt: skip
    return answer["ModelPackageArn"]


def serve(client, version: str, role: str) -> None:
    sagemaker = client("sagemaker")
    sagemaker.create_model(ModelName=NAME, ExecutionRoleArn=role, Containers=[{"ModelPackageName": version}])
    variant = {
        "VariantName": "AllTraffic", "ModelName": NAME, "InstanceType": "ml.m5.large", "InitialInstanceCount": 2,
    }  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName=f"{NAME}-123456", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=f"{NAME}-123456")


def run_jobs(client, made, execution: str) -> None:
    """The records that a run leaves: a training job with its log, found by the execution's steps."""
    answer = client("sagemaker").create_training_job(
        TrainingJobName="pipelines-abc-TrainWithDebugger-1",
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        RoleArn=made["PipelineRoleArn"],
        OutputDataConfig={"S3OutputPath": "s3://bucket/"},
        ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    step = {
        "StepName": "TrainWithDebugger",
        "StepStatus": "Succeeded",
        "Metadata": {"TrainingJob": {"Arn": answer["TrainingJobArn"]}},
    }
    sagemaker_backends["123456789012"]["us-east-1"].steps_of_executions = {execution: [step]}
    logs = client("logs")
    logs.create_log_group(logGroupName="/aws/sagemaker/TrainingJobs")
    for job in ("pipelines-abc-TrainWithDebugger-1", "another-job"):
        logs.create_log_stream(logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=f"{job}/algo-1")


def test_everything_is_listed_with_what_it_costs_to_leave_on(client, config, used):
    found = inventory.find(client, config)
    items = inventory.items(found, config.prices)
    assert items[:6] == [
        Item("endpoint", ENDPOINT, pytest.approx(2 * 0.115 * 730), "InService, 2 x ml.m5.large"),
        Item("endpoint configuration", f"{NAME}-123456", 0.0),
        Item("model", NAME, 0.0),
        Item("pipeline", "image-classification", 0.0, "1 execution"),
        Item("model version", "image-classification/1", 0.0),
        Item("model package group", "image-classification", 0.0),
    ]
    rest = {item.kind: item for item in items[6:]}
    assert rest["schedule"].note == "rate(1 day) UTC, on"
    assert (rest["stack"].per_month, rest["stack"].note) == (pytest.approx(0.4), "4 alarms, 0.00 GB of images")
    (data,) = found.storage
    assert (data.bucket, data.prefix, data.objects) == (used["BucketName"], "", 3)
    assert data.size_bytes > 3000
    assert rest["data"].per_month == pytest.approx(data.size_bytes / 1e9 * 0.023)


def test_images_are_counted_into_the_stack(config):
    found = replace(nothing(), stack_resources=(("AWS::ECR::Repository", "x"),), image_bytes=2_500_000_000)
    (item,) = inventory.items(found, config.prices)
    assert item == Item("stack", "1 resource", pytest.approx(0.25), "0 alarms, 2.50 GB of images")


def test_an_instance_type_without_a_price_has_no_cost(client, config, used):
    prices = replace(config.prices, per_hour={})
    assert inventory.items(inventory.find(client, config), prices)[0].per_month is None


def nothing() -> inventory.Inventory:
    return inventory.Inventory((), (), (), None, (), (), None, None, (), 0, (), ())


def test_an_empty_account_holds_nothing(client, config):
    found = inventory.find(client, config)
    assert found == nothing()
    assert found.is_empty
    assert inventory.items(found, config.prices) == []
    assert list(teardown.remove(client, config, found, delete_data=True)) == []


def test_teardown_leaves_nothing_but_the_data(client, config, used):
    told = list(teardown.find_and_remove(client, config))
    bucket = used["BucketName"]
    kept = told[-1]
    assert kept.startswith(
        f"s3://{bucket}/ (3 objects, 0.00 GB) kept: `run_pipeline.py teardown --delete-data` removes"
    )
    left = inventory.find(client, config)
    assert replace(left, storage=()) == nothing()
    assert [place.bucket for place in left.storage] == [bucket]


def test_teardown_with_delete_data_leaves_nothing(client, config, used):
    list(teardown.find_and_remove(client, config, delete_data=True))
    assert inventory.find(client, config) == nothing()
    assert what_is_left(client) == {"logStreams": ["another-job/algo-1"]}


def what_is_left(client) -> dict[str, list[str]]:
    """Everything that the services of an account list; the other project's log stream has to stay."""
    sagemaker = client("sagemaker")
    streams = client("logs").describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs")["logStreams"]
    found = {
        "stacks": client("cloudformation").describe_stacks()["Stacks"],
        "buckets": client("s3").list_buckets()["Buckets"],
        "repositories": client("ecr").describe_repositories()["repositories"],
        "roles": client("iam").list_roles()["Roles"],
        "functions": client("lambda").list_functions()["Functions"],
        "rules": client("events").list_rules()["Rules"],
        "schedules": client("scheduler").list_schedules()["Schedules"],
        "queues": client("sqs").list_queues().get("QueueUrls", []),
        "topics": client("sns").list_topics()["Topics"],
        "alarms": client("cloudwatch").describe_alarms()["MetricAlarms"],
        "logGroups": [
            group
            for group in client("logs").describe_log_groups()["logGroups"]
            if group["logGroupName"] != "/aws/sagemaker/TrainingJobs"
        ],
        "logStreams": [stream["logStreamName"] for stream in streams],
        "pipelines": sagemaker.list_pipelines()["PipelineSummaries"],
        "endpoints": sagemaker.list_endpoints()["Endpoints"],
        "configs": sagemaker.list_endpoint_configs()["EndpointConfigs"],
        "models": sagemaker.list_models()["Models"],
        "versions": sagemaker.list_model_packages()["ModelPackageSummaryList"],
        "groups": sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"],
        "jobs": sagemaker.list_training_jobs()["TrainingJobSummaries"],
        "targets": client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")[
            "ScalableTargets"
        ],
    }
    return {kind: things for kind, things in found.items() if things}


def test_the_data_can_be_removed_after_the_stack_is_gone(client, config, used):
    list(teardown.find_and_remove(client, config))
    told = list(teardown.find_and_remove(client, config, delete_data=True))
    assert told == [f"s3://{used['BucketName']}/ (3 objects, 0.00 GB) removed"]
    assert client("s3").list_buckets()["Buckets"] == []


def test_things_are_removed_before_what_they_use(client, config, used):
    told = list(teardown.find_and_remove(client, config, delete_data=True))
    order = [
        "schedule image-classification-retrain switched off",
        f"scaling of endpoint/{ENDPOINT}/variant/AllTraffic removed",
        f"endpoint {ENDPOINT} removed",
        f"endpoint configuration {NAME}-123456 removed",
        f"model {NAME} removed",
        "pipeline image-classification removed",
        "model version image-classification/1 removed",
        "model package group image-classification removed",
        "stack image-classification removed",
    ]
    assert [line for line in told if line in order] == order


def test_what_belongs_to_others_stays(client, config, used):
    sagemaker = client("sagemaker")
    container = {"Image": "image"}
    sagemaker.create_model(
        ModelName="image-classification-of-others", ExecutionRoleArn="arn:aws:iam::1:role/x", PrimaryContainer=container
    )
    variant = {
        "VariantName": "AllTraffic", "ModelName": "image-classification-of-others", "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }  # fmt: skip
    sagemaker.create_endpoint_config(EndpointConfigName="image-classification-of-others", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="image-classification-of-others")
    client("s3").create_bucket(Bucket="bucket-of-others")
    list(teardown.find_and_remove(client, config, delete_data=True))
    assert [found["ModelName"] for found in sagemaker.list_models()["Models"]] == ["image-classification-of-others"]
    assert [found["EndpointName"] for found in sagemaker.list_endpoints()["Endpoints"]] == ["other"]
    assert [found["Name"] for found in client("s3").list_buckets()["Buckets"]] == ["bucket-of-others"]


def test_more_versions_than_one_request_deletes_are_all_removed(client, config, made):
    s3, bucket = client("s3"), made["BucketName"]
    stored = s3_backends["123456789012"]["aws"]
    for number in range(525):  # two versions of each; beside them lies the deploy function's code
        for content in (b"old", b"new"):
            stored.put_object(bucket, f"image-classification/data/{number:04}", content)
    s3.delete_object(Bucket=bucket, Key="image-classification/data/0000")
    found = inventory.find(client, config)
    assert [place.objects for place in found.storage] == [1051]
    told = list(teardown.remove(client, config, found, delete_data=True))
    assert told[-1] == f"s3://{bucket}/ (1051 objects, 0.00 GB) removed"
    assert s3.list_buckets()["Buckets"] == []


def test_of_a_bucket_of_the_user_only_the_pipelines_part_is_removed(client, config, change):
    s3 = client("s3")
    s3.create_bucket(Bucket="my-own-bucket")
    s3.put_object(Bucket="my-own-bucket", Key="holiday.jpg", Body=b"x")
    s3.put_object(Bucket="my-own-bucket", Key="image-classification/data/1", Body=b"x")
    own = change(config, "aws", bucket="my-own-bucket")
    list(infra.apply(client, own, infra.propose(client, own)))
    told = list(teardown.find_and_remove(client, own, delete_data=True))
    assert told[-1] == "s3://my-own-bucket/image-classification/ (2 objects, 0.00 GB) removed"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="my-own-bucket")["Contents"]] == ["holiday.jpg"]


def test_a_running_execution_is_stopped_before_its_pipeline_is_removed(client, config, used):
    backend = sagemaker_backends["123456789012"]["us-east-1"]
    (pipeline,) = backend.pipelines.values()
    (execution,) = pipeline.pipeline_executions.values()
    execution.pipeline_execution_status = "Executing"
    told = list(teardown.find_and_remove(client, config))
    (stopping,) = [number for number, line in enumerate(told) if line.startswith("execution ")]
    assert stopping < told.index("pipeline image-classification removed")


def test_a_stack_that_cannot_be_removed_says_which_resource_and_why(client, config, used):
    from moto.cloudformation.models import cloudformation_backends

    from pipeline.aws import stack
    from pipeline.errors import ServiceError

    (made,) = cloudformation_backends["123456789012"]["us-east-1"].stacks.values()
    known = stack.seen_events(client("cloudformation"), made.stack_id)
    with pytest.raises(ServiceError) as caught:
        fail_to_delete(made)
        list(stack.follow(client("cloudformation"), made.stack_id, known, "DELETE"))
    assert str(caught.value) == (
        "Stack 'image-classification' could not be removed: TrainingRepository (AWS::ECR::Repository) failed: "
        "The repository is in use"
    )


def fail_to_delete(made) -> None:
    """The events of a deletion that a repository withstood; moto deletes whatever it is told to."""
    moto_stacks.tell(made, "TrainingRepository", "AWS::ECR::Repository", "DELETE_FAILED", "The repository is in use")
    made._add_stack_event("DELETE_FAILED", "The following resource(s) failed to delete: [TrainingRepository].")


def test_the_listing_is_plain_data(client, config, used):
    items = inventory.items(inventory.find(client, config), config.prices)
    assert json.loads(json.dumps([vars(item) for item in items]))[0]["kind"] == "endpoint"
