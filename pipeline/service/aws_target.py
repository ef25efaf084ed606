"""The AWS target: an account, by the ordinary credential chain, and where in it the pipeline runs."""

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipeline.aws.errors import explain
from pipeline.aws.images import content_tag
from pipeline.aws.infra import ensure_model_group
from pipeline.aws.preflight import Wanted, find_problems
from pipeline.aws.requests import put_object
from pipeline.aws.stack import known_outputs
from pipeline.aws.stack_parameters import tags
from pipeline.compile.placement import INPUTS_STEP, Placement
from pipeline.errors import ServiceError, UsageError
from pipeline.service.sources import UNREADABLE, files
from pipeline.service.targets import in_threads, objects, split_uri

if TYPE_CHECKING:
    from pipeline.config.config import Config


class AwsTarget:
    """An AWS account; LocalTarget says what its methods do."""

    name = "aws"
    reports: Path | None = None

    def __init__(self, config: "Config") -> None:
        self.clients = aws_client(config.aws.region)
        self.placement = aws_placement(config, self.clients)
        self.tags: Mapping[str, str] = tags(config)

    def client(self, service: str) -> Any:
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
        """As here, and what is there with other content is replaced, which is said: somebody has changed it."""
        done = put_object(self.client("s3"), *split_uri(uri), content)
        if done == "replaced":
            warn(f"{uri} held something else than what belongs there; it was replaced.")
        return bool(done)

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Upload each visible file that is not there in its size, and a mark when all are; return whether any was."""
        places = {folder.name: (str(folder), folder.stat().st_size)} if folder.is_file() else {}
        for file in files(folder) if folder.is_dir() else ():
            if not file.reason:
                places[file.relative] = (file.path, file.size)
        was_whole, listed = self.has_object(whole_mark(uri)), objects(self, uri)
        missing = [name for name, (_, size) in places.items() if listed.get(name) != size]
        if missing and was_whole:
            warn(f"{uri}/{missing[0]}{and_more(missing)} differed from what was uploaded; uploaded again.")
        if added := sorted(listed.keys() - places.keys() - {UNREADABLE}):
            warn(f"{uri}/{added[0]}{and_more(added)} belongs to none of the files of {folder}; the job reads it, too.")
        self.put_files((Path(places[name][0]), f"{uri}/{name}") for name in missing)
        return self.put(whole_mark(uri), b"") or bool(missing)

    def put_files(self, places: Iterable[tuple[Path, str]]) -> None:
        """Upload files, some at the same time; the first failure, or Ctrl-C, ends it."""
        self.client("s3")  # made once, then shared
        for _ in in_threads(lambda place: self.upload(*place, in_parts_at_once=False), places):
            pass

    def upload(self, path: Path, uri: str, *, in_parts_at_once: bool = True) -> None:
        """Upload one file, in parts if it is large; a ServiceError if that fails."""
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig

        bucket, key = split_uri(uri)
        try:
            self.client("s3").upload_file(str(path), bucket, key, Config=TransferConfig(use_threads=in_parts_at_once))
        except S3UploadFailedError as error:
            cause = error.__context__  # what botocore raised
            reason = explain(cause if isinstance(cause, Exception) else error)
            raise ServiceError(f"Could not upload {path}: {reason}") from error

    def read(self, uri: str) -> bytes:
        bucket, key = split_uri(uri)
        content: bytes = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def problems(self, config: "Config", definition: dict[str, Any]) -> list[str]:
        """What the account lacks for a compiled definition, a sentence each; what could not be asked is said."""
        problems, denied = find_problems(Wanted(self.client, config, self.placement, definition))
        if denied:
            warn(f"Not checked, as AWS denies it to you: {', '.join(denied)}.")
        return problems

    def alone(self) -> AbstractContextManager[object]:
        return nullcontext()

    def model_role(self, config: "Config") -> str:
        """The endpoint's role, of the stack; without a stack the role that pipeline.yaml names."""
        return known_outputs(self.client, config.aws.project).get("EndpointRoleArn") or self.placement.role_arn

    def set_up(self, config: "Config") -> None:
        """Make the model package group; the rest is the stack's."""
        ensure_model_group(self.client, config)

    def where(self, uri: str) -> str:
        return uri

    def log_of(self, job_group: str, job_name: str) -> str:
        return f"/aws/sagemaker/{job_group} {job_name}"

    def last_lines(self, log: str, count: int) -> list[str]:
        """The end of the newest stream of that prefix, or of the whole group; a job has one for each instance."""
        logs, (group, _, prefix) = self.client("logs"), log.partition(" ")
        newest = {"logStreamNamePrefix": f"{prefix}/"} if prefix else {"orderBy": "LastEventTime", "descending": True}
        try:
            streams = logs.describe_log_streams(logGroupName=group, **newest)["logStreams"]
            stream = max(streams, key=lambda found: found.get("lastEventTimestamp", 0))["logStreamName"]
            request = {"logGroupName": group, "logStreamName": stream, "startFromHead": False, "limit": count}
            events = logs.get_log_events(**request)["events"]
        except (ClientError, ValueError):  # it cannot be read, or is not there yet; why the step failed has been told
            return []
        return [event["message"].rstrip() for event in events][-count:]

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        names = {INPUTS_STEP: self.placement.inputs_function}
        return f"/aws/lambda/{names.get(step_name, self.placement.deploy_function)}"

    def endpoint_view(self, name: str, status: str) -> dict[str, str | None]:
        url = f"https://runtime.sagemaker.{self.placement.region}.amazonaws.com/endpoints/{name}/invocations"
        return {"name": name, "status": status, "url": url, "note": None}


