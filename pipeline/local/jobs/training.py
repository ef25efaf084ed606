"""Runs a training job, alone as a Training step or as one trial of a search.

The contract is that of "use your own training algorithms" in the SageMaker guide: the configuration files, one
directory a channel, metrics read from the log by regular expressions, model.tar.gz and output.tar.gz, exit codes and
the failure file; checkpoints as "Use checkpoints in Amazon SageMaker" has them.
"""

import asyncio
import contextlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.local.jobs.debugging import Debugging
from pipeline.local.jobs.runtime import (
    FAILURE_REASON_LIMIT,
    Job,
    LiveFolder,
    Runtime,
    StepCall,
    StepFailure,
    StepResult,
    now,
)
from pipeline.local.jobs.toolkit import FUNCTION_CHANNEL, input_data_config, instance_groups, training_command
from pipeline.local.sandbox.process import Command, Exit, JobDirectory
from pipeline.local.store.storage import files_below, pack, place

SCRAPED_CHARACTERS = 8192  # from the end of a line: `.*loss=` takes time that grows with the square of its length
STOP_FILE = "/opt/ml/output/stopped"  # a script that ends its own job, on the service by StopTrainingJob, says why here
SPINS = "10000"  # of GNU OpenMP's threads before they sleep, as in the training image: see its Dockerfile
CONFIG_FILES = ("HyperParameters", "DebugHookConfig", "ProfilerConfig", "CheckpointConfig", "TensorBoardOutputConfig")


async def run_training(call: StepCall, runtime: Runtime) -> StepResult:
    """One Training step; StepFailure if the job failed or was stopped, by its time limit for example."""
    job = TrainingJob(call.job_name, call.arguments, runtime)
    await job.run()
    return StepResult(job.document, job.metadata, [job.output_uri])


