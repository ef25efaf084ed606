"""What every step of an execution shares, and the vocabulary of how a step ends."""

import asyncio
import contextlib
import errno
import json
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.local.sandbox.namespaces import Mount, can_be_covered, localized, outermost
from pipeline.local.sandbox.process import Exit, JobDirectory, JobProcess
from pipeline.local.store.answers import Api
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage

REGION, ACCOUNT = "us-east-1", "000000000000"
FAILURE_REASON_LIMIT = 1024
LINK_FROM_BYTES = 16 * 2**20  # smaller inputs are copied: that is quick, and needs no overlay

PORTS_LOCK = "\0sagemaker-local-hosts"  # an abstract socket: as wide as the ports are, and gone with its process
SECONDS_BETWEEN_TRIES = 0.2


@dataclass(frozen=True)
class Runtime:
    """The machine as one execution sees it."""

    state: State
    storage: Storage
    mount: Mount | None
    api: Api

    def job(self, name: str) -> JobDirectory:
        """The directory of a job; made if need be."""
        return JobDirectory(self.state.home, name)

    def place_input(
        self,
        source: Mapping[str, Any],
        folder: Path,
        job: JobDirectory,
        *,
        host: tuple[int, int] = (0, 1),
        written: Sequence[Path] = (),
        link_from_bytes: int = LINK_FROM_BYTES,
    ) -> None:
        """Download an input of a job in such a way that whatever the job does to its files, the objects stay.

        Args:
            source: S3Uri, S3DataType and S3DataDistributionType, as S3Input and S3DataSource have them.
            folder: within the job's tree.
            job: whose tree it is.
            host: rank and count of the hosts; of ShardedByS3Key each gets its share.
            written: directories of the tree that are read after the job, where an overlay would be in the way.
            link_from_bytes: less is copied, even where it could be shared.

        Raises:
            StorageError: there is nothing.
        """
        kept = any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in written)
        links = self.mount is not None and self.mount.overlays and can_be_covered(folder) and not kept
        is_linked = self.storage.download(
            source["S3Uri"],
            folder,
            link_from_bytes=link_from_bytes if links else math.inf,
            share=host if source.get("S3DataDistributionType") == "ShardedByS3Key" else (0, 1),
            is_manifest=source.get("S3DataType") == "ManifestFile",
        )
        if is_linked:
            job.linked = outermost([*job.linked, folder])

    def json_text(self, content: Any, job: JobDirectory) -> str:
        """A configuration file of a job; without a mount, /opt/ml in it is the job's tree."""
        text = json.dumps(content)
        return text if self.mount else localized(text, job.tree)

    def localize_programs(self, words: Sequence[str], job: JobDirectory) -> None:
        """Without a mount, rewrite /opt/ml in the shell scripts that a command names, and in what lies beside them.

        So SageMaker's own programs, which a channel brings, find their files: FrameworkProcessor's runproc.sh, the
        drivers of ModelTrainer, the handler of `@step` functions.
        """
        named = [] if self.mount else re.findall(r"/opt/ml/[^\s'\"]+\.sh\b", " ".join(words))
        folders = {job.inside(name).parent for name in named}
        for file in [file for folder in folders if folder.is_dir() for file in folder.rglob("*")]:
            if file.suffix in (".sh", ".py", ".json") and file.is_file():
                file.write_text(localized(file.read_text(), job.tree))


@dataclass(frozen=True)
class StepCall:
    """One step, its expressions resolved, ready to run."""

    name: str
    definition: Mapping[str, Any]
    arguments: Document
    execution_id: str
    job_name: str


@dataclass
class StepResult:
    """What a finished step leaves: its property document, its Metadata and the S3 URIs that it wrote."""

    properties: Document
    metadata: Document
    outputs: list[str] = field(default_factory=list)


class StepFailure(PipelineError):
    """A step failed. `code` is the exception type that a retry policy may name; None is not retried."""

    def __init__(self, reason: str, *, code: str | None = None, metadata: Document | None = None) -> None:
        super().__init__(reason[:FAILURE_REASON_LIMIT])
        self.code = code
        self.metadata = metadata or {}


