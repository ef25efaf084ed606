"""A batch transform job for images: boto3 only, the same for both targets.

Each image is one request to the model's own server, and each answer an object `<image>.out` below the job's output.
Source: AWS guide, "batch-transform"; API, CreateTransformJob.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.aws.stack_parameters import serving_prefix
from pipeline.config.config import Config
from pipeline.errors import PassingError, UsageError
from pipeline.service import control
from pipeline.service.aws_target import split_uri
from pipeline.service.control import service_errors
from pipeline.service.image_files import SUFFIXES, folder_images, is_image_name
from pipeline.service.predictor import ACCEPT, CONTENT_TYPE, in_threads
from pipeline.service.targets import Target

FOLDER = "transform"  # below the pipeline's name in the bucket; aws/stack.yaml gives the model's role access to it
POLL_SECONDS = {"local": 0.3, "aws": 15.0}
ACTIVE = ("InProgress", "Stopping")
ENDING = ".out"


@dataclass(frozen=True)
class Job:
    """A transform job: its name, and the prefixes of its images and answers, which end with a slash."""

    name: str
    input_uri: str
    output_uri: str


def new_job(target: Target, config: Config) -> Job:
    """A job of a new name."""
    name = f"{serving_prefix(config)}transform-{secrets.token_hex(6)}"
    top = target.placement.uri(config.pipeline.name, FOLDER, name)
    return Job(name, f"{top}/input/", f"{top}/output/")


def put_folder(target: Target, job: Job, folder: Path) -> list[str]:
    """Store the images of a folder as the job's; their paths from there.

    Raises:
        UsageError: there is none.
    """
    images = folder_images(folder)
    target.put_files((folder / name, f"{job.input_uri}{name}") for name in images)
    return images


def copy_prefix(target: Target, job: Job, uri: str) -> list[str]:
    """Copy the images of an S3 prefix within S3, as the model's role reads nothing but its jobs' part of the bucket.

    Raises:
        UsageError: there is none.
    """
    source, (to_bucket, to_prefix) = f"{uri.rstrip('/')}/", split_uri(job.input_uri)
    (bucket, prefix), client = split_uri(source), target.client("s3")
    images = [name for name in objects(target, source) if is_image_name(name)]
    if not images:
        raise UsageError(f"--data {uri}: there is no image below it; looked for: {', '.join(SUFFIXES)}")

    def copy(name: str) -> None:
        origin = {"Bucket": bucket, "Key": f"{prefix}{name}"}
        client.copy_object(CopySource=origin, Bucket=to_bucket, Key=f"{to_prefix}{name}", TaggingDirective="REPLACE")

    with service_errors(f"copy {uri} to {job.input_uri}"):
        for _ in in_threads(copy, images):
            pass
    return images


def approved_version(target: Target, group: str, wanted: str | None) -> str:
    """The ARN of a version by number or ARN, or of the newest approved one.

    Raises:
        UsageError: there is none, or it is not approved: SageMaker makes no model of such a version.
    """
    if wanted is None:
        approved = [found for found in control.models(target, group) if found["ModelApprovalStatus"] == "Approved"]
        if not approved:
            raise UsageError(f"Model package group {group!r} has no approved version; see: run_pipeline.py models")
        return str(approved[0]["ModelPackageArn"])
    arn = control.model_package_arn(target, group, wanted)
    status = control.model_package(target, arn)["ModelApprovalStatus"]
    if status != "Approved":
        raise UsageError(f"Version {wanted} is {status}; approve it with: run_pipeline.py approve {wanted}")
    return arn


@contextmanager
def made_model(target: Target, config: Config, job: Job, version_arn: str) -> Iterator[str]:
    """A model of the version for the length of the block, named as the job; network and role are the endpoint's."""
    aws, client = config.aws, target.client("sagemaker")
    vpc = {"SecurityGroupIds": list(aws.vpc.security_group_ids), "Subnets": list(aws.vpc.subnet_ids)}
    with service_errors(f"make model {job.name!r}"):
        client.create_model(
            ModelName=job.name,
            PrimaryContainer={"ModelPackageName": version_arn},
            ExecutionRoleArn=target.model_role(config),
            EnableNetworkIsolation=aws.network_isolation,
            **({"VpcConfig": vpc} if aws.vpc.subnet_ids else {}),
            **tags(target),
        )
    try:
        yield job.name
    finally:
        with service_errors(f"remove model {job.name!r}"):
            client.delete_model(ModelName=job.name)


def create(target: Target, config: Config, job: Job, instances: int) -> None:
    """CreateTransformJob; how many images are sent at a time is the server's to say, by /execution-parameters."""
    key, instance_type = config.aws.kms_key_arn, config.deploy.instance_type
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": job.input_uri}}
    with service_errors(f"create transform job {job.name!r}"):
        target.client("sagemaker").create_transform_job(
            TransformJobName=job.name,
            ModelName=job.name,
            MaxPayloadInMB=config.deploy.max_request_megabytes,
            BatchStrategy="SingleRecord",
            TransformInput={"DataSource": source, "ContentType": CONTENT_TYPE},
            TransformOutput={
                "S3OutputPath": job.output_uri, "Accept": ACCEPT, **({"KmsKeyId": key} if key else {}),
            },
            TransformResources={"InstanceType": instance_type, "InstanceCount": instances},
            **tags(target),
        )  # fmt: skip


def tags(target: Target) -> dict[str, Any]:
    """The configuration's tags, as a request has them."""
    return {"Tags": [{"Key": key, "Value": value} for key, value in target.tags.items()]} if target.tags else {}


def follow(target: Target, job: Job, look: Callable[[int], None]) -> dict[str, Any]:
    """Call `look` with the number of answers until the job has ended; the job as described then.

    Whoever interrupts it stops the job.

    Raises:
        PassingError: SageMaker was not reached several times in a row.
    """
    client, failed = target.client("sagemaker"), 0
    try:
        while True:
            try:
                with service_errors(f"follow transform job {job.name!r}"):
                    described: dict[str, Any] = client.describe_transform_job(TransformJobName=job.name)
                    look(len(objects(target, job.output_uri)))
            except PassingError:
                failed += 1
                if failed == control.WATCH_ATTEMPTS:
                    raise
            else:
                failed = 0
                if described["TransformJobStatus"] not in ACTIVE:
                    return described
            time.sleep(POLL_SECONDS[target.name])
    except KeyboardInterrupt:
        with service_errors(f"stop transform job {job.name!r}"):
            client.stop_transform_job(TransformJobName=job.name)
        raise


def objects(target: Target, uri: str) -> list[str]:
    """The keys below a prefix that ends with a slash, without it, in their order."""
    bucket, prefix = split_uri(uri)
    with service_errors(f"list {uri}"):
        pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [str(item["Key"]).removeprefix(prefix) for page in pages for item in page.get("Contents", [])]
    return [key for key in keys if key and not key.endswith("/")]
