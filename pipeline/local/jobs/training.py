"""Runs a training job, alone as a Training step or as one trial of a search.

The contract is that of "use your own training algorithms" in the SageMaker guide: the configuration files, one
directory a channel, metrics read from the log by regular expressions, model.tar.gz and output.tar.gz, exit codes and
the failure file.
"""

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.runtime import (
    FAILURE_REASON_LIMIT,
    LINK_FROM_BYTES,
    Runtime,
    StepCall,
    StepFailure,
    StepResult,
    arn,
    failure_reason,
    host_directories,
    host_names,
    not_run,
    now,
    run_hosts,
    succeeded,
    use_of_ports,
)
from pipeline.local.jobs.toolkit import (
    ML,
    LaunchError,
    input_data_config,
    instance_groups,
    launcher_of,
    resource_config,
    training_command,
)
from pipeline.local.sandbox.launcher import WarmParent
from pipeline.local.sandbox.process import Command, Exit, JobDirectory, JobProcess
from pipeline.local.store.state import Document
from pipeline.local.store.storage import Storage, copy, files_below, pack, place

DEFAULT_MAX_RUNTIME_SECONDS = 86400
SCRAPED_CHARACTERS = 8192  # from the end of a line: `.*loss=` takes time that grows with the square of its length
CODE_CHANNEL = f"{ML}/input/data/code"  # in which an archive may be unpacked
FAILURE_FILE = f"{ML}/output/failure"
STOP_FILE = f"{ML}/output/stopped"  # a script that ends its own job, on the service by StopTrainingJob, says why here
STOP_VARIABLE = "JOB_STOP_FILE"
CHECKPOINTS = f"{ML}/checkpoints"  # where CheckpointConfig names no LocalPath
SECONDS_BETWEEN_UPLOADS = 1.0  # of checkpoints
SPINS = "10000"  # of GNU OpenMP's threads before they sleep, as in the training image: see its Dockerfile
FOLDERS = ("model", "output/data", "output/tensors", "output/profiler", "input/config", "input/data", "checkpoints")
CONFIG_FILES = {
    "debughookconfig": "DebugHookConfig",
    "profilerconfig": "ProfilerConfig",
    "checkpointconfig": "CheckpointConfig",
    "tensorboardoutputconfig": "TensorBoardOutputConfig",
}

OnMetric = Callable[[str, float], None]


async def run_training(call: StepCall, runtime: Runtime) -> StepResult:
    """One Training step.

    Raises:
        StepFailure: the job failed, or ran out of time.
    """
    job = TrainingJob(call.job_name, call.arguments, runtime)
    metadata = {"TrainingJob": {"Arn": job.document["TrainingJobArn"]}}
    ended = await job.run(lambda name, value: None)
    status = job.document["TrainingJobStatus"]
    if status != "Completed":
        code = "SageMaker.JOB_INTERNAL_ERROR" if ended.cause == "lost" else None
        raise StepFailure(job.document.get("FailureReason") or status, code=code, metadata=metadata)
    return StepResult(job.document, metadata, [job.output_uri])