def arn(kind: str, name: str) -> str:
    """An ARN of the local account."""
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"


def now() -> float:
    """Seconds since 1970, to the millisecond, as the service keeps times."""
    return round(time.time(), 3)


def failure_reason(job: JobDirectory, ended: Exit, message_file: str, max_runtime_seconds: float) -> str:
    """Why a job failed, as SageMaker words it: the script's own message if it left one, else its last line."""
    if ended.cause == "timeout":
        return f"ClientError: the job ran longer than MaxRuntimeInSeconds = {max_runtime_seconds:g} and was ended."
    text = job.message(message_file, FAILURE_REASON_LIMIT).strip()
    text = text or next((line.strip() for line in reversed(job.last_lines(20)) if line.strip()), "no output")
    if ended.cause == "lost":
        return f"InternalServerError: the job's process was killed from outside; its last line: {text}"
    code = ended.code if ended.code >= 0 else 128 - ended.code  # of a process that a signal ended, as a shell counts
    return f"AlgorithmError: {text}, exit code: {code}"


def not_run(problem: Exception, metadata: Document) -> StepFailure:
    """The failure of a job that could not be run: the request's fault, or (OSError) this machine's."""
    if isinstance(problem, StepFailure):
        return StepFailure(str(problem), code=problem.code, metadata=metadata)
    if isinstance(problem, OSError):
        reason = f"InternalServerError: the job could not be run on this machine: {problem}"
        return StepFailure(reason, code="SageMaker.JOB_INTERNAL_ERROR", metadata=metadata)
    return StepFailure(f"ClientError: {problem}", metadata=metadata)


def host_names(count: int) -> list[str]:
    """What SageMaker calls the hosts of a job."""
    return [f"algo-{number}" for number in range(1, count + 1)]


def host_directories(job_name: str, count: int, runtime: Runtime, *, isolated: bool = False) -> list[JobDirectory]:
    """A directory for each host, all with the same hosts file.

    A single host can be without network (EnableNetworkIsolation); several could not find each other then.
    """
    names = host_names(count)
    jobs = [runtime.job(job_name if name == names[0] else f"{job_name}/{name}") for name in names]
    for job in jobs:
        job.answered, job.network = not isolated, not isolated or count > 1
    if runtime.mount:
        own = [f"127.0.0.1 localhost {socket.gethostname()}"]
        own += [f"127.0.{number // 250 + 1}.{number % 250 + 1} {name}" for number, name in enumerate(names)]
        machine = Path("/etc/hosts")
        hosts = jobs[0].folder / "hosts"
        hosts.write_text("\n".join([*own, machine.read_text() if machine.is_file() else ""]))
        for job in jobs if machine.is_file() else ():
            job.hosts = hosts
    return jobs


async def run_hosts(
    processes: Sequence[JobProcess], limit_seconds: float, on_line: Callable[[str], None]
) -> tuple[JobDirectory, Exit]:
    """Run all at once; the one that ended last, or the first to fail, upon which the others are ended."""
    running = {asyncio.create_task(process.run(limit_seconds, on_line)): process.job for process in processes}
    try:
        while True:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                job, ended = running.pop(task), task.result()
                if not running or not succeeded(ended):
                    return job, ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def succeeded(ended: Exit) -> bool:
    """Whether a process ended by itself, and well."""
    return ended.code == 0 and ended.cause == "exited"


@contextlib.asynccontextmanager
async def use_of_ports(host_count: int) -> AsyncIterator[None]:
    """Wait until no other job of several hosts runs on this machine: their scripts meet at the same port, 7777."""
    with socket.socket(socket.AF_UNIX) as lock:
        while host_count > 1:
            try:
                lock.bind(PORTS_LOCK)
                break
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise
                await asyncio.sleep(SECONDS_BETWEEN_TRIES)
        yield
