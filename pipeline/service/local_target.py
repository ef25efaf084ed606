"""The local target: this machine, everything below one folder, its home.

Its clients are answered in this process by `pipeline.local`, which botocore does not notice.
"""

import functools
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.compile.placement import Placement, champion_uri, local_placement, models_uri
from pipeline.errors import DataSourceError, ServiceError
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage, copy, replacing
from pipeline.paths import shown
from pipeline.service.sources import files

if TYPE_CHECKING:
    from pipeline.compile.bundle import Bundle
    from pipeline.config.config import Config

LOCK_WAIT_SECONDS = 60.0
LOCAL_FOLDERS = (  # of a home
    "s3", "jobs", "executions", "endpoints", "functions", "definitions", "locks", "mounts", "packages", "reports",
    "images", "uploads", "mlflow",
)  # fmt: skip


class LocalTarget:
    """This machine, everything below `home`."""

    name = "local"
    tags: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        config: "Config | None",
        home: Path,
        *,
        cache: str = "bytes",
        tied: bool = False,
        reads_only: bool = False,
    ) -> None:
        """Without a configuration it runs a given definition; with `reads_only` a home that is not there is empty.

        `cache` is what counts as an unchanged step: see `pipeline.local.engine.cache`.
        """
        self.home = home.resolve()
        self.reports: Path | None = self.home / "reports"
        self.state = State(self.home, create=not reads_only)
        self.state.start_options, self.state.client = {"cache": cache, "tied": tied}, "command line"
        self.storage = Storage(self.state)
        functions = (config.aws.deploy_function, config.aws.inputs_function) if config else ()
        self.placement = local_placement(*functions)

    @functools.cached_property
    def session(self) -> Any:
        """The botocore session that this process answers."""
        from pipeline.local.sagemaker.session import core_session

        return core_session(self.state)

    @functools.cache  # noqa: B019  as long as the command
    def client(self, service: str) -> Any:
        """A client of boto3's kind, for SageMaker and its logs one that starts faster."""
        if service in ("sagemaker", "logs"):
            from pipeline.local.sagemaker.api import LocalApi
            from pipeline.local.sagemaker.session import LocalClient

            return LocalClient(LocalApi(self.state), service)
        return self.session.create_client(service)

    def holds(self, uri: str) -> bool:
        """Whether there is an object of that name, or any below it."""
        return self.storage.exists(uri)

    def put(self, uri: str, content: bytes) -> bool:
        """Store an object unless its name is taken; return whether it was stored."""
        if self.holds(uri):
            return False
        self.storage.write(uri, content)
        return True

    def put_tree(self, uri: str, folder: Path) -> bool:
        """Store copies of a folder's readable files, or of one file, unless something is there; return whether so."""
        if self.holds(uri):
            return False
        target = self.storage.path(uri)
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            if folder.is_file():
                copy(folder, unfinished / folder.name)
            else:
                for file in files(folder):
                    if not file.reason:
                        copy(Path(file.path), unfinished / file.relative)
            unfinished.rename(target)
        except BaseException as problem:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(problem, OSError) and target.exists():  # another process was quicker
                return False
            if isinstance(problem, FileNotFoundError):
                raise DataSourceError(f"{problem.filename} vanished while {folder} was copied; run again.") from problem
            raise
        return True

    def put_files(self, places: Iterable[tuple[Path, str]]) -> None:
        """Store files, each under a URI that is free."""
        for file, uri in places:
            copy(file, self.storage.path(uri))

    def read(self, uri: str) -> bytes:
        """Return an object."""
        return self.storage.read(uri)

    def problems(self, config: "Config", definition: dict[str, Any]) -> list[str]:
        """Return what is missing for a compiled definition, a sentence each: nothing here."""
        return []

    def model_role(self, config: "Config") -> str:
        """Return the role that models are served with."""
        return self.placement.role_arn

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other process changes pipelines and functions, where that can be had."""
        from pipeline.local.engine.runner_process import taken_lock

        with ExitStack() as held:
            try:
                held.enter_context(taken_lock(self.home / "locks" / "start", wait_seconds=LOCK_WAIT_SECONDS))
            except BlockingIOError as problem:
                raise ServiceError(
                    f"Another run_pipeline.py has been changing {shown(self.home)} for {LOCK_WAIT_SECONDS:.0f} s; "
                    "repeat the command once it has ended, or choose another --home."
                ) from problem
            yield

    def set_up(self, config: "Config") -> None:
        """Make what has to be beside the pipeline: functions, rule that calls one, server, idle time, schedule."""
        from pipeline.compile.bundle import DEPLOY, DESCRIBE_INPUTS, SERVER, bundle
        from pipeline.local.jobs.servers import put_image

        name = config.aws.deploy_function
        self.put_function(name, bundle(DEPLOY), deploy_environment(config, self.placement))
        self.put_function(config.aws.inputs_function, bundle(DESCRIBE_INPUTS), {})
        put_image(self.state, self.placement.inference_image, self.place_code(bundle(SERVER), "images/inference"))
        self.state.put("Rule", config.registry.model_package_group.lower(), {"FunctionName": name})
        self.state.put("Settings", "endpoints", {"idle_seconds": 60 * config.deploy.local_idle_minutes})
        self.set_up_schedule(config)

    def put_function(self, name: str, bundle: "Bundle", environment: Mapping[str, str]) -> None:
        """Make the `handler` of a bundle's entry point known as a function."""
        from pipeline.local.jobs.functions import put_function

        put_function(self.state, name, self.place_code(bundle, f"functions/{name}"), "handler", environment)

    def place_code(self, bundle: "Bundle", name: str) -> Path:
        """Write a bundle's files below the home unless they are there; return its entry point."""
        folder = self.home / f"{name}-{bundle.digest}"
        for file_name, content in bundle.files.items():
            if not (folder / file_name).is_file():
                with replacing(folder / file_name) as unfinished:
                    unfinished.write_bytes(content)
        return folder / bundle.entry_point

    def set_up_schedule(self, config: "Config") -> None:
        """What the stack makes on AWS: the expression of pipeline.yaml, switched off."""
        from pipeline.aws.schedule import schedule_name
        from pipeline.local.sagemaker.schedules import make_schedule

        name, expression = schedule_name(config), config.aws.retrain_schedule
        make_schedule(self.state, name, expression, pipeline_name=config.pipeline.name)

    def where(self, uri: str) -> str:
        """Return how a person opens an object."""
        return shown(self.storage.path(uri))

    def log_of(self, job_group: str, job_name: str) -> str:
        """Return where a person finds a job's log."""
        from pipeline.local.jobs.runtime import job_folder

        return shown(job_folder(self.home, job_group.removesuffix("s"), job_name) / "log.txt")

    def last_lines(self, log: str, count: int) -> list[str]:
        """Return the end of a log that `log_of` or `function_log` names; nothing if it cannot be read."""
        from pipeline.local.sandbox.process import last_lines

        return last_lines(Path(log), count)

    def function_log(self, execution_arn: str, step_name: str) -> str | None:
        """Return where a person finds the log of a Lambda step."""
        record = next((r for r in self.state.steps(execution_arn) if r["StepName"] == step_name), {})
        return self.log_of("", record["Job"]) if "Job" in record else None

    def endpoint_view(self, name: str, status: str) -> dict[str, str | None]:
        """Return name, status, url and note of an endpoint, here Asleep if its server has ended."""
        from pipeline.local.sagemaker.endpoints import address_of, is_asleep

        document = self.state.get("Endpoint", name)
        served = document if document and document["Server"] else None
        port, note = address_of(served) if served else (None, None)
        if served and is_asleep(served):
            note = f"Its server has ended; wake it with: run_pipeline.py invoke --endpoint {name} IMAGE"
            status = "Asleep"
        return {"name": name, "status": status, "url": f"http://127.0.0.1:{port}" if port else None, "note": note}

    def wake(self, name: str) -> None:
        """Start an endpoint's server again if it has ended, and wait until it answers."""
        from pipeline.local.sagemaker.endpoints import in_service

        in_service(self.state, name)


