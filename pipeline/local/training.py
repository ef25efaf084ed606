"""Runs a training job, alone as a Training step or as one trial of a search.

The contract is that of "use your own training algorithms" in the SageMaker guide: the configuration files, one
directory a channel, metrics read from the log by regular expressions, model.tar.gz and output.tar.gz, exit codes and
the failure file.
"""

import asyncio
import gzip
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.launchers import LaunchError, input_data_config, resource_config, training_command
from pipeline.local.process import Command, Exit, JobProcess
from pipeline.local.runtime import Runtime, StepCall, StepFailure, StepResult, arn, failure_reason, now
from pipeline.local.state import Document
from pipeline.local.storage import files_below

DEFAULT_MAX_RUNTIME_SECONDS = 86400
FAILURE_FILE = "/opt/ml/output/failure"
FOLDERS = ("model", "output/data", "output/tensors", "output/profiler", "input/config", "input/data", "checkpoints")

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

    def __init__(self, name: str, request: Mapping[str, Any], runtime: Runtime, threads: int | None = None) -> None:
        self.runtime = runtime
        self.threads = threads
        self.job = runtime.job(name)
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
        self.metrics = {found["Name"]: re.compile(found["Regex"]) for found in metric_definitions(request)}
        self.values: dict[str, tuple[float, float]] = {}
        self.process: JobProcess | None = None

    @property
    def limit_seconds(self) -> float:
        """MaxRuntimeInSeconds, or the service's default."""
        return float(self.document.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS))

    async def run(self, on_metric: OnMetric) -> Exit:
        """Lay out, run, collect. A failure of the script is in `document`, not raised.

        Raises:
            StepFailure: there was nothing to run.
        """
        self.save()
        try:
            await asyncio.to_thread(self.lay_out)
            command = await asyncio.to_thread(training_command, self.document, self.job, self.runtime.storage)
        except PipelineError as problem:
            self.finish("Failed", str(problem))
            raise StepFailure(str(problem)) from problem
        self.process = JobProcess(self.job, self.limited(command), self.runtime.mount)
        self.document.update(SecondaryStatus="Training", TrainingStartTime=now())
        self.save()
        try:
            ended = await self.process.run(self.limit_seconds, lambda line: self.scrape(line, on_metric))
        except asyncio.CancelledError:
            self.finish("Stopped")
            raise
        except OSError as problem:
            reason = f"InternalServerError: the job's process could not be started: {problem}"
            self.finish("Failed", reason)
            raise StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR") from problem
        await asyncio.to_thread(self.collect)
        self.finish(*self.judged(ended))
        return ended

    def limited(self, command: Command) -> Command:
        """The command, told to use its share of the processors when trials run side by side."""
        if self.threads is None or "OMP_NUM_THREADS" in os.environ:
            return command
        return Command(command.arguments, {"OMP_NUM_THREADS": str(self.threads), **command.environment}, command.folder)

    def lay_out(self) -> None:
        """The tree that the container finds."""
        for folder in FOLDERS:
            (self.job.tree / folder).mkdir(parents=True, exist_ok=True)
        for channel in self.document.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            if channel.get("InputMode") == "Pipe" or source.get("S3DataType", "S3Prefix") != "S3Prefix":
                raise LaunchError(
                    f"Channel {channel['ChannelName']!r} is a pipe or a manifest; the local target reads an S3Prefix."
                )
            folder = self.job.tree / "input/data" / channel["ChannelName"]
            self.runtime.storage.download(source["S3Uri"], folder)
        self.restore_checkpoints()
        config = self.job.tree / "input/config"
        instance_type = self.document.get("ResourceConfig", {}).get("InstanceType", "local")
        files: dict[str, Any] = {
            "hyperparameters": self.document.get("HyperParameters", {}),
            "inputdataconfig": input_data_config(self.document),
            "resourceconfig": resource_config(str(instance_type)),
            "debughookconfig": self.document.get("DebugHookConfig"),
            "profilerconfig": self.document.get("ProfilerConfig"),
            "checkpointconfig": self.document.get("CheckpointConfig"),
            "tensorboardoutputconfig": self.document.get("TensorBoardOutputConfig"),
        }
        for name, content in files.items():
            if content is not None:
                (config / f"{name}.json").write_text(json.dumps(content))

    def restore_checkpoints(self) -> None:
        """What an earlier job left at CheckpointConfig.S3Uri: copied, since a job may write to these files."""
        uri = self.document.get("CheckpointConfig", {}).get("S3Uri")
        if uri and self.runtime.storage.exists(uri):
            shutil.copytree(self.runtime.storage.path(uri), self.checkpoint_folder, dirs_exist_ok=True)

    @property
    def checkpoint_folder(self) -> Path:
        """CheckpointConfig.LocalPath on this machine."""
        return self.job.inside(self.document.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints"))

    def scrape(self, line: str, on_metric: OnMetric) -> None:
        """Read metrics from one line, as the service does: the first group of the first match, if it is a number."""
        for name, pattern in self.metrics.items():
            match = pattern.search(line)
            value = as_number(match[1]) if match and match.groups() else None
            if value is not None:
                self.values[name] = (value, now())
                on_metric(name, value)

    def collect(self) -> None:
        """model.tar.gz, output.tar.gz and checkpoints to S3; also after a stop, as on the service."""
        storage = self.runtime.storage
        for folder, name in (("model", "model.tar.gz"), ("output/data", "output.tar.gz")):
            if any((self.job.tree / folder).iterdir()):
                archive = self.job.folder / name
                pack(self.job.tree / folder, archive)
                storage.upload(archive, f"{self.output_uri}/{name}")
                archive.unlink()
        if uri := self.document.get("CheckpointConfig", {}).get("S3Uri"):
            shutil.copytree(self.checkpoint_folder, storage.path(uri), dirs_exist_ok=True)
        self.document["ModelArtifacts"] = {"S3ModelArtifacts": f"{self.output_uri}/model.tar.gz"}

    def judged(self, ended: Exit) -> tuple[str, str | None]:
        """Status and failure reason."""
        if ended.cause == "stopped":
            return "Stopped", None
        if ended.code == 0 and ended.cause == "exited":
            return "Completed", None
        reason = failure_reason(self.job, ended, FAILURE_FILE, self.limit_seconds)
        return ("Stopped" if ended.cause == "timeout" else "Failed"), reason

    def finish(self, status: str, reason: str | None = None) -> None:
        """Record how the job ended."""
        ended = now()
        seconds = round(ended - self.document.get("TrainingStartTime", ended))
        self.document.update(
            TrainingJobStatus=status,
            SecondaryStatus=status,
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


def metric_definitions(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """MetricDefinitions of a request."""
    found: list[dict[str, str]] = request.get("AlgorithmSpecification", {}).get("MetricDefinitions", [])
    return found


def as_number(text: str) -> float | None:
    """A finite number, or None: the service takes neither nan nor inf."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value - value == 0 else None


def pack(folder: Path, archive: Path) -> None:
    """A .tar.gz of a directory's content; the same content gives the same bytes."""
    with (
        archive.open("wb") as stream,
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=1, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for file in files_below(folder):
            member = tar.gettarinfo(str(file), arcname=file.relative_to(folder).as_posix())
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            with file.open("rb") as content:
                tar.addfile(member, content)
