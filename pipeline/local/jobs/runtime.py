"""What every step of an execution shares, and the job: what its containers find, how long they may run, how it ends."""

import asyncio
import contextlib
import errno
import json
import math
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipeline.errors import PipelineError
from pipeline.local.sandbox.launcher import WarmParent
from pipeline.local.sandbox.namespaces import Mount, can_be_covered, localized, outermost
from pipeline.local.sandbox.process import Command, Exit, JobDirectory, JobProcess
from pipeline.local.store.answers import Api, chosen
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, copy, files_below

REGION, ACCOUNT = "us-east-1", "000000000000"
FAILURE_REASON_LIMIT = 1024
DEFAULT_MAX_RUNTIME_SECONDS = 86400
INTERNAL_ERROR = "SageMaker.JOB_INTERNAL_ERROR"  # what a retry policy calls trouble of the service's machines
LINK_FROM_BYTES = 16 * 2**20  # smaller inputs are copied: that is quick, and needs no overlay
PORTS_LOCK = "\0sagemaker-local-hosts"  # an abstract socket: as wide as the ports are, and gone with its process
SECONDS_BETWEEN_TRIES = 0.2
SECONDS_BETWEEN_UPLOADS = 1.0


@dataclass(frozen=True)
class Runtime:
    """The machine as one execution sees it."""

    state: State
    storage: Storage
    mount: Mount | None
    api: Api

    def job(self, kind: str, name: str, host: str = "") -> JobDirectory:
        """The directory of a job, or of one of its hosts but the first; made if need be."""
        return JobDirectory(self.state.home, job_folder(self.state.home, kind, name).name + (host and f"/{host}"))


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


def not_run(problem: Exception, metadata: Document) -> StepFailure:
    """The failure of a job that could not be run: the request's fault, or (OSError) this machine's."""
    if isinstance(problem, OSError):
        reason = f"InternalServerError: the job could not be run on this machine: {problem}"
        return StepFailure(reason, code=INTERNAL_ERROR, metadata=metadata)
    reason, code = f"ClientError: {problem}", None
    if isinstance(problem, StepFailure):
        reason, code = str(problem), problem.code
    return StepFailure(reason, code=code, metadata=metadata)