class TrainingJob:
    """One training job; `document` is what DescribeTrainingJob answers."""

    def __init__(
        self,
        name: str,
        request: Mapping[str, Any],
        runtime: Runtime,
        *,
        threads: int | None = None,
        parent: WarmParent | None = None,
    ) -> None:
        self.runtime, self.threads, self.parent = runtime, threads, parent
        count = sum(count for _, _, count in instance_groups(request))
        self.hosts = host_directories(name, count, runtime, isolated=bool(request.get("EnableNetworkIsolation")))
        self.output_uri = f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/output"
        self.document: Document = {
            "TrainingJobName": name,
            "TrainingJobArn": arn("training-job", name),
            **request,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "CreationTime": now(),
            "LastModifiedTime": now(),
        }
        definitions = (request.get("AlgorithmSpecification") or {}).get("MetricDefinitions") or []
        self.metrics = {found["Name"]: compiled(found["Regex"]) for found in definitions}
        self.values: dict[str, tuple[float, float]] = {}
        self.checkpoints: list[Checkpoints] = []
        self.processes: list[JobProcess] = []
        self.stopping = False

    @property
    def limit_seconds(self) -> float:
        """MaxRuntimeInSeconds, or the service's default."""
        condition = self.document.get("StoppingCondition") or {}
        return float(condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS))

    async def run(self, on_metric: OnMetric) -> Exit:
        """Lay out, run, collect. A failure of the script is in `document`, not raised.

        Raises:
            StepFailure: the script could not be started.
        """
        self.save()
        try:
            async with use_of_ports(len(self.hosts)):
                await asyncio.to_thread(self.prepare)
                if self.stopping:
                    self.stop()
                self.document.update(SecondaryStatus="Training", TrainingStartTime=now())
                self.save()
                host, ended = await self.run_processes(on_metric)
            await asyncio.to_thread(self.collect)
        except asyncio.CancelledError:
            self.collect()
            self.finish("Stopped")
            raise
        except (PipelineError, OSError) as problem:
            failure = not_run(problem, {})
            self.finish("Failed", reason=str(failure))
            raise failure from problem
        self.judge(host, ended)
        return ended

    async def run_processes(self, on_metric: OnMetric) -> tuple[JobDirectory, Exit]:
        """Run the script on every host, metrics read and checkpoints kept meanwhile; see `run_hosts`."""
        uploads = [asyncio.create_task(kept.keep_uploading()) for kept in self.checkpoints]
        try:
            return await run_hosts(self.processes, self.limit_seconds, lambda line: self.scrape(line, on_metric))
        finally:
            for upload in uploads:
                upload.cancel()

    def stop(self) -> None:
        """StopTrainingJob: the script is asked to end, and what it has written counts."""
        self.stopping = True
        for process in self.processes:
            process.stop()

    def prepare(self) -> None:
        """Lay out the tree of every host, and find the command.

        Raises:
            PipelineError: an input, the script or the hosts cannot be had here.
        """
        names = host_names(len(self.hosts))
        if len(self.hosts) > 1 and not self.hosts[0].hosts:
            raise LaunchError(
                f"The job has {len(names)} hosts, which could not find each other by name: that needs mount "
                "namespaces, which this machine does not allow; ask for one instance."
            )
        for rank, job in enumerate(self.hosts):
            resources = resource_config(self.document, names, rank)
            self.lay_out(job, resources)
            command = training_command(self.document, resources, job, self.runtime.storage)
            self.runtime.localize_programs(command.arguments, job)
            mount, api = self.runtime.mount, self.runtime.api
            self.processes.append(JobProcess(job, self.limited(command), mount, api=api, parent=self.parent))

    def limited(self, command: Command) -> Command:
        """The command, told where to say that it stops itself, and to use its share of the processors among trials."""
        own = {STOP_VARIABLE: STOP_FILE, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPINS)}
        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(self.threads)
        return Command(command.arguments, {**own, **command.environment}, command.folder)

    def lay_out(self, job: JobDirectory, resources: Document) -> None:
        """The tree that a host's container finds."""
        for folder in FOLDERS:
            (job.tree / folder).mkdir(parents=True, exist_ok=True)
        link_from_bytes = 0 if self.parent else LINK_FROM_BYTES  # what so many jobs read is not copied for each
        for channel in self.document.get("InputDataConfig") or []:
            source = channel["DataSource"]["S3DataSource"]
            wanted = source.get("InstanceGroupNames")
            groups = [group for group in resources["instance_groups"] if group["instance_group_name"] in (wanted or [])]
            hosts = [host for group in groups for host in group["hosts"]] if wanted else resources["hosts"]
            if resources["current_host"] in hosts:
                folder = job.tree / "input/data" / channel["ChannelName"]
                host, kept = (hosts.index(resources["current_host"]), len(hosts)), [job.inside(CODE_CHANNEL)]
                self.runtime.place_input(source, folder, job, host=host, written=kept, link_from_bytes=link_from_bytes)
        if config := self.document.get("CheckpointConfig"):
            self.checkpoints.append(Checkpoints(config, job, self.runtime.storage))
            self.checkpoints[-1].restore()
        files: dict[str, Any] = {
            "hyperparameters": self.document.get("HyperParameters") or {},
            "inputdataconfig": input_data_config(self.document),
            "resourceconfig": resources,
            **{name: self.document.get(member) for name, member in CONFIG_FILES.items()},
        }
        for name, content in files.items():
            if content is not None:
                (job.tree / f"input/config/{name}.json").write_text(self.runtime.json_text(content, job))

    def scrape(self, line: str, on_metric: OnMetric) -> None:
        """Read metrics from one line, as the service does: the first group of the first match, if it is a number."""
        for name, pattern in self.metrics.items():
            match = pattern.search(line[-SCRAPED_CHARACTERS:])
            value = as_number(match[1]) if match and match.groups() else None
            if value is not None:
                self.values[name] = (value, now())
                on_metric(name, value)

    def collect(self) -> None:
        """Model, output data and checkpoints to S3; also after a stop, as on the service."""
        self.document["ModelArtifacts"] = {"S3ModelArtifacts": self.upload_model()}
        data = self.merged("output/data")
        if data.is_dir() and any(data.iterdir()):
            self.upload_archive(data, "output.tar.gz")
        for kept in self.checkpoints:
            kept.upload()

    def merged(self, name: str) -> Path:
        """A directory of the tree; of several hosts what all have left in it, the first one's before the others'."""
        if len(self.hosts) == 1:
            return self.hosts[0].left(f"{ML}/{name}")
        folder = self.hosts[0].folder / "merged" / name
        for tree in [job.left(f"{ML}/{name}") for job in reversed(self.hosts)]:
            for file in files_below(tree) if tree.is_dir() else ():
                place(file, folder / file.relative_to(tree))
        return folder

    def upload_model(self) -> str:
        """/opt/ml/model as model.tar.gz, or as it is where CompressionType is NONE; its URI."""
        if self.document["OutputDataConfig"].get("CompressionType") != "NONE":
            return self.upload_archive(self.merged("model"), "model.tar.gz")
        self.runtime.storage.upload(self.merged("model"), f"{self.output_uri}/model")
        return f"{self.output_uri}/model/"

    def upload_archive(self, folder: Path, name: str) -> str:
        """A directory as a .tar.gz; its URI."""
        archive = self.hosts[0].folder / name
        pack(folder, archive)
        self.runtime.storage.upload(archive, f"{self.output_uri}/{name}")
        archive.unlink()
        return f"{self.output_uri}/{name}"

    def judge(self, host: JobDirectory, ended: Exit) -> None:
        """Record what the end of a host's process, the one that decides, makes of the job."""
        result = f"{self.document['OutputDataConfig']['S3OutputPath']}/payload.pkl"
        is_function = launcher_of(self.document) == "function"  # whose handler may fail and yet end with 0
        if ended.cause == "stopped":
            self.finish("Stopped")
        elif ended.cause == "timeout":
            reason = failure_reason(host, ended, FAILURE_FILE, self.limit_seconds)
            self.finish("Stopped", secondary="MaxRuntimeExceeded", reason=reason)
        elif not succeeded(ended) or (is_function and not self.runtime.storage.exists(result)):
            self.finish("Failed", reason=failure_reason(host, ended, FAILURE_FILE, self.limit_seconds))
        elif said := host.message(STOP_FILE, FAILURE_REASON_LIMIT).strip():
            self.finish("Stopped", reason=f"The training job stopped itself: {said}")
        else:
            self.finish("Completed")

    def finish(self, status: str, *, secondary: str | None = None, reason: str | None = None) -> None:
        """Record how the job ended."""
        ended = now()
        seconds = round(ended - self.document.get("TrainingStartTime", ended))
        self.document.update(
            TrainingJobStatus=status,
            SecondaryStatus=secondary or status,
            TrainingEndTime=ended,
            TrainingTimeInSeconds=seconds,
            BillableTimeInSeconds=seconds,
            FinalMetricDataList=[
                {"MetricName": name, "Value": value, "Timestamp": at} for name, (value, at) in self.values.items()
            ],
        )
        if reason:
            self.document["FailureReason"] = reason
        self.save()

    def save(self) -> None:
        """Write the document."""
        self.document["LastModifiedTime"] = now()
        self.runtime.state.put("TrainingJob", self.document["TrainingJobName"], self.document)


