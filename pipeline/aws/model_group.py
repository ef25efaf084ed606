"""The model package group: RegisterModel puts versions into it but may not make it."""

from botocore.exceptions import ClientError

from pipeline.aws.stack import Client
from pipeline.aws.stack_parameters import tags
from pipeline.config.config import Config

MISSING = ("does not exist", "not found", "could not find")


def ensure(client: Client, config: Config) -> bool:
    """Make the group unless it is there; whether it was made."""
    sagemaker = client("sagemaker")
    name = config.registry.model_package_group
    try:
        sagemaker.describe_model_package_group(ModelPackageGroupName=name)
    except ClientError as error:
        if not any(words in error.response["Error"]["Message"].lower() for words in MISSING):
            raise
    else:
        return False
    sagemaker.create_model_package_group(
        ModelPackageGroupName=name,
        ModelPackageGroupDescription=config.pipeline.description,
        Tags=[{"Key": key, "Value": value} for key, value in tags(config).items()],
    )
    return True