class Job:
    """A job of one or several hosts; `document` is what its Describe operation answers.

    What a subclass adds is the tree of a host with its command, what is collected, and what its end means.
    """

    verb: ClassVar[str]  # Processing or Training
    folders: ClassVar[Sequence[str]]  # below /opt/ml, made for every host
    failure_file: ClassVar[str]  # in which a script may say why it fails

    def __init__(self, name: str, request: Mapping[str, Any], runtime: Runtime, *, count: int, isolated: bool) -> None:
        self.name, self.runtime = name, runtime
        self.host_names = [f"algo-{number}" for number in range(1, count + 1)]
        kind = f"{self.verb}Job"
        self.hosts = [runtime.job(kind, name, host if rank else "") for rank, host in enumerate(self.host_names)]
        for host in self.hosts:  # a single one can be without network; several could not find each other then
            host.answered, host.network = not isolated, not isolated or count > 1
        self.processes: list[JobProcess] = []
        self.live: list[LiveFolder] = []
        self.parent: WarmParent | None = None
        self.link_from_bytes = LINK_FROM_BYTES
        self.stopping = False
        self.arn = arn(f"{self.verb.lower()}-job", name)
        self.metadata: Document = {f"{self.verb}Job": {"Arn": self.arn}}
        self.document: Document = {f"{self.verb}JobName": name, f"{self.verb}JobArn": self.arn, **request}
        self.save(status="InProgress", CreationTime=now())

    def lay_out(self, host: JobDirectory, rank: int) -> Command:
        """Place inputs and configuration files; return the command of the host, or raise a PipelineError."""
        raise NotImplementedError

    def collect(self, *, succeeded: bool) -> None:
        """Upload what the hosts have left, also of a job that failed or was stopped."""
        raise NotImplementedError

    async def run(self) -> None:
        """Lay out, run, collect, and record how the job ended; StepFailure if it was not completed."""
        try:
            async with use_of_ports(len(self.hosts)):
                await asyncio.to_thread(self.prepare)
                self.save(None, **{f"{self.verb}StartTime": now()})
                if self.stopping:
                    self.stop()
                host, ended = await self.run_hosts()
            await asyncio.to_thread(self.collect, succeeded=succeeded(ended))
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, PipelineError):  # stopped it is, whatever is left of the upload
                self.collect(succeeded=False)
            self.finish("Stopped")
            raise
        except (PipelineError, OSError) as problem:
            failure = not_run(problem, self.metadata)
            self.finish("Failed", str(failure))
            raise failure from problem
        status, reason = self.outcome(host, ended)
        self.finish(status, reason)
        if status != "Completed":
            code = INTERNAL_ERROR if ended.cause == "lost" else None
            raise StepFailure(reason or status, code=code, metadata=self.metadata)

    def stop(self) -> None:
        """Ask the script to end, now or once it has begun; what it has written counts."""
        self.stopping = True
        for process in self.processes:
            process.stop()

    def prepare(self) -> None:
        """Lay out the tree of every host, with a hosts file that all share, and find its command."""
        machine = Path("/etc/hosts")
        hosts_file = self.hosts[0].folder / "hosts" if self.runtime.mount and machine.is_file() else None
        if hosts_file:
            own = [f"127.0.{n // 250 + 1}.{n % 250 + 1} {name}" for n, name in enumerate(self.host_names)]
            hosts_file.write_text("\n".join([f"127.0.0.1 localhost {socket.gethostname()}", *own, machine.read_text()]))
        for rank, host in enumerate(self.hosts):
            host.hosts = hosts_file
            for folder in self.folders:
                (host.tree / folder).mkdir(parents=True, exist_ok=True)
            command = self.lay_out(host, rank)
            if not self.runtime.mount:
                localize_programs(command, host)
            mount, api = self.runtime.mount, self.runtime.api
            self.processes.append(JobProcess(host, command, mount, api=api, parent=self.parent))

    def place_input(
        self,
        source: Mapping[str, Any],
        folder: Path,
        host: JobDirectory,
        *,
        share: tuple[int, int],
        written: Sequence[Path] = (),
    ) -> None:
        """Download an input in such a way that whatever the script does to its files, the objects stay.

        Args:
            source: an S3Input or S3DataSource.
            folder: within the host's tree.
            host: whose tree it is.
            share: rank and count of the hosts, of which ShardedByS3Key gives each a part.
            written: directories of the tree that are read after the job, where an overlay would be in the way.
        """
        mount = self.runtime.mount
        kept = any(folder.is_relative_to(other) or other.is_relative_to(folder) for other in written)
        links = mount is not None and mount.overlays and can_be_covered(folder) and not kept
        is_linked = self.runtime.storage.download(
            source["S3Uri"],
            folder,
            link_from_bytes=self.link_from_bytes if links else math.inf,
            share=share if source.get("S3DataDistributionType") == "ShardedByS3Key" else (0, 1),
            is_manifest=source.get("S3DataType") == "ManifestFile",
        )
        if is_linked:
            host.linked = outermost([*host.linked, folder])

    def write_json(self, host: JobDirectory, path: str, content: Any) -> None:
        """A configuration file below /opt/ml, in which without a mount the host's tree stands for /opt/ml."""
        text = json.dumps(content)
        (host.tree / path).write_text(text if self.runtime.mount else localized(text, host.tree))

    async def run_hosts(self) -> tuple[JobDirectory, Exit]:
        """Run all hosts at once; the one that ended last, or the first to fail, upon which the others are ended."""
        running = {
            asyncio.create_task(process.run(self.limit_seconds, self.on_line)): process.job
            for process in self.processes
        }
        uploads = [asyncio.create_task(folder.keep_uploading()) for folder in self.live]
        try:
            while True:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    host, ended = running.pop(task), task.result()
                    if not running or not succeeded(ended):
                        return host, ended
        finally:
            for other in (*running, *uploads):
                other.cancel()
            await asyncio.gather(*running, *uploads, return_exceptions=True)

    def on_line(self, line: str) -> None:
        """Take a line that a script has printed."""

    @property
    def limit_seconds(self) -> float:
        """MaxRuntimeInSeconds, or the service's default."""
        return float(self.document.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS))

    def outcome(self, host: JobDirectory, ended: Exit) -> tuple[str, str | None]:
        """The status, and the reason if it is not Completed, that the end of the host which decides gives the job."""
        return ("Completed", None) if succeeded(ended) else ("Failed", self.failure_reason(host, ended))

    def failure_reason(self, host: JobDirectory, ended: Exit) -> str:
        """Why the job failed, as SageMaker words it: the script's own message if it left one, else its last line."""
        if ended.cause == "timeout":
            return f"ClientError: the job ran longer than MaxRuntimeInSeconds = {self.limit_seconds:g} and was ended."
        text = host.message(self.failure_file, FAILURE_REASON_LIMIT).strip()
        text = text or next((line.strip() for line in reversed(host.last_lines(20)) if line.strip()), "no output")
        if ended.cause == "lost":
            return f"InternalServerError: the job's process was killed from outside; its last line: {text}"
        code = (
            ended.code if ended.code >= 0 else 128 - ended.code
        )  # of a process that a signal ended, as a shell counts
        return f"AlgorithmError: {text}, exit code: {code}"

    def finish(self, status: str, reason: str | None = None) -> None:
        """Record how the job ended."""
        self.save(status, **{f"{self.verb}EndTime": now()}, **({"FailureReason": reason} if reason else {}))

    def save(self, status: str | None = None, **members: Any) -> None:
        """Change members of the document and write it."""
        if status:
            members[f"{self.verb}JobStatus"] = status
        self.document.update(members, LastModifiedTime=now())
        record_job(self.runtime.state, f"{self.verb}Job", self.name, self.document)


