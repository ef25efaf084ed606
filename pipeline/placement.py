"""Where a definition will run: the only values in which a definition for this machine and one for AWS differ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Account, bucket, role and images that a definition names."""

    region: str
    account_id: str
    bucket: str
    role_arn: str
    training_image: str
    inference_image: str
    deploy_function: str

    @property
    def function_arn(self) -> str:
        """The deploy Lambda function."""
        return f"arn:aws:lambda:{self.region}:{self.account_id}:function:{self.deploy_function}"

    def pipeline_arn(self, name: str) -> str:
        """The pipeline of that name."""
        return f"arn:aws:sagemaker:{self.region}:{self.account_id}:pipeline/{name}"

    def uri(self, *parts: str) -> str:
        """An S3 URI in the bucket."""
        return "/".join([f"s3://{self.bucket}", *parts])


def local_placement(deploy_function: str) -> Placement:
    """The placement of the local target: names that exist nowhere else."""
    account_id = "000000000000"
    return Placement(
        region="us-east-1",
        account_id=account_id,
        bucket="local",
        role_arn=f"arn:aws:iam::{account_id}:role/local-pipeline",
        training_image=f"{account_id}.dkr.ecr.us-east-1.amazonaws.com/training:local",
        inference_image=f"{account_id}.dkr.ecr.us-east-1.amazonaws.com/inference:local",
        deploy_function=deploy_function,
    )