def as_number(text: str | None) -> float | None:
    """A finite number, or None: the service takes neither nan nor inf."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value - value == 0 else None


class Checkpoints:
    """The directory that CheckpointConfig names: restored from S3 before a job, and copied there while it runs.

    As "Use checkpoints in Amazon SageMaker" in the guide has it: so a job that is lost, with its runner or alone,
    leaves what it had reached to the one that is started in its place.
    """

    def __init__(self, config: Mapping[str, Any], job: JobDirectory, storage: Storage) -> None:
        """Read the configuration.

        Raises:
            LaunchError: its LocalPath is not below /opt/ml.
        """
        local_path = config.get("LocalPath") or CHECKPOINTS
        try:
            self.job, self.local_path, self.folder = job, local_path, job.inside(local_path)
        except ValueError:
            raise LaunchError(
                f"CheckpointConfig.LocalPath {local_path!r} is not below /opt/ml, which is all that a job has here."
            ) from None
        self.uri = str(config["S3Uri"])
        self.storage = storage
        self.stored: dict[Path, tuple[int, int]] = {}  # file -> size and time of change of what S3 has
        self.lock = threading.Lock()  # the last upload comes after one that is still going on

    def restore(self) -> None:
        """Copy what an earlier job left; a job may write to these files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.storage.objects(self.uri):
            copy(file, self.folder / name)
        self.stored = {file: stamp(file) for file in files_below(self.folder)}

    def is_own(self) -> bool:
        """Return whether there is a directory, and not a link of the job's."""
        with contextlib.suppress(PipelineError):
            return self.job.left(self.local_path).is_dir()
        return False

    def upload(self) -> None:
        """Copy what has changed; a file that is being written is copied again later."""
        with self.lock:
            for file in files_below(self.folder) if self.is_own() else ():
                changed = stamp(file)
                if self.stored.get(file) != changed:
                    name = file.relative_to(self.folder).as_posix()
                    self.storage.write(f"{self.uri.rstrip('/')}/{name}", file.read_bytes())
                    self.stored[file] = changed

    async def keep_uploading(self) -> None:
        """Until the task is cancelled."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_UPLOADS)
            try:
                await asyncio.to_thread(self.upload)
            except FileNotFoundError:  # the script removes old checkpoints in between
                continue


def stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def compiled(regex: str) -> re.Pattern[str]:
    """Return the pattern of a metric.

    Raises:
        StepFailure: it is none; one that is written in the definition was refused before anything ran.
    """
    try:
        return re.compile(regex)
    except re.error as problem:
        raise StepFailure(f"ClientError: the metric's Regex {regex!r} cannot be read: {problem}.") from problem
