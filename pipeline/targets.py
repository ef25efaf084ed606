"""Where a pipeline runs: this machine, or AWS. Both give boto3 clients and a place for artifacts; nothing else differs.

The local target's clients are answered in this process by `pipeline.local`; botocore validates and parses for both.
"""

import functools
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import ServiceError, UsageError
from pipeline.placement import Placement, local_placement

if TYPE_CHECKING:
    from pipeline.config import Config

LOCK_WAIT_SECONDS = 60.0
POLL_SECONDS = {"local": 0.05, "aws": 5.0}
LOCAL_FOLDERS = ("s3", "jobs", "executions", "endpoints", "functions", "definitions", "locks", "mounts")  # of a home


class Target(Protocol):
    """What the commands need of a target."""

    name: str
    placement: Placement

    def client(self, service: str) -> Any:
        """A boto3 client."""

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken; whether it was stored."""

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Store every visible file below a folder, or one file, unless something is there; whether it was stored."""

    def read(self, uri: str) -> bytes:
        """An object."""

    def set_up(self, config: "Config") -> None:
        """What has to exist beside the pipeline."""

    def alone(self) -> AbstractContextManager[object]:
        """A block in which no other process changes pipelines and functions, where that can be had."""

    def where(self, uri: str) -> str:
        """How a person opens an object."""

    def example(self, uri: str) -> str | None:
        """A file below a URI that a person can open by a path."""

    def log_of(self, job_group: str, job_name: str) -> str:
        """Where a person finds a job's log."""

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """Where a person finds the log of a Lambda step."""

    def endpoint_url(self, name: str) -> str | None:
        """Where the endpoint is reached."""


class LocalTarget:
    """This machine; everything below `home`."""

    name = "local"

    def __init__(self, config: "Config | None", home: Path, *, use_cache: bool = True, tied: bool = False) -> None:
        """Without a configuration it runs a given definition: clients then bypass botocore."""
        from pipeline.local.state import State
        from pipeline.local.storage import Storage

        self.home = home.resolve()
        self.direct = config is None
        self.state = State(self.home)
        self.state.start_options = {"use_cache": use_cache, "tied": tied}
        self.storage = Storage(self.state)
        self.placement = local_placement(config.aws.deploy_function if config else "deploy")

    @functools.cached_property
    def session(self) -> Any:
        """The boto3 session that this process answers."""
        from pipeline.local.session import local_session

        return local_session(self.state)

    @functools.cache  # noqa: B019  as long as the command
    def client(self, service: str) -> Any:
        """A boto3 client, or its stand-in that starts faster."""
        if self.direct:
            from pipeline.local.direct import DirectClient

            return DirectClient(self.state, service)
        return self.session.client(service)

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""
        return self.storage.exists(uri)

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken."""
        if self.holds(uri):
            return False
        self.storage.write(uri, content)
        return True

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Hard links where possible: the user's files are neither copied nor changed."""
        from pipeline.local.storage import place
        from pipeline.sources import files

        if self.holds(uri):
            return False
        target = self.storage.path(uri)
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        if folder.is_file():
            place(folder, unfinished / folder.name)
        else:
            for file in files(folder):
                place(Path(file.path), unfinished / file.relative)
        try:
            unfinished.rename(target)
        except OSError:  # another process was quicker
            shutil.rmtree(unfinished)
            if not target.exists():
                raise
            return False
        return True

    def read(self, uri: str) -> bytes:
        """An object."""
        return self.storage.read(uri)

    def alone(self) -> AbstractContextManager[object]:
        """A lock of the home."""
        from pipeline.local.runner_process import taken_lock

        return taken_lock(self.home / "locks" / "start", wait_seconds=LOCK_WAIT_SECONDS)

    def set_up(self, config: "Config") -> None:
        """The deploy function, the rule that calls it on approvals, and the endpoints' idle time."""
        from pipeline.bundle import deploy_bundle
        from pipeline.local.functions import put_function

        bundle = deploy_bundle()
        name = config.aws.deploy_function
        folder = self.home / "functions" / f"{name}-{bundle.digest}"
        folder.mkdir(parents=True, exist_ok=True)
        for file_name, content in bundle.files.items():
            if not (folder / file_name).is_file():
                unfinished = folder / f".{file_name}.{secrets.token_hex(4)}"
                unfinished.write_bytes(content)
                unfinished.replace(folder / file_name)
        environment = deploy_environment(config, self.placement)
        put_function(self.state, name, folder / bundle.entry_point, "deploy.handler", environment)
        self.state.put("Rule", config.registry.model_package_group.lower(), {"FunctionName": name})
        self.state.put("Settings", "endpoints", {"idle_seconds": 60 * config.deploy.local_idle_minutes})

    def where(self, uri: str) -> str:
        """The file, relative to the working directory if it lies below it."""
        return shown(self.storage.path(uri))

    def example(self, uri: str) -> str | None:
        """The first file below the URI."""
        from pipeline.local.storage import files_below

        folder = self.storage.path(uri)
        return next((shown(file) for file in files_below(folder)), None) if folder.is_dir() else None

    def log_of(self, job_group: str, job_name: str) -> str:
        """The job's log file."""
        return shown(self.home / "jobs" / job_name / "log.txt")

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """The log file of the call."""
        record = next((r for r in self.state.steps(execution_arn) if r["StepName"] == step_name), {})
        return self.log_of("", record["Job"]) if "Job" in record else None

    def endpoint_url(self, name: str) -> str | None:
        """The server's own address, while it runs."""
        document = self.state.get("Endpoint", name)
        server = (document or {}).get("Server")
        return f"http://127.0.0.1:{server['port']}" if server else None


