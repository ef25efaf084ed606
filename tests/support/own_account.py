"""An account without a stack: what pipeline.yaml names there, and executions whose steps a test decides."""

import json
from typing import Any

from moto.sagemaker.models import sagemaker_backends

ACCOUNT, NAME, BUCKET = "123456789012", "image-classification", "a-bucket-of-ours"
ROLE, IMAGE = f"arn:aws:iam::{ACCOUNT}:role/pipeline", f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/image:1"
OWN = {"role_arn": ROLE, "bucket": BUCKET, "training_image": IMAGE, "inference_image": IMAGE}
CONFIG = json.dumps({"aws": OWN})  # which is YAML, too


def backend() -> Any:
    """SageMaker's state in moto."""
    return sagemaker_backends[ACCOUNT]["us-east-1"]


def make_pipeline(client: Any, *steps: dict[str, Any]) -> str:
    """Make the pipeline; return its definition."""
    text = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": steps})
    request = {"PipelineName": NAME, "PipelineDefinition": text, "RoleArn": ROLE, "ClientRequestToken": "x" * 32}
    client("sagemaker").create_pipeline(**request)
    return text


def execute(client: Any, *steps: dict[str, Any]) -> str:
    """Start an execution that has these steps, as ListPipelineExecutionSteps answers; return its ARN."""
    arn = str(client("sagemaker").start_pipeline_execution(PipelineName=NAME)["PipelineExecutionArn"])
    backend().steps_of_executions = {**getattr(backend(), "steps_of_executions", {}), arn: list(steps)}
    return arn


def step(name: str, kind: str = "", arn: str = "", status: str = "Succeeded", **members: Any) -> dict[str, Any]:
    """Return one of an execution's steps, with its job."""
    return {"StepName": name, "StepStatus": status, "Metadata": {kind: {"Arn": arn}} if kind else {}, **members}


def make_processing_job(client: Any, name: str, outputs: dict[str, str], **members: Any) -> str:
    """Make a processing job that has written to these URIs; return its ARN."""
    how = {"LocalPath": "/opt/ml/out", "S3UploadMode": "EndOfJob"}
    written = [{"OutputName": output, "S3Output": {"S3Uri": uri, **how}} for output, uri in outputs.items()]
    cluster = {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
    request = {"ProcessingJobName": name, "RoleArn": ROLE, "ProcessingResources": {"ClusterConfig": cluster}}
    request |= {"AppSpecification": {"ImageUri": IMAGE}, "ProcessingOutputConfig": {"Outputs": written}}
    return str(client("sagemaker").create_processing_job(**{**request, **members})["ProcessingJobArn"])
