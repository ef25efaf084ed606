"""A home in which a pipeline with every step type has run once, for the tests of a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local import session
from pipeline.local.store.state import State
from tests.local.lab import IMAGE, Lab, call, compare, condition, fail, get, parameter
from tests.local.samples import model_archive, processes_of, wait_until

Json = dict[str, Any]
ROLE = "arn:aws:iam::000000000000:role/local-pipeline"
TRAIN = "print('acc=0.75 score=0.75')\nopen('/opt/ml/model/weights', 'w').write('w')"
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


def every_step(lab: Lab) -> list[Json]:
    """A step of each type."""
    serving = {"SAGEMAKER_PROGRAM": "serve.py"}
    container = {"Image": IMAGE, "ModelDataUrl": "s3://b/served/model.tar.gz", "Environment": serving}
    group = {"ModelPackageGroupName": "group", "InferenceSpecification": {"Containers": [container]}}
    transform = {
        "ModelName": get("Steps.Model.ModelName"),
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://b/in"}}},
        "TransformOutput": {"S3OutputPath": "s3://b/out"},
        "TransformResources": {"InstanceCount": 1, "InstanceType": "ml.m5.large"},
    }
    ranges = {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "0.9"}]}
    model = {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}
    is_so = condition("Check", [compare("Equals", get("Parameters.Branch"), "yes")], [fail("No", "it is so")])
    return [
        lab.processing("Process", "print('hello\\nworld')", DisplayName="A step"),
        lab.training("Train", TRAIN, metrics={"acc": r"acc=(\S+)"}),
        lab.tuning("Tune", TRAIN, ranges, jobs=2),
        {"Name": "Model", "Type": "Model", "Arguments": model},
        {"Name": "Register", "Type": "RegisterModel", "Arguments": group},
        {"Name": "Transform", "Type": "Transform", "Arguments": transform},
        call("Hello", {"n": 1}, {"pipelines": "String"}, function="hello"),
        {**is_so, "DependsOn": ["Process", "Train", "Tune", "Transform", "Register", "Hello"]},
    ]


class Home:
    """A home in which a pipeline with every step type has run once, and its clients."""

    def __init__(self, folder: Path) -> None:
        lab = Lab(folder)
        lab.put("s3://b/served/model.tar.gz", model_archive("served"))
        lab.put("s3://b/in/one.txt", "one")
        parameters = [parameter("Branch", "String", "yes")]
        self.definition = {"Version": "2020-12-01", "Parameters": parameters, "Steps": every_step(lab)}
        functions = [lab.function(FUNCTION, "hello")]
        self.report = lab.run_definition(self.definition, functions=functions, options=["--name", "everything"])
        self.state, self.session = State(lab.home), session(lab.home)
        self.sagemaker = self.session.client("sagemaker")
        self.execution = self.report.document["execution_arn"]
        pages = self.sagemaker.get_paginator("list_pipeline_execution_steps").paginate(
            PipelineExecutionArn=self.execution
        )
        self.steps = {step["StepName"]: step for page in pages for step in page["PipelineExecutionSteps"]}

    def job(self, step: str) -> str:
        """The name of a step's job."""
        ((_, found),) = self.steps[step]["Metadata"].items()
        return str(found["Arn"]).rpartition("/")[2]


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
