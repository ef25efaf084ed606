"""A home in which a pipeline with every step type has run once."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import IMAGE, definition, model_archive, python_step, run_cli

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
        boto3.client("dynamodb").list_tables()
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


def refusal(call: Any, **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]