def deploy_environment(config: "Config", placement: Placement) -> dict[str, str]:
    """Return the deploy function's settings: here are no alarms, autoscaling, serverless endpoints, VPCs and keys."""
    deploy = config.deploy
    return {
        **dict.fromkeys(("ROLLBACK_ALARMS", "SUBNET_IDS", "SECURITY_GROUP_IDS", "KMS_KEY_ARN"), ""),
        **dict.fromkeys(("AUTOSCALING_MIN", "AUTOSCALING_MAX", "AUTOSCALING_TARGET", "SERVERLESS_MEMORY_MB"), "0"),
        "ENDPOINT_NAME": deploy.endpoint_name,
        "EXECUTION_ROLE_ARN": placement.role_arn,
        "MODELS_URI": models_uri(config, placement),
        "CHAMPION_URI": champion_uri(config, placement),
        "INSTANCE_TYPE": deploy.instance_type,
        "INITIAL_INSTANCE_COUNT": str(deploy.instance_count),
        "CANARY_FRACTION": str(deploy.canary_fraction),
        "CANARY_WAIT_SECONDS": str(deploy.canary_wait_seconds),
        "DATA_CAPTURE_PERCENT": str(deploy.data_capture_percent),
        "DATA_CAPTURE_URI": placement.uri(config.pipeline.name, "capture"),
        "SERVERLESS_MAX_CONCURRENCY": str(deploy.serverless.max_concurrency),
        "KEEP_VERSIONS": str(deploy.keep_versions),
        "NETWORK_ISOLATION": str(deploy.network_isolation).lower(),
        "TAGS": "{}",
    }
