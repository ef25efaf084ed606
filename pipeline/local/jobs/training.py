"""Runs a training job, alone as a Training step or as one trial of a search.

The contract is that of "use your own training algorithms" in the SageMaker guide: the configuration files, one
directory a channel, metrics read from the log by regular expressions, model.tar.gz and output.tar.gz, exit codes and
the failure file.
"""

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.jobs.checkpoints import Checkpoints
from pipeline.local.jobs.launchers import training_command
from pipeline.local.jobs.runtime import (
    LINK_FROM_BYTES,
    Runtime,
    StepCall,
    StepFailure,
    StepResult,
    arn,
    failure_reason,
    not_run,
    now,
)
from pipeline.local.jobs.training_environment import CODE_CHANNEL, input_data_config, resource_config
from pipeline.local.sandbox.process import Command, Exit, JobProcess
from pipeline.local.sandbox.warm_parent import WarmParent
from pipeline.local.store.archives import pack
from pipeline.local.store.state import Document

DEFAULT_MAX_RUNTIME_SECONDS = 86400
SCRAPED_CHARACTERS = 8192  # from the end of a line: `.*loss=` takes time that grows with the square of its length
FAILURE_FILE = "/opt/ml/output/failure"
STOP_FILE = "/opt/ml/output/stopped"  # a script that ends its own job, on the service by StopTrainingJob, says why here
STOP_VARIABLE = "JOB_STOP_FILE"
SPINS = "10000"  # of GNU OpenMP's threads before they sleep, as in the training image: see its Dockerfile
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
    """One training job; `document` is what DescribeTrainingJob answers. Those of a search have a parent in common."""

    def __init__(
        self,
        name: str,
        request: Mapping[str, Any],
        runtime: Runtime,
        *,
        threads: int | None = None,
        parent: WarmParent | None = None,
    ) -> None:
        self.runtime = runtime
        self.threads = threads
        self.parent = parent
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
        self.checkpoints: Checkpoints | None = None
        self.process: JobProcess | None = None
        self.stopping = False
        self.secondary_status: str | None = None

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
            if config := self.document.get("CheckpointConfig"):
                self.checkpoints = Checkpoints(config, self.job, self.runtime.storage)
            await asyncio.to_thread(self.lay_out)
            command = await asyncio.to_thread(training_command, self.document, self.job, self.runtime.storage)
            runtime, words = self.runtime, self.limited(command)
            self.process = JobProcess(self.job, words, runtime.mount, api=runtime.api, parent=self.parent)
            if self.stopping:
                self.process.stop()
            self.document.update(SecondaryStatus="Training", TrainingStartTime=now())
            self.save()
            ended = await self.watched(self.process, on_metric)
            await asyncio.to_thread(self.collect)
        except asyncio.CancelledError:
            self.collect()
            self.finish("Stopped")
            raise
        except (PipelineError, OSError) as problem:
            failure = not_run(problem, {})
            self.finish("Failed", str(failure))
            raise failure from problem
        self.finish(*self.judged(ended))
        return ended

    async def watched(self, process: JobProcess, on_metric: OnMetric) -> Exit:
        """Run the script, its metrics read and its checkpoints kept meanwhile."""
        uploads = asyncio.create_task(self.checkpoints.keep_uploading()) if self.checkpoints else None
        try:
            return await process.run(self.limit_seconds, lambda line: self.scrape(line, on_metric))
        finally:
            if uploads:
                uploads.cancel()

    def stop(self) -> None:
        """StopTrainingJob: the script is asked to end, and what it has written counts."""
        self.stopping = True
        if self.process:
            self.process.stop()

    def limited(self, command: Command) -> Command:
        """The command, told where to say that it stops itself, and to use its share of the processors among trials."""
        own = {STOP_VARIABLE: STOP_FILE, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPINS)}
        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            own["OMP_NUM_THREADS"] = str(self.threads)
        return Command(command.arguments, {**own, **command.environment}, command.folder)

    def lay_out(self) -> None:
        """The tree that the container finds."""
        for folder in FOLDERS:
            (self.job.tree / folder).mkdir(parents=True, exist_ok=True)
        code = self.job.inside(CODE_CHANNEL)  # in which an archive may be unpacked
        link_from_bytes = 0 if self.parent else LINK_FROM_BYTES  # what so many jobs read is not copied for each
        for channel in self.document.get("InputDataConfig") or []:
            uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
            folder = self.job.tree / "input/data" / channel["ChannelName"]
            self.runtime.place_input(uri, folder, self.job, written=[code], link_from_bytes=link_from_bytes)
        if self.checkpoints:
            self.checkpoints.restore()
        config = self.job.tree / "input/config"
        files: dict[str, Any] = {
            "hyperparameters": self.document.get("HyperParameters") or {},
            "inputdataconfig": input_data_config(self.document),
            "resourceconfig": resource_config(self.document),
            "debughookconfig": self.document.get("DebugHookConfig"),
            "profilerconfig": self.document.get("ProfilerConfig"),
            "checkpointconfig": self.document.get("CheckpointConfig"),
            "tensorboardoutputconfig": self.document.get("TensorBoardOutputConfig"),
        }
        for name, content in files.items():
            if content is not None:
                (config / f"{name}.json").write_text(self.runtime.json_text(content, self.job))

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
        data = self.job.tree / "output/data"
        if data.is_dir() and any(data.iterdir()):
            self.upload_archive("output/data", "output.tar.gz")
        if self.checkpoints:
            self.checkpoints.upload()

    def upload_model(self) -> str:
        """/opt/ml/model as model.tar.gz, or as it is where CompressionType is NONE; its URI."""
        if self.document["OutputDataConfig"].get("CompressionType") != "NONE":
            return self.upload_archive("model", "model.tar.gz")
        self.runtime.storage.upload(self.job.tree / "model", f"{self.output_uri}/model")
        return f"{self.output_uri}/model/"

    def upload_archive(self, folder: str, name: str) -> str:
        """A directory of the tree as a .tar.gz; its URI."""
        archive = self.job.folder / name
        pack(self.job.tree / folder, archive)
        self.runtime.storage.upload(archive, f"{self.output_uri}/{name}")
        archive.unlink()
        return f"{self.output_uri}/{name}"

    def judged(self, ended: Exit) -> tuple[str, str | None]:
        """Status and failure reason."""
        if ended.cause == "stopped":
            return "Stopped", None
        if ended.code == 0 and ended.cause == "exited":
            stop_file = self.job.inside(STOP_FILE)
            if not stop_file.is_file():
                return "Completed", None
            return "Stopped", f"The training job stopped itself: {stop_file.read_text(errors='replace').strip()}"
        reason = failure_reason(self.job, ended, FAILURE_FILE, self.limit_seconds)
        if ended.cause != "timeout":
            return "Failed", reason
        self.secondary_status = "MaxRuntimeExceeded"
        return "Stopped", reason

    def finish(self, status: str, reason: str | None = None) -> None:
        """Record how the job ended."""
        ended = now()
        seconds = round(ended - self.document.get("TrainingStartTime", ended))
        self.document.update(
            TrainingJobStatus=status,
            SecondaryStatus=self.secondary_status or status,
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
    found: list[dict[str, str]] = (request.get("AlgorithmSpecification") or {}).get("MetricDefinitions") or []
    return found


def as_number(text: str | None) -> float | None:
    """A finite number, or None: the service takes neither nan nor inf."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value - value == 0 else None
