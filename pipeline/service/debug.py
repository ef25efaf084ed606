"""The files of a run for `debug`: what smdebug and the profiler left in S3, or a training job by its name.

Here they are read where they are; from AWS the index, tensors, collections and profile are downloaded: of what is
larger than LARGEST_BYTES only every second, third ... saved step. A job's places: `<S3OutputPath>/<job>/debug-output`
and `/profiler-output` (SDK 2, latest_job_debugger_artifacts_path), else what our own training puts beside
output.tar.gz, else what is in that archive.
"""

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.aws.requests import items
from pipeline.errors import ServiceError, UsageError
from pipeline.service.reports import DAMAGE
from pipeline.service.targets import in_threads, service_errors, split_uri

LARGEST_BYTES = 2 << 30  # of a download
JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
WANTED = {"index", "events", "collections", "system", "framework", "rules", "report"}  # a run's folders, then files
WANTED_FILES = {"history.json", "finished.json", "training_job_end.ts", "measured.json"}
STEP = re.compile(r"(?:index/\d+|events/\d+)/(\d+)_")
ORDER = ("events", "index")  # an index file after its tensors, the end marker last: a reader may be at work


STATUS, ARCHIVE = "debugger/rules/status.json", "output.tar.gz"  # of our own training, below <job>/output
Clients = Callable[[str], Any]


@dataclass
class Run:
    """Where a run's files are: a folder here, and the prefixes in S3 that `download` brings there."""

    folder: Path
    prefixes: Mapping[str, str] = field(default_factory=dict)  # folder below `folder` -> URI
    said: str = ""  # what was left out


def find_run(clients: Clients, home: Path | None, source: str, scratch: Path, *, judged_anew: bool) -> Run:
    """Return where the files of an s3:// prefix or a training job are: below `home`, None on AWS, or in `scratch`.

    With `judged_anew` the verdicts that a training's own observer left are not enough.
    """
    if source.startswith("s3://"):
        place = home and home / "s3" / source.removeprefix("s3://")
        return Run(place) if place and place.is_dir() else Run(scratch, {".": source.rstrip("/")})
    if not JOB_NAME.fullmatch(source):
        raise UsageError(f"{source!r} is neither a folder, nor an s3:// prefix, nor the name of a training job.")
    with service_errors(f"describe training job {source!r}"):
        job = clients("sagemaker").describe_training_job(TrainingJobName=source)
    tree = home and home / "jobs" / source / "ml"
    if tree and tree.is_dir():
        return Run(tree)
    output = job["OutputDataConfig"]["S3OutputPath"]
    configs = {"debug-output": job.get("DebugHookConfig"), "profiler-output": job.get("ProfilerConfig")}
    prefixes = {
        kind: f"{(config.get('S3OutputPath') or output).rstrip('/')}/{source}/{kind}"
        for kind, config in configs.items()
        if config is not None
    }
    if found := {kind: uri for kind, uri in prefixes.items() if next(listed(clients, uri), None)}:
        return Run(scratch, found)
    own = f"{output.rstrip('/')}/{source}/output"
    names = {item["Key"].rpartition("/output/")[2] for item in listed(clients, own)}
    if STATUS in names and not judged_anew:
        return Run(scratch, {".": f"{own}/debugger"})
    if ARCHIVE not in names:
        state = job["TrainingJobStatus"]
        raise ServiceError(f"Training job {source} ({state}) has saved neither tensors nor an {ARCHIVE}.")
    with service_errors(f"read {own}/{ARCHIVE}"):
        bucket, key = split_uri(f"{own}/{ARCHIVE}")
        unpack(f"{own}/{ARCHIVE}", clients("s3").get_object(Bucket=bucket, Key=key)["Body"].read(), scratch)
    return Run(scratch)


def unpack(uri: str, content: bytes, folder: Path) -> None:
    """Unpack the regular files of an archive; nothing that leads elsewhere."""
    left = LARGEST_BYTES
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as packed:
            for member in packed:
                left -= member.size
                if left < 0:
                    raise ValueError(f"it holds more than {LARGEST_BYTES >> 30} GiB")
                if member.isreg():
                    packed.extract(member, folder, filter="data")
    except DAMAGE as problem:
        raise ServiceError(f"{uri} cannot be unpacked: {problem}.") from problem


def listed(clients: Clients, uri: str) -> Iterator[dict[str, Any]]:
    """Yield the objects below a prefix, as S3 lists them."""
    bucket, prefix = split_uri(f"{uri}/")
    with service_errors(f"list {uri}"):
        yield from items(clients("s3"), "list_objects_v2", Bucket=bucket, Prefix=prefix)


def download(clients: Clients, run: Run) -> None:
    """Bring what is new of a run's prefixes; what is left out is said in `run.said`."""
    places: dict[Path, tuple[str, dict[str, Any]]] = {}
    for folder, uri in run.prefixes.items():
        bucket, prefix = split_uri(f"{uri}/")
        for item in listed(clients, uri):
            name = PurePosixPath(item["Key"].removeprefix(prefix))
            is_wanted = WANTED.intersection(name.parts[:-1]) or name.name in WANTED_FILES
            if is_wanted and ".." not in name.parts and not item["Key"].endswith("/"):
                places[run.folder / folder / name] = bucket, item
    if not places:
        raise ServiceError(f"There is nothing of a run below {' and '.join(run.prefixes.values())}.")
    total = sum(item["Size"] for _, item in places.values())
    if (every := -(-total // LARGEST_BYTES)) > 1:
        steps = {path: int(found[1]) for path in places if (found := STEP.search(path.as_posix()))}
        kept = {-1, *sorted(set(steps.values()))[::every]}
        places = {path: place for path, place in places.items() if steps.get(path, -1) in kept}
        run.said = f"It has {total / 1e9:.1f} GB: of its saved steps, 1 of {every} was downloaded."
    new = [path for path, (_, item) in places.items() if not path.is_file() or path.stat().st_size != item["Size"]]
    client = clients("s3")

    def bring(path: Path) -> None:
        bucket, item = places[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(path))
        os.utime(path, (item["LastModified"].timestamp(),) * 2)  # rules on standstill go by the times of saving

    stages = {path: next((n for n, part in enumerate(ORDER) if part in path.parts), len(ORDER)) for path in new}
    for stage in range(len(ORDER) + 1):
        with service_errors("read what the run has saved"):
            list(in_threads(bring, [path for path, found in stages.items() if found == stage]))
