"""Every operation of the local target through real boto3 clients, which validate the requests and parse the answers."""

import io
import json
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from pipeline.local.functions import put_function
from pipeline.local.service import SAGEMAKER
from pipeline.local.session import local_session
from pipeline.local.state import State
from pipeline.local.storage import Storage
from tests.local.samples import IMAGE, ROOT, definition, model_archive, processes_of, python_step, run_cli, wait_until

Json = dict[str, Any]
ROLE = "arn:aws:iam::000000000000:role/local-pipeline"
LAMBDA = "arn:aws:lambda:us-east-1:000000000000:function:hello"
RESOURCES = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
TRAIN = "print('acc=0.75')\nopen('/opt/ml/model/weights', 'w').write('w')"
FUNCTION = """
import boto3, json
from botocore.exceptions import ClientError

def handler(event, context):
    if event.get("raise"):
        raise ValueError("no such thing")
    s3 = boto3.client("s3")
    try:
        boto3.client("sts").get_caller_identity()
    except ClientError as error:
        refused = error.response["Error"]["Message"]
    s3.put_object(Bucket="b", Key="from lambda/ü.json", Body=json.dumps(event).encode())
    names = [p["PipelineName"] for p in boto3.client("sagemaker").list_pipelines()["PipelineSummaries"]]
    return {"pipelines": ",".join(names), "refused": refused, "function": context.function_name}
"""


def source_archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("train.py")
        member.size = len(TRAIN)
        archive.addfile(member, io.BytesIO(TRAIN.encode()))
    return buffer.getvalue()