class TrainingJob(Job):
    """One training job."""

    verb = "Training"
    folders = ("model", "output/data", "output/tensors", "output/profiler", "input/config", "input/data", "checkpoints")
    failure_file = "/opt/ml/output/failure"

    def __init__(self, name: str, request: Mapping[str, Any], runtime: Runtime) -> None:
        self.groups = instance_groups(request)
        self.output_uri = f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{name}/output"
        self.metrics: dict[str, re.Pattern[str]] = {}
        self.values: dict[str, tuple[float, float]] = {}  # of each metric: the last value, and when it was printed
        self.environment: dict[str, str] = {}
        self.ran_out = False
        count = sum(len(group["hosts"]) for group in self.groups)
        request = {"SecondaryStatus": "Starting", "HyperParameters": {}, **request}
        self.debugging = Debugging(name, request, runtime)
        request = {**request, **self.debugging.members}
        super().__init__(name, request, runtime, count=count, isolated=request.get("EnableNetworkIsolation", False))

    def prepare(self) -> None:
        """As of every job, once it is clear that the request can be fulfilled."""
        if len(self.hosts) > 1 and not self.runtime.mount:
            raise StepFailure(
                f"ClientError: The job has {len(self.hosts)} hosts, which could not find each other by name: that "
                "needs mount namespaces, which this machine does not allow; ask for one instance."
            )
        for metric in self.document.get("AlgorithmSpecification", {}).get("MetricDefinitions", []):
            try:
                self.metrics[metric["Name"]] = re.compile(metric["Regex"])
            except re.error as problem:  # of an expression; one that is written out was refused before anything ran
                said = f"the metric's Regex {metric['Regex']!r} cannot be read: {problem}."
                raise StepFailure(f"ClientError: {said}") from problem
        super().prepare()
        self.document["SecondaryStatus"] = "Training"

    def lay_out(self, host: JobDirectory, rank: int) -> Command:
        """Channels, checkpoints and configuration files; the command is told where to say that it stops itself."""
        current = next(group for group in self.groups if self.host_names[rank] in group["hosts"])
        resources = {
            "current_host": self.host_names[rank],
            "current_instance_type": current["instance_type"],
            "current_group_name": current["instance_group_name"],
            "hosts": self.host_names,
            "instance_groups": self.groups,
            "network_interface_name": "lo",
        }
        for channel in self.document.get("InputDataConfig", []):
            source = channel["DataSource"]["S3DataSource"]
            wanted = source.get("InstanceGroupNames") or [group["instance_group_name"] for group in self.groups]
            members = [name for g in self.groups if g["instance_group_name"] in wanted for name in g["hosts"]]
            if self.host_names[rank] in members:
                share = members.index(self.host_names[rank]), len(members)
                folder, code = (host.tree / "input/data" / name for name in (channel["ChannelName"], "code"))
                self.place_input(source, folder, host, share=share, written=[code])  # an archive is unpacked there
        if config := self.document.get("CheckpointConfig"):
            kept = LiveFolder(
                host, config.get("LocalPath", "/opt/ml/checkpoints"), config["S3Uri"], self.runtime.storage
            )
            kept.restore()
            self.live.append(kept)
        self.live += self.debugging.live_folders(host)
        files = {name: self.document[name] for name in CONFIG_FILES if name in self.document}
        files |= {"InputDataConfig": input_data_config(self.document), "ResourceConfig": resources}
        for name, content in files.items():
            self.write_json(host, f"input/config/{name.lower()}.json", content)
        command = training_command(self.document, resources, host, self.runtime.storage)
        told = {"JOB_STOP_FILE": STOP_FILE, "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPINS)}
        return Command(command.arguments, {**told, **self.environment, **command.environment}, command.folder)

    async def run_hosts(self) -> tuple[JobDirectory, Exit]:
        """As of every job; what the request asks to be debugged is judged meanwhile."""
        if not self.debugging.is_wanted:
            return await super().run_hosts()
        following = asyncio.create_task(self.debugging.follow(self))
        is_cancelled = True
        try:
            ended = await super().run_hosts()
            is_cancelled = False
        finally:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.upload_live)
            await self.debugging.conclude(following, is_cancelled=is_cancelled)
        return ended

    def on_line(self, line: str) -> None:
        """Read metrics as the service does: the first group of the first match, if it is a finite number."""
        for name, pattern in self.metrics.items():
            match = pattern.search(line[-SCRAPED_CHARACTERS:])
            try:
                value = float((match[1] if match and match.groups() else None) or math.nan)
            except ValueError:
                continue
            if math.isfinite(value):
                self.values[name] = (value, now())
                self.on_metric(name, value)

    def on_metric(self, name: str, value: float) -> None:
        """Take a value of a metric."""

    def collect(self, *, succeeded: bool) -> None:
        """Model, output data and checkpoints to S3, whatever the outcome."""
        if self.document["OutputDataConfig"].get("CompressionType") == "NONE":
            uri = f"{self.output_uri}/model/"
            self.runtime.storage.upload(self.merged("model"), uri)
        else:
            uri = self.upload_archive(self.merged("model"), "model.tar.gz")
        self.document["ModelArtifacts"] = {"S3ModelArtifacts": uri}
        data = self.merged("output/data")
        if data.is_dir() and any(data.iterdir()):
            self.upload_archive(data, "output.tar.gz")
        self.upload_live()

    def upload_live(self) -> None:
        """What has changed in checkpoints, tensors and profile."""
        for folder in self.live:
            folder.upload()

    def merged(self, name: str) -> Path:
        """A directory of the tree; of several hosts what all have left in it, the first one's before the others'."""
        trees = [host.left(f"/opt/ml/{name}") for host in self.hosts]
        if len(trees) == 1:
            return trees[0]
        folder = self.hosts[0].folder / "merged" / name
        for tree in reversed(trees):
            for file in files_below(tree) if tree.is_dir() else ():
                place(file, folder / file.relative_to(tree))
        return folder

    def upload_archive(self, folder: Path, name: str) -> str:
        """A directory as a .tar.gz; its URI."""
        archive, uri = self.hosts[0].folder / name, f"{self.output_uri}/{name}"
        pack(folder, archive)
        self.runtime.storage.upload(archive, uri)
        archive.unlink()
        return uri

    def outcome(self, host: JobDirectory, ended: Exit) -> tuple[str, str | None]:
        """As of every job, and Stopped by itself, from outside or by its time limit."""
        status, reason = super().outcome(host, ended)
        if ended.cause == "stopped":
            return "Stopped", self.debugging.stopped_by
        if ended.cause == "timeout":
            self.ran_out = True
            return "Stopped", reason
        is_function = f"input/data/{FUNCTION_CHANNEL}" in str(self.document["AlgorithmSpecification"])
        output, exists = self.document["OutputDataConfig"]["S3OutputPath"], self.runtime.storage.exists
        results = [f"{output}/payload.pkl", f"{output}/results/payload.pkl"]  # of `@step`, of `@remote`
        if is_function and not any(map(exists, results)):  # its handler may fail and yet end with 0
            return "Failed", self.failure_reason(host, ended)
        if status == "Completed" and (said := host.message(STOP_FILE, FAILURE_REASON_LIMIT).strip()):
            return "Stopped", f"The training job stopped itself: {said}"
        return status, reason

    def finish(self, status: str, reason: str | None = None) -> None:
        """Record how the job ended, its time and the last value of every metric."""
        seconds = round(now() - self.document.get("TrainingStartTime", now()))
        values = [{"MetricName": n, "Value": value, "Timestamp": at} for n, (value, at) in self.values.items()]
        self.document.update(
            SecondaryStatus="MaxRuntimeExceeded" if self.ran_out else status,
            TrainingTimeInSeconds=seconds,
            BillableTimeInSeconds=seconds,
            FinalMetricDataList=values,
        )
        self.debugging.print_lines()
        super().finish(status, reason)