def aws_placement(config: "Config", client: Callable[[str], Any]) -> Placement:
    """Return the placement that pipeline.yaml's `aws` section names; what it leaves null, the stack has made."""
    aws = config.aws
    named = {"role_arn": aws.role_arn, "training_image": aws.training_image, "inference_image": aws.inference_image}
    missing = [f"aws.{name}" for name, value in named.items() if not value]
    made = known_outputs(client, config.aws.project) if missing or not aws.bucket else {}
    if missing and not made:
        raise UsageError(
            f"pipeline.yaml: {', '.join(missing)} are null and stack {config.aws.project!r} has not been made in "
            f"{aws.region}; make it with: run_pipeline.py infra --target aws"
        )
    if config.registry.approval_status == "Approved" and not aws.auto_approve:
        raise UsageError(
            "pipeline.yaml: registry.approval_status is Approved, but on AWS every version waits for `approve`; set it "
            "to auto, or aws.auto_approve to true."
        )

    def output(name: str) -> str:
        if name in made:
            return made[name]
        raise ServiceError(
            f"Stack {config.aws.project!r} is of an earlier version of this project: it lacks {name}; bring it "
            "up to date with: run_pipeline.py infra --target aws"
        )

    role_arn = aws.role_arn or output("PipelineRoleArn")
    account_id = role_arn.split(":")[4]

    def image(name: str) -> str:  # of this version of the code, in the stack's repository
        return f"{output(f'{name.title()}RepositoryUri')}:{content_tag(name)}"

    return Placement(
        region=aws.region,
        account_id=account_id,
        bucket=aws.bucket or made.get("BucketName") or f"sagemaker-{aws.region}-{account_id}",
        role_arn=role_arn,
        job_role_arn=aws.job_role_arn or aws.role_arn or output("JobRoleArn"),
        training_image=aws.training_image or image("training"),
        inference_image=aws.inference_image or image("inference"),
        deploy_function=aws.deploy_function,
        inputs_function=aws.inputs_function,
        auto_approves=aws.auto_approve,
        mlflow_tracking_server_arn=aws.mlflow_tracking_server_arn,
    )


def aws_client(region: str) -> Callable[[str], Any]:
    """Return a function that makes boto3 clients by the ordinary credential chain, each once."""
    import boto3

    return functools.cache(boto3.Session(region_name=region).client)


def warn(sentence: str) -> None:
    """Print a sentence to standard error, on which no document is."""
    print(sentence, file=sys.stderr)


def and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def whole_mark(uri: str) -> str:
    """Return the object that says that all of a tree is there; not below its prefix, which jobs read."""
    bucket, key = split_uri(uri)
    top, _, rest = key.partition("/")
    return f"s3://{bucket}/{top}/whole/{rest}"
