"""A batch transform job for images: each is one request to the model's own server, each answer an object `<image>.out`.

Source: AWS guide, "batch-transform"; API, CreateTransformJob.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.aws.stack_parameters import VERSION_TAG, serving_prefix
from pipeline.config.config import Config
from pipeline.errors import UsageError
from pipeline.service.executions import poll
from pipeline.service.images import SUFFIXES, Row, folder_images, is_image_name
from pipeline.service.models import copied_container, model_package
from pipeline.service.predictor import ACCEPT, CONTENT_TYPE, answered
from pipeline.service.targets import Target, ask, copy_objects, in_threads, objects, service_errors, split_uri

FOLDER = "transform"  # below the pipeline's name in the bucket; aws/base.yaml gives the model's role access to it
POLL_SECONDS = {"local": 0.3, "aws": 15.0}
ACTIVE = ("InProgress", "Stopping")


class Job(NamedTuple):
    """A transform job: its name, and the prefixes of its images and answers, which end with a slash."""

    name: str
    input_uri: str
    output_uri: str


def new_job(target: Target, config: Config) -> Job:
    name = f"{serving_prefix(config)}transform-{secrets.token_hex(6)}"
    top = target.placement.uri(config.pipeline.name, FOLDER, name)
    return Job(name, f"{top}/input/", f"{top}/output/")


def put_images(target: Target, job: Job, source: str) -> list[str]:
    """Store the images of a folder, or of an S3 prefix, as the job's; return their paths from there.

    The model's role reads nothing but its jobs' part of the bucket.
    """
    if source.startswith("s3://"):
        images = [name for name in objects(target, source) if is_image_name(name)]
        if not images:
            raise UsageError(f"--data {source}: there is no image below it; looked for: {', '.join(SUFFIXES)}")
        copy_objects(target, source, job.input_uri, images)
        return images
    folder = Path(source)
    if not folder.is_dir():
        raise UsageError(f"--data {source}: there is no such folder; a folder or s3://bucket/prefix is accepted.")
    images = folder_images(folder)
    target.put_files((folder / name, f"{job.input_uri}{name}") for name in images)
    return images


@contextmanager
def made_model(target: Target, config: Config, job: Job, version_arn: str) -> Iterator[None]:
    """Make a model of the version for the block, named as the job; network and role are the endpoint's.

    That role reads no job's files, so the archive is copied beside the images.
    """
    aws, copy = config.aws, f"{job.input_uri.removesuffix('input/')}model.tar.gz"
    vpc = {"SecurityGroupIds": list(aws.vpc.security_group_ids), "Subnets": list(aws.vpc.subnet_ids)}
    request = {
        "ModelName": job.name,
        "PrimaryContainer": copied_container(target, model_package(target, version_arn), copy),
        "ExecutionRoleArn": target.model_role(config),
        "EnableNetworkIsolation": config.deploy.network_isolation,
        **({"VpcConfig": vpc} if aws.vpc.subnet_ids else {}),
    }
    ask(target, f"make model {job.name!r}", "create_model", **request, **tags(target, {VERSION_TAG: version_arn}))
    try:
        yield
    finally:
        ask(target, f"remove model {job.name!r}", "delete_model", ModelName=job.name)
        bucket, key = split_uri(copy)
        with service_errors(f"remove {copy}"):
            target.client("s3").delete_object(Bucket=bucket, Key=key)


def create(target: Target, config: Config, job: Job, instances: int) -> None:
    """CreateTransformJob; how many images are sent at a time is the server's to say, by /execution-parameters."""
    key, instance_type = config.aws.kms_key_arn, config.deploy.instance_type
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": job.input_uri}}
    output = {"S3OutputPath": job.output_uri, "Accept": ACCEPT, **({"KmsKeyId": key} if key else {})}
    request = {
        "TransformJobName": job.name,
        "ModelName": job.name,
        "MaxPayloadInMB": config.deploy.max_request_megabytes,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {"DataSource": source, "ContentType": CONTENT_TYPE},
        "TransformOutput": output,
        "TransformResources": {"InstanceType": instance_type, "InstanceCount": instances},
    }
    ask(target, f"create transform job {job.name!r}", "create_transform_job", **request, **tags(target))


def tags(target: Target, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    found = {**target.tags, **more}
    return {"Tags": [{"Key": key, "Value": value} for key, value in found.items()]} if found else {}


def follow(target: Target, job: Job, look: Callable[[int], None]) -> dict[str, Any]:
    """Call `look` with the number of answers until the job has ended; return it then. An interruption stops the job."""
    which = {"TransformJobName": job.name}

    def end() -> dict[str, Any] | None:
        described = ask(target, f"follow transform job {job.name!r}", "describe_transform_job", **which)
        look(len(objects(target, job.output_uri)))
        return None if described["TransformJobStatus"] in ACTIVE else described

    try:
        return poll(end, lambda: POLL_SECONDS[target.name])
    except KeyboardInterrupt:
        ask(target, f"stop transform job {job.name!r}", "stop_transform_job", **which)
        raise


def rows(target: Target, job: Job, images: list[str]) -> Iterator[Row]:
    """Yield each image's answer, in their order; of one that has none, where to look."""
    answers = objects(target, job.output_uri)
    missing = f"There is no answer; see the job's log: {target.log_of('TransformJobs', job.name)}"
    target.client("s3")  # made once, then shared

    def row_of(name: str) -> Row:
        if f"{name}.out" not in answers:
            return {"image": name, "error": missing}
        return {"image": name, **answered(target.read(f"{job.output_uri}{name}.out"))}

    yield from in_threads(row_of, images)
