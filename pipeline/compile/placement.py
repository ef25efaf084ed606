"""Where a definition will run: the only values in which a definition for this machine and one for AWS differ."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compile.bundle import SERVER, bundle

if TYPE_CHECKING:
    from pipeline.config.config import Config

INPUTS_STEP = "DescribeInputs"
TRAINING_LIBRARIES = ("numpy", "pillow", "timm", "torch")  # whose versions a step's result depends on


@dataclass(frozen=True)
class Placement:
    """Account, bucket, roles, images and functions that a definition names."""

    region: str
    account_id: str
    bucket: str
    role_arn: str  # of the pipeline
    job_role_arn: str
    training_image: str
    inference_image: str
    deploy_function: str
    inputs_function: str
    auto_approves: bool  # whether a version may be registered as Approved
    mlflow_tracking_server_arn: str | None = None

    def function_arn(self, name: str) -> str:
        """Return the ARN of the Lambda function of that name."""
        return f"arn:aws:lambda:{self.region}:{self.account_id}:function:{name}"

    def pipeline_arn(self, name: str) -> str:
        """Return the ARN of the pipeline of that name."""
        return f"arn:aws:sagemaker:{self.region}:{self.account_id}:pipeline/{name}"

    def uri(self, *parts: str) -> str:
        """Return an S3 URI in the bucket."""
        return "/".join([f"s3://{self.bucket}", *parts])


def local_placement(deploy_function: str = "deploy", inputs_function: str = "inputs") -> Placement:
    """Return the placement of the local target: names that exist nowhere else.

    As on AWS, an image's name says what it holds: a step that was cached with other libraries is not reused, and with
    another server the image is another.
    """
    account_id = "000000000000"
    libraries = " ".join(importlib.metadata.version(name) for name in TRAINING_LIBRARIES)
    tag = f"local-{hashlib.sha256(libraries.encode()).hexdigest()[:8]}"
    return Placement(
        region="us-east-1",
        account_id=account_id,
        bucket="local",
        role_arn=f"arn:aws:iam::{account_id}:role/local-pipeline",
        job_role_arn=f"arn:aws:iam::{account_id}:role/local-job",
        training_image=f"{account_id}.dkr.ecr.us-east-1.amazonaws.com/training:{tag}",
        inference_image=f"{account_id}.dkr.ecr.us-east-1.amazonaws.com/inference:local-{bundle(SERVER).digest}",
        deploy_function=deploy_function,
        inputs_function=inputs_function,
        auto_approves=True,
    )


def champion_uri(config: "Config", placement: Placement) -> str:
    """Return the prefix under which the model in service is kept, without a slash at its end."""
    return placement.uri(config.pipeline.name, "champion")


def models_uri(config: "Config", placement: Placement) -> str:
    """Return the prefix of the archives that are served, which the deploy function alone writes."""
    return placement.uri(config.pipeline.name, "models")
