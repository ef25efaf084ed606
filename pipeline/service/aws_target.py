"""The AWS target: an account, by the ordinary credential chain, and where in it the pipeline runs."""

import functools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compile.placement import Placement
from pipeline.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from pipeline.config.config import Config

UPLOADS_AT_ONCE = 10  # as many connections as a client keeps


class AwsTarget:
    """An AWS account, by the ordinary credential chain."""

    name = "aws"
    reports: Path | None = None

    def __init__(self, config: "Config") -> None:
        from pipeline.aws.stack_parameters import tags

        self.clients = aws_client(config.aws.region)
        self.placement = aws_placement(config, self.clients)
        self.tags: Mapping[str, str] = tags(config)

    def client(self, service: str) -> Any:
        """A boto3 client."""
        return self.clients(service)

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or a whole tree below it."""
        return self.has_object(uri) or self.has_object(whole_mark(uri))

    def has_object(self, uri: str) -> bool:
        """Whether there is an object of exactly that name: it is the first of those that begin so."""
        bucket, key = split_uri(uri)
        found = self.client("s3").list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        return bool(found) and bool(found[0]["Key"] == key)

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken."""
        bucket, key = split_uri(uri)
        if self.has_object(uri):
            return False
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
        return True

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Upload every visible file, and a mark when all are there: an upload that was interrupted is begun again."""
        from pipeline.service.sources import files

        if self.holds(uri):
            return False
        if folder.is_file():
            self.upload(str(folder), f"{uri}/{folder.name}")
        else:
            self.upload_all((file.path, f"{uri}/{file.relative}") for file in files(folder) if not file.reason)
        return self.put(whole_mark(uri), b"")

    def put_files(self, places: Iterable[tuple[Path, str]]) -> None:
        """Some at the same time."""
        self.upload_all((str(file), uri) for file, uri in places)

    def upload_all(self, places: Iterable[tuple[str, str]]) -> None:
        """Many files, some at the same time; the first failure, or Ctrl-C, ends it."""
        self.client("s3")  # made once, then shared
        pool = ThreadPoolExecutor(UPLOADS_AT_ONCE)
        try:
            for _ in pool.map(lambda place: self.upload(*place, alone=False), places):
                pass
        finally:
            pool.shutdown(cancel_futures=True)

    def upload(self, path: str, uri: str, *, alone: bool = True) -> None:
        """One file, in parts if it is large; those at the same time if no other file is being uploaded.

        Raises:
            ServiceError: it could not be stored.
        """
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        from pipeline.aws.errors import explain

        bucket, key = split_uri(uri)
        try:
            self.client("s3").upload_file(path, bucket, key, Config=TransferConfig(use_threads=alone))
        except S3UploadFailedError as problem:
            reason = problem.__context__  # what botocore raised
            said = explain(reason) if isinstance(reason, Exception) else str(problem)
            raise ServiceError(f"Could not upload {path}: {said}") from problem

    def read(self, uri: str) -> bytes:
        """An object."""
        bucket, key = split_uri(uri)
        content: bytes = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def alone(self) -> AbstractContextManager[object]:
        """AWS has no such thing."""
        return nullcontext()

    def model_role(self, config: "Config") -> str:
        """The endpoint's, of the stack; without a stack the role that pipeline.yaml states."""
        from pipeline.aws.stack import known_outputs
        from pipeline.aws.stack_parameters import stack_name

        return known_outputs(self.client, stack_name(config)).get("EndpointRoleArn") or self.placement.role_arn

    def set_up(self, config: "Config") -> None:
        """The model package group; the rest of the account's infrastructure is the stack's."""
        from pipeline.aws import model_group

        model_group.ensure(self.client, config)

    def where(self, uri: str) -> str:
        """The URI itself."""
        return uri

    def example(self, uri: str) -> str | None:
        """None: the object is not on this machine."""
        return None

    def log_of(self, job_group: str, job_name: str) -> str:
        """The CloudWatch log group and stream prefix."""
        return f"/aws/sagemaker/{job_group} {job_name}"

    def last_lines(self, log: str, count: int) -> list[str]:
        """The end of the stream of that prefix in CloudWatch, of the group's newest stream without one."""
        from pipeline.aws.job_logs import last_lines

        group, _, prefix = log.partition(" ")
        return last_lines(self.client("logs"), group, prefix, count)

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """The function's log group."""
        return f"/aws/lambda/{self.placement.deploy_function}"

    def endpoint_view(self, name: str, status: str) -> dict[str, str | None]:
        """With SageMaker Runtime's address."""
        url = f"https://runtime.sagemaker.{self.placement.region}.amazonaws.com/endpoints/{name}/invocations"
        return {"name": name, "status": status, "url": url, "note": None}


def aws_placement(config: "Config", client: Callable[[str], Any]) -> Placement:
    """The placement that pipeline.yaml's `aws` section states; what it leaves null comes from the stack's outputs.

    Raises:
        UsageError: it leaves something null, and there is no stack.
    """
    aws = config.aws
    if aws.role_arn and aws.training_image and aws.inference_image and aws.bucket:
        made: dict[str, str] = {}
    else:
        made = stack_outputs(config, client)
    role_arn = aws.role_arn or made["PipelineRoleArn"]
    account_id = role_arn.split(":")[4]
    return Placement(
        region=aws.region,
        account_id=account_id,
        bucket=aws.bucket or made.get("BucketName") or f"sagemaker-{aws.region}-{account_id}",
        role_arn=role_arn,
        training_image=aws.training_image or pushed_image("training", made),
        inference_image=aws.inference_image or pushed_image("inference", made),
        deploy_function=aws.deploy_function,
    )


def stack_outputs(config: "Config", client: Callable[[str], Any]) -> dict[str, str]:
    """What `infra` made.

    Raises:
        UsageError: nothing yet, and pipeline.yaml does not state a role and images of its own.
    """
    from pipeline.aws.stack import known_outputs
    from pipeline.aws.stack_parameters import stack_name

    made = known_outputs(client, stack_name(config))
    aws = config.aws
    stated = {"role_arn": aws.role_arn, "training_image": aws.training_image, "inference_image": aws.inference_image}
    missing = [f"aws.{name}" for name, value in stated.items() if value is None]
    if not made and missing:
        raise UsageError(
            f"pipeline.yaml: {', '.join(missing)} are null and stack {stack_name(config)!r} has not been made in "
            f"{aws.region}; make it with: run_pipeline.py infra --target aws"
        )
    return made


def pushed_image(name: str, made: Mapping[str, str]) -> str:
    """The image of this version of the code in the stack's repository."""
    from pipeline.aws.images import content_tag

    return f"{made[f'{name.title()}RepositoryUri']}:{content_tag(name)}"


def aws_client(region: str) -> Callable[[str], Any]:
    """boto3 clients by the ordinary credential chain, each made once."""
    import boto3

    session = boto3.Session(region_name=region)
    return functools.cache(session.client)


def whole_mark(uri: str) -> str:
    """The object that says that all of a tree is there; not below its prefix, which jobs read."""
    bucket, key = split_uri(uri)
    top, _, rest = key.partition("/")
    return f"s3://{bucket}/{top}/whole/{rest}"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key.

    Raises:
        ServiceError: not an S3 URI.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ServiceError(f"{uri!r} is not an S3 URI.")
    return bucket, key