def job_folder(home: Path, kind: str, name: str) -> Path:
    """Return where the files of a job lie; of one created outside pipelines the name may be that of another kind's."""
    own = home / "jobs" / f"{name}.{kind}"
    return own if own.is_dir() else home / "jobs" / name


def record_job(state: State, kind: str, name: str, document: Document) -> None:
    """Write a job's document; when it was created, and that it was told to stop meanwhile, stays."""
    with state.transaction():
        known, members = state.get(kind, name) or {}, ["CreationTime"]
        if (known.get(f"{kind}Status"), document[f"{kind}Status"]) == ("Stopping", "InProgress"):
            members += [f"{kind}Status", "SecondaryStatus"]
        state.put(kind, name, {**document, **chosen(known, *members)})


class LiveFolder:
    """A folder that is copied to S3 while its job runs, so that it outlives the job whatever becomes of that."""

    def __init__(self, host: JobDirectory, local_path: str, uri: str, storage: Storage) -> None:
        self.host, self.local_path, self.uri, self.storage = host, local_path, uri, storage
        self.stored: dict[Path, tuple[int, int]] = {}  # file -> size and time of change of what S3 has
        self.lock = threading.Lock()  # the last upload comes after one that is still going on

    def restore(self) -> None:
        """Copy what an earlier job left; a job may write to these files."""
        folder = inside(self.host, self.local_path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.storage.objects(self.uri):
            copy(file, folder / name)
        self.stored = {file: stamp(file) for file in files_below(folder)}

    def upload(self) -> None:
        """Copy what has changed; a file that is being written is copied again later. Nothing through a job's link."""
        with self.lock, contextlib.suppress(PipelineError):
            folder = self.host.left(self.local_path)
            for file in files_below(folder) if folder.is_dir() else ():
                if self.stored.get(file) != (changed := stamp(file)):
                    copy(file, self.storage.path(self.uri) / file.relative_to(folder))
                    self.stored[file] = changed

    async def keep_uploading(self) -> None:
        """Until the task is cancelled."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_UPLOADS)
            with contextlib.suppress(OSError):  # of files that come and go; the last upload tells
                await asyncio.to_thread(self.upload)


def stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def inside(host: JobDirectory, local_path: str) -> Path:
    """Where a LocalPath of a request lies on this machine."""
    try:
        return host.inside(local_path)
    except ValueError:
        said = f"LocalPath {local_path!r} is not below /opt/ml, which is all that a job has here."
        raise StepFailure(f"ClientError: {said}") from None


def localize_programs(command: Command, host: JobDirectory) -> None:
    """Without a mount, rewrite /opt/ml in the shell scripts that a command names, and in what lies beside them.

    So SageMaker's own programs, which a channel brings, find their files: FrameworkProcessor's runproc.sh, the drivers
    of ModelTrainer, the handler of `@step` functions.
    """
    named = re.findall(r"/opt/ml/[^\s'\"]+\.sh\b", " ".join(command.arguments))
    for folder in {host.inside(name).parent for name in named}:
        for file in folder.rglob("*") if folder.is_dir() else ():
            if file.suffix in (".sh", ".py", ".json") and file.is_file():
                file.write_text(localized(file.read_text(), host.tree))


def succeeded(ended: Exit) -> bool:
    """Whether a process ended by itself, and well."""
    return ended.code == 0 and ended.cause == "exited"


@contextlib.asynccontextmanager
async def use_of_ports(host_count: int) -> AsyncIterator[None]:
    """Wait until no other job of several hosts runs on this machine: they share addresses and meet at port 7777."""
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