class AwsTarget:
    """An AWS account, by the ordinary credential chain."""

    name = "aws"

    def __init__(self, config: "Config") -> None:
        self.placement = aws_placement(config)

    @functools.cache  # noqa: B019  as long as the command
    def client(self, service: str) -> Any:
        """A boto3 client."""
        return aws_client(self.placement.region)(service)

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""
        return self.first_key(uri) == split_uri(uri)[1] or self.first_key(f"{uri}/") is not None

    def first_key(self, uri: str) -> str | None:
        """The first key that begins as the URI says."""
        bucket, prefix = split_uri(uri)
        found = self.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        return found[0]["Key"] if found else None

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken."""
        bucket, key = split_uri(uri)
        if self.holds(uri):
            return False
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
        return True

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Upload every visible file."""
        from pipeline.sources import files

        bucket, key = split_uri(uri)
        if self.holds(uri):
            return False
        if folder.is_file():
            self.client("s3").upload_file(str(folder), bucket, f"{key}/{folder.name}")
        else:
            for file in files(folder):
                self.client("s3").upload_file(file.path, bucket, f"{key}/{file.relative}")
        return True

    def read(self, uri: str) -> bytes:
        """An object."""
        bucket, key = split_uri(uri)
        content: bytes = self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def alone(self) -> AbstractContextManager[object]:
        """AWS has no such thing."""
        return nullcontext()

    def set_up(self, config: "Config") -> None:
        """Nothing: the account's infrastructure is not made by the pipeline."""

    def where(self, uri: str) -> str:
        """The URI itself."""
        return uri

    def example(self, uri: str) -> str | None:
        """None: the object is not on this machine."""
        return None

    def log_of(self, job_group: str, job_name: str) -> str:
        """The CloudWatch log group and stream prefix."""
        return f"/aws/sagemaker/{job_group} {job_name}"

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """The function's log group."""
        return f"/aws/lambda/{self.placement.deploy_function}"

    def endpoint_url(self, name: str) -> str | None:
        """SageMaker Runtime's address."""
        return f"https://runtime.sagemaker.{self.placement.region}.amazonaws.com/endpoints/{name}/invocations"


def aws_placement(config: "Config") -> Placement:
    """The placement that pipeline.yaml's `aws` section states; what it leaves null comes from the stack's outputs.

    Raises:
        UsageError: it leaves something null, and there is no stack.
    """
    aws = config.aws
    if aws.role_arn and aws.training_image and aws.inference_image and aws.bucket:
        made: dict[str, str] = {}
    else:
        made = stack_outputs(config)
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


def stack_outputs(config: "Config") -> dict[str, str]:
    """What `infra` made.

    Raises:
        UsageError: nothing yet, and pipeline.yaml does not state a role and images of its own.
    """
    from pipeline.aws.stack import outputs
    from pipeline.aws.stack_parameters import stack_name

    made = outputs(aws_client(config.aws.region), stack_name(config))
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
    """boto3 clients by the ordinary credential chain."""
    import boto3

    session = boto3.Session(region_name=region)
    return functools.cache(session.client)


def deploy_environment(config: "Config", placement: Placement) -> dict[str, str]:
    """What the deploy function is told once, for events that do not carry it."""
    from pipeline.champion import champion_uri

    return {
        "ENDPOINT_NAME": config.deploy.endpoint_name,
        "EXECUTION_ROLE_ARN": placement.role_arn,
        "INSTANCE_TYPE": config.deploy.instance_type,
        "INITIAL_INSTANCE_COUNT": str(config.deploy.instance_count),
        "CHAMPION_URI": champion_uri(config, placement),
    }


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


def shown(path: Path) -> str:
    """A path as a person would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