def everything() -> Json:
    """A definition with a step of each type."""
    launcher = {"sagemaker_program": "train.py", "sagemaker_submit_directory": "s3://b/code/sourcedir.tar.gz"}
    algorithm = {
        "TrainingImage": IMAGE,
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "acc", "Regex": r"acc=(\S+)"}],
    }
    job = {
        "AlgorithmSpecification": algorithm,
        "OutputDataConfig": {"S3OutputPath": "s3://b/models"},
        "ResourceConfig": RESOURCES,
        "RoleArn": ROLE,
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    search = {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "acc"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "0.9"}]},
    }
    container = {
        "Image": IMAGE,
        "ModelDataUrl": "s3://b/served/model.tar.gz",
        "Environment": {"SAGEMAKER_PROGRAM": "serve.py"},
    }
    comparison = {"Type": "Equals", "LeftValue": {"Get": "Parameters.Branch"}, "RightValue": "yes"}
    return definition(
        python_step("Process", "print('hello\\nworld')", DisplayName="A step"),
        {"Name": "Train", "Type": "Training", "Arguments": {**job, "HyperParameters": launcher}},
        {
            "Name": "Tune",
            "Type": "Tuning",
            "Arguments": {
                "HyperParameterTuningJobConfig": search,
                "TrainingJobDefinition": {**job, "StaticHyperParameters": launcher},
            },
        },
        {"Name": "Model", "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}},
        {
            "Name": "Register",
            "Type": "RegisterModel",
            "Arguments": {"ModelPackageGroupName": "group", "InferenceSpecification": {"Containers": [container]}},
        },
        {
            "Name": "Transform",
            "Type": "Transform",
            "Arguments": {
                "ModelName": {"Get": "Steps.Model.ModelName"},
                "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}},
                "TransformOutput": {"S3OutputPath": "s3://b/out"},
                "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
            },
        },
        {
            "Name": "Hello",
            "Type": "Lambda",
            "FunctionArn": LAMBDA,
            "Arguments": {"n": 1},
            "OutputParameters": [{"OutputName": "pipelines", "OutputType": "String"}],
        },
        {
            "Name": "Check",
            "Type": "Condition",
            "DependsOn": ["Process", "Train", "Tune", "Transform", "Register", "Hello"],
            "Arguments": {
                "Conditions": [comparison],
                "IfSteps": [{"Name": "No", "Type": "Fail", "Arguments": {"ErrorMessage": "it is so"}}],
                "ElseSteps": [],
            },
        },
        Parameters=[{"Name": "Branch", "Type": "String", "DefaultValue": "yes"}],
    )


class Home:
    """A home in which a pipeline with every step type has run once, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State(folder / "home")
        storage = Storage(self.state)
        storage.write("s3://b/code/sourcedir.tar.gz", source_archive())
        storage.write("s3://b/served/model.tar.gz", model_archive("served"))
        storage.write("s3://b/in/one.txt", b"one")
        (folder / "hello.py").write_text(FUNCTION)
        (folder / "everything.json").write_text(json.dumps(everything()))
        function = f"hello={folder / 'hello.py'}:hello.handler"
        words = ["--definition", folder / "everything.json", "--lambda", function, "--home", folder / "home"]
        self.done = run_cli("run", "--json", *words)
        session = local_session(self.state)
        self.sagemaker = session.client("sagemaker")
        self.session = session

    def steps(self) -> dict[str, Json]:
        arn = self.execution()
        pages = self.sagemaker.get_paginator("list_pipeline_execution_steps").paginate(PipelineExecutionArn=arn)
        return {step["StepName"]: step for page in pages for step in page["PipelineExecutionSteps"]}

    def execution(self) -> str:
        found = self.sagemaker.list_pipeline_executions(PipelineName="everything")["PipelineExecutionSummaries"]
        return str(found[-1]["PipelineExecutionArn"])

    def job(self, step: str, member: str) -> str:
        return str(self.steps()[step]["Metadata"][member]["Arn"]).rpartition("/")[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("service")
    yield Home(folder)
    wait_until(lambda: not processes_of(folder), seconds=5)


def refusal(call: Any, **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# executions, as botocore reads them


def test_the_run_went_to_the_end_that_the_definition_says(home):
    document = json.loads(home.done.stdout)
    assert document["status"] == "Failed", home.done.stderr
    steps = {step["name"]: step["status"] for step in document["steps"]}
    assert steps == {
        **dict.fromkeys(["Process", "Train", "Tune", "Model", "Register", "Transform", "Hello", "Check"], "Succeeded"),
        "No": "Failed",
    }
    assert [step["failure_reason"] for step in document["steps"] if step["name"] == "No"] == ["it is so"]


def test_an_execution_is_described(home):
    arn = home.execution()
    found = home.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
    assert found["PipelineExecutionStatus"] == "Failed"
    assert found["FailureReason"] == "Step failure: One or multiple steps failed."
    assert isinstance(found["CreationTime"], datetime)
    assert found["CreationTime"] <= found["LastModifiedTime"]
    [summary] = home.sagemaker.list_pipeline_executions(PipelineName="everything")["PipelineExecutionSummaries"]
    assert summary["PipelineExecutionArn"] == arn
    assert isinstance(summary["StartTime"], datetime)
    assert summary["PipelineExecutionFailureReason"] == found["FailureReason"]
    text = home.sagemaker.describe_pipeline_definition_for_execution(PipelineExecutionArn=arn)["PipelineDefinition"]
    assert json.loads(text) == everything()
    given = home.sagemaker.list_pipeline_parameters_for_execution(PipelineExecutionArn=arn)["PipelineParameters"]
    assert given == [{"Name": "Branch", "Value": "yes"}]


def test_steps_are_listed_newest_first_with_what_they_made(home):
    arn = home.execution()
    newest_first = home.sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    ascending = {"PipelineExecutionArn": arn, "SortOrder": "Ascending", "PaginationConfig": {"PageSize": 4}}
    pages = list(home.sagemaker.get_paginator("list_pipeline_execution_steps").paginate(**ascending))
    assert [len(page["PipelineExecutionSteps"]) for page in pages] == [4, 4, 1]
    assert [step for page in pages for step in page["PipelineExecutionSteps"]] == newest_first[::-1]
    steps = home.steps()
    assert steps["Process"]["StepDisplayName"] == "A step"
    assert steps["Process"]["StartTime"] <= steps["Process"]["EndTime"]
    assert steps["Process"]["AttemptCount"] == 1
    assert steps["No"]["FailureReason"] == "it is so"
    assert steps["No"]["Metadata"] == {"Fail": {"ErrorMessage": "it is so"}}
    assert steps["Check"]["Metadata"] == {"Condition": {"Outcome": "True"}}
    assert steps["Hello"]["Metadata"]["Lambda"] == {
        "Arn": LAMBDA,
        "OutputParameters": [{"Name": "pipelines", "Value": "everything"}],
    }
    assert steps["Register"]["Metadata"]["RegisterModel"]["Arn"].endswith(":model-package/group/1")
    assert steps["Model"]["Metadata"]["Model"]["Arn"].startswith("arn:aws:sagemaker:us-east-1:000000000000:model/")


def test_jobs_are_described(home):
    client = home.sagemaker
    processing = client.describe_processing_job(ProcessingJobName=home.job("Process", "ProcessingJob"))
    assert processing["ProcessingJobStatus"] == "Completed"
    assert processing["ProcessingStartTime"] <= processing["ProcessingEndTime"]
    training = client.describe_training_job(TrainingJobName=home.job("Train", "TrainingJob"))
    assert training["TrainingJobStatus"] == "Completed"
    assert training["ModelArtifacts"]["S3ModelArtifacts"].startswith("s3://b/models/")
    assert [(m["MetricName"], m["Value"]) for m in training["FinalMetricDataList"]] == [("acc", 0.75)]
    assert isinstance(training["FinalMetricDataList"][0]["Timestamp"], datetime)
    transform = client.describe_transform_job(TransformJobName=home.job("Transform", "TransformJob"))
    assert transform["TransformJobStatus"] == "Completed"
    assert json.loads(Storage(home.state).read("s3://b/out/one.txt.out"))["model"] == "served"


def test_a_search_and_its_trials_are_described(home):
    client, name = home.sagemaker, home.job("Tune", "TuningJob")
    search = client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert search["HyperParameterTuningJobStatus"] == "Completed"
    assert search["TrainingJobStatusCounters"]["Completed"] == 2
    best = search["BestTrainingJob"]
    assert best["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == 0.75
    assert 0.1 <= float(best["TunedHyperParameters"]["lr"]) <= 0.9
    request = {"HyperParameterTuningJobName": name}
    trials = client.list_training_jobs_for_hyper_parameter_tuning_job(**request)["TrainingJobSummaries"]
    assert len(trials) == 2
    assert best["TrainingJobName"] in [trial["TrainingJobName"] for trial in trials]
    pager = client.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    pages = pager.paginate(**request, PaginationConfig={"PageSize": 1})
    assert [page["TrainingJobSummaries"] for page in pages] == [[trial] for trial in trials]
    listed = client.list_training_jobs()["TrainingJobSummaries"]
    assert len(listed) == 3
    assert all(isinstance(job["CreationTime"], datetime) for job in listed)
    only = client.list_training_jobs(NameContains=name, MaxResults=1)
    assert (len(only["TrainingJobSummaries"]), "NextToken" in only) == (1, True)


def test_the_logs_of_a_job_are_streams(home):
    logs = home.session.client("logs")
    group = {"logGroupName": "/aws/sagemaker/ProcessingJobs"}
    [stream] = logs.describe_log_streams(**group, logStreamNamePrefix=home.job("Process", "ProcessingJob") + "/")[
        "logStreams"
    ]
    events = logs.get_log_events(**group, logStreamName=stream["logStreamName"], startFromHead=True)
    assert [event["message"] for event in events["events"]] == ["hello", "world"]
    more = logs.get_log_events(
        **group, logStreamName=stream["logStreamName"], startFromHead=True, nextToken=events["nextForwardToken"]
    )
    assert more["events"] == []
    assert logs.describe_log_streams(**group, logStreamNamePrefix="nobody/")["logStreams"] == []
    assert refusal(logs.get_log_events, **group, logStreamName="nobody/algo-1") == (
        "ResourceNotFoundException",
        "The specified log stream does not exist.",
    )
    assert refusal(logs.describe_log_groups)[1] == "The local target does not answer logs:DescribeLogGroups."


# pipelines


def test_pipelines_are_created_changed_and_deleted(home):
    client = home.sagemaker
    request = {"PipelineName": "mine", "PipelineDefinition": json.dumps(definition(python_step("A", "pass")))}
    arn = client.create_pipeline(**request, RoleArn=ROLE, ClientRequestToken="t" * 32)["PipelineArn"]
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:pipeline/mine"
    assert refusal(client.create_pipeline, **request, RoleArn=ROLE, ClientRequestToken="t" * 32) == (
        "ValidationException",
        "Pipeline names must be unique; 'mine' exists.",
    )
    client.update_pipeline(PipelineName="mine", PipelineDescription="new")
    for name in ("mine", arn):
        found = client.describe_pipeline(PipelineName=name)
        assert (found["PipelineDefinition"], found["PipelineDescription"]) == (request["PipelineDefinition"], "new")
        assert (found["PipelineStatus"], found["RoleArn"]) == ("Active", ROLE)
        assert found["CreationTime"] <= found["LastModifiedTime"]
    listed = client.list_pipelines(PipelineNamePrefix="mi")["PipelineSummaries"]
    assert [found["PipelineName"] for found in listed] == ["mine"]
    assert client.delete_pipeline(PipelineName="mine", ClientRequestToken="t" * 32)["PipelineArn"] == arn
    assert refusal(client.describe_pipeline, PipelineName="mine")[1] == "Could not find pipeline 'mine'."
    assert refusal(client.list_pipeline_executions, PipelineName="mine")[1] == "Could not find pipeline 'mine'."


def test_a_definition_may_be_given_by_its_place_in_s3(home):
    content = json.dumps(definition(python_step("A", "pass")))
    Storage(home.state).write("s3://other/definitions/large.json", content.encode())
    where = {"Bucket": "other", "ObjectKey": "definitions/large.json"}
    home.sagemaker.create_pipeline(PipelineName="large", PipelineDefinitionS3Location=where, RoleArn=ROLE)
    assert home.sagemaker.describe_pipeline(PipelineName="large")["PipelineDefinition"] == content
    home.sagemaker.delete_pipeline(PipelineName="large", ClientRequestToken="t" * 32)
    where["ObjectKey"] = "definitions/none.json"
    said = refusal(
        home.sagemaker.create_pipeline, PipelineName="none", PipelineDefinitionS3Location=where, RoleArn=ROLE
    )
    assert said[1].startswith("s3://other/definitions/none.json does not exist in the local S3 at ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "Expecting value: line 1 column 1 (char 0)"),
        ("[]", "Steps must be a list, but got NoneType."),
        ("{}", "Steps must be a list, but got NoneType."),
    ],
)
def test_a_definition_that_cannot_be_run_is_refused(home, text, sentence):
    request = {"PipelineName": "bad", "PipelineDefinition": text, "RoleArn": ROLE}
    assert refusal(home.sagemaker.create_pipeline, **request) == ("ValidationException", sentence)


def test_what_is_not_there_is_refused_in_the_services_words(home):
    client = home.sagemaker
    assert refusal(client.describe_endpoint, EndpointName="e") == (
        "ValidationException",
        "Could not find endpoint 'e'.",
    )
    for call, request, sentence in (
        (client.describe_model, {"ModelName": "m"}, "Could not find model 'm'."),
        (client.describe_training_job, {"TrainingJobName": "t"}, "Could not find training job 't'."),
        (client.describe_processing_job, {"ProcessingJobName": "p"}, "Could not find processing job 'p'."),
        (client.describe_transform_job, {"TransformJobName": "t"}, "Could not find transform job 't'."),
        (client.delete_endpoint, {"EndpointName": "e"}, "Could not find endpoint 'e'."),
        (
            client.describe_pipeline_execution,
            {"PipelineExecutionArn": "arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/x"},
            "Could not find pipeline execution 'arn:aws:sagemaker:us-east-1:000000000000:pipeline/p/execution/x'.",
        ),
    ):
        assert refusal(call, **request) == ("ValidationException", sentence)


def test_every_operation_is_one_of_sagemakers_and_any_other_is_refused_by_name(home):
    known = home.sagemaker.meta.service_model.operation_names
    assert set(SAGEMAKER) <= set(known)
    assert refusal(home.sagemaker.list_apps) == (
        "UnknownOperationException",
        "The local target does not answer sagemaker:ListApps.",
    )
    assert refusal(home.session.client("sts").get_caller_identity) == (
        "UnknownOperationException",
        "The local target does not answer sts:GetCallerIdentity.",
    )
    with pytest.raises(ClientError, match="does not answer sagemaker-runtime:InvokeEndpointAsync"):
        home.session.client("sagemaker-runtime").invoke_endpoint_async(EndpointName="e", InputLocation="s3://b/x")


def test_tags_are_accepted(home):
    arn = "arn:aws:sagemaker:us-east-1:000000000000:pipeline/everything"
    tags = [{"Key": "a", "Value": "b"}]
    assert home.sagemaker.add_tags(ResourceArn=arn, Tags=tags)["Tags"] == tags
    assert home.sagemaker.list_tags(ResourceArn=arn)["Tags"] == []
    home.sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a"])


# S3 and Lambda, for handlers


def test_an_object_is_copied_and_stays_as_it_was_when_its_source_is_replaced(home):
    s3 = home.session.client("s3")
    s3.put_object(Bucket="source", Key="from/ü+ 1.txt", Body=b"one")
    source = {"Bucket": "source", "Key": "from/ü+ 1.txt"}
    copied = s3.copy_object(Bucket="other", Key="to/1.txt", CopySource=source, TaggingDirective="REPLACE")
    etag = copied["CopyObjectResult"]["ETag"]
    assert isinstance(copied["CopyObjectResult"]["LastModified"], datetime)
    assert s3.head_object(Bucket="other", Key="to/1.txt")["ETag"] == etag
    s3.put_object(Bucket="source", Key="from/ü+ 1.txt", Body=b"two")
    assert s3.get_object(Bucket="other", Key="to/1.txt")["Body"].read() == b"one"
    again = s3.copy_object(Bucket="other", Key="to/1.txt", CopySource=source)
    assert again["CopyObjectResult"]["ETag"] != etag
    assert s3.get_object(Bucket="other", Key="to/1.txt")["Body"].read() == b"two"
    with pytest.raises(ClientError) as caught:
        s3.copy_object(Bucket="other", Key="to/2.txt", CopySource={"Bucket": "source", "Key": "none"})
    assert caught.value.response["Error"] == {
        "Code": "NoSuchKey",
        "Message": "The specified key does not exist: s3://source/none",
    }


def test_objects_are_written_read_listed_and_deleted(home):
    s3 = home.session.client("s3")
    keys = ["x/1.txt", "x/a b&c.txt", "x/ü+%/2.txt", "y.txt"]
    for key in keys:
        s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    found = s3.get_object(Bucket="bucket", Key="x/ü+%/2.txt")
    assert found["Body"].read().decode() == "x/ü+%/2.txt"
    assert isinstance(found["LastModified"], datetime)
    assert s3.head_object(Bucket="bucket", Key="y.txt")["ContentLength"] == 5
    assert s3.get_object(Bucket="bucket", Key="y.txt", Range="bytes=1-2")["Body"].read() == b".t"
    assert s3.get_object(Bucket="bucket", Key="y.txt", Range="bytes=-3")["Body"].read() == b"txt"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", PaginationConfig={"PageSize": 3})
    assert [item["Key"] for page in pages for item in page["Contents"]] == sorted(keys)
    listed = s3.list_objects_v2(Bucket="bucket", Prefix="x/", Delimiter="/")
    assert [item["Key"] for item in listed["Contents"]] == ["x/1.txt", "x/a b&c.txt"]
    assert [item["Prefix"] for item in listed["CommonPrefixes"]] == ["x/ü+%/"]
    assert s3.list_objects_v2(Bucket="bucket", Prefix="none")["KeyCount"] == 0
    s3.delete_object(Bucket="bucket", Key="y.txt")
    s3.delete_object(Bucket="bucket", Key="y.txt")
    assert refusal(s3.get_object, Bucket="bucket", Key="y.txt")[0] == "NoSuchKey"
    assert refusal(s3.head_object, Bucket="bucket", Key="y.txt")[0] == "404"


def test_files_go_up_and_come_down_whole(home, tmp_path):
    s3, content = home.session.client("s3"), bytes(range(256)) * 40_000  # 10 MB: more than one part
    (tmp_path / "up").write_bytes(content[: 5 * 2**20])
    s3.upload_file(str(tmp_path / "up"), "bucket", "large")
    s3.upload_fileobj(io.BytesIO(b"small"), "bucket", "small")
    Storage(home.state).write("s3://bucket/larger", content)
    for key in ("large", "small", "larger"):
        s3.download_file("bucket", key, str(tmp_path / key))
    assert (tmp_path / "large").read_bytes() == content[: 5 * 2**20]
    assert (tmp_path / "small").read_bytes() == b"small"
    assert (tmp_path / "larger").read_bytes() == content


def test_what_s3_cannot_do_here_is_refused(home):
    s3 = home.session.client("s3")
    assert refusal(s3.list_buckets) == ("NotImplemented", "The local target does not answer s3:ListBuckets.")
    s3.put_object(Bucket="bucket", Key="file", Body=b"")
    assert refusal(s3.put_object, Bucket="bucket", Key="file/below", Body=b"")[0] == "InvalidRequest"
    assert refusal(s3.get_object, Bucket="bucket", Key="../../state.db") == (
        "InvalidRequest",
        "'s3://bucket/../../state.db' is not a usable S3 URI; expected s3://bucket/key.",
    )


def test_a_function_is_invoked_with_clients_that_are_answered_here(home):
    client = home.session.client("lambda")
    answer = client.invoke(FunctionName=LAMBDA, Payload=json.dumps({"a": "ü"}))
    assert (answer["StatusCode"], "FunctionError" in answer) == (200, False)
    assert json.loads(answer["Payload"].read()) == {
        "pipelines": "everything",
        "refused": "The local target does not answer sts:GetCallerIdentity.",
        "function": "hello",
    }
    assert json.loads(Storage(home.state).read("s3://b/from lambda/ü.json")) == {"a": "ü"}


def test_a_function_that_raises_is_told_as_lambda_tells_it(home):
    client = home.session.client("lambda")
    answer = client.invoke(FunctionName="hello", Payload=b'{"raise": 1}')
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"].read()) == {"errorMessage": "no such thing", "errorType": "ValueError"}
    assert client.invoke(FunctionName="hello", InvocationType="Event", Payload=b'{"raise": 1}')["StatusCode"] == 202
    assert client.invoke(FunctionName="hello", InvocationType="DryRun")["StatusCode"] == 204
    assert refusal(client.invoke, FunctionName="nobody") == (
        "ResourceNotFoundException",
        "Function not found: nobody",
    )
    assert refusal(client.list_functions)[1] == "The local target does not answer lambda:ListFunctions."


def test_an_approval_reaches_the_function_of_the_groups_rule(home, tmp_path):
    (tmp_path / "heard.py").write_text(
        "import json, pathlib\n"
        "def handler(event, context):\n"
        "    status = event['detail']['ModelApprovalStatus']\n"
        f"    pathlib.Path({str(tmp_path / 'event')!r}).write_text(json.dumps(event))\n"
        "    assert status != 'Rejected', 'it was good'\n"
    )
    put_function(home.state, "heard", tmp_path / "heard.py", "heard.handler")
    home.state.put("Rule", "group", {"FunctionName": "heard"})
    arn = home.steps()["Register"]["Metadata"]["RegisterModel"]["Arn"]
    home.sagemaker.update_model_package(ModelPackageArn=arn, ApprovalDescription="no event of this")
    assert not (tmp_path / "event").exists()
    home.sagemaker.update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Approved")
    event = json.loads((tmp_path / "event").read_text())
    assert (event["source"], event["detail-type"]) == ("aws.sagemaker", "SageMaker Model Package State Change")
    assert event["detail"]["ModelPackageArn"] == arn
    assert event["detail"]["ModelPackageVersion"] == 1
    assert refusal(home.sagemaker.update_model_package, ModelPackageArn=arn, ModelApprovalStatus="Rejected") == (
        "EventDeliveryFailed",
        "The version is Rejected now, but function 'heard', which heard of it, failed: AssertionError: it was good",
    )
    assert home.sagemaker.describe_model_package(ModelPackageName=arn)["ModelApprovalStatus"] == "Rejected"


# the user's own AWS settings


@pytest.mark.parametrize(
    "settings",
    [
        {"AWS_PROFILE": "nobody"},
        {"AWS_ENDPOINT_URL": "http://localhost:4566", "AWS_ENDPOINT_URL_S3": "http://localhost:4566"},
        {"AWS_DEFAULT_REGION": "no region!", "AWS_REGION": "eu-west-1"},
        {"AWS_CA_BUNDLE": "/nowhere", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_MAX_ATTEMPTS": "many", "AWS_RETRY_MODE": "wild", "AWS_DEFAULTS_MODE": "odd"},
        {"AWS_CONFIG_FILE": str(ROOT / "Makefile"), "AWS_SHARED_CREDENTIALS_FILE": str(ROOT / "Makefile")},
        {"HTTPS_PROXY": "http://localhost:1", "HTTP_PROXY": "http://localhost:1"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_users_own_aws_settings_change_nothing(home, monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    session = local_session(home.state)
    assert session.client("logs").describe_log_streams(logGroupName="g")["logStreams"] == []
    s3 = session.client("s3")
    s3.put_object(Bucket="bucket", Key="k", Body=b"v")
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"v"
    with pytest.raises(ClientError, match="Endpoint e of account 000000000000 not found"):
        session.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"")


def test_a_session_beside_it_is_not_answered_here(home):
    other = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    elsewhere = {"endpoint_url": "http://127.0.0.1:9", "config": Config(retries={"max_attempts": 0})}
    with pytest.raises(EndpointConnectionError):
        other.client("sagemaker", **elsewhere).list_pipelines()
