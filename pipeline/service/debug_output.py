"""What the debugger left of an execution's training: found through its last Training step, read from output.tar.gz.

SageMaker packs /opt/ml/output/data of a training job as `<S3OutputPath>/<job name>/output/output.tar.gz` (AWS guide,
"your-algorithms-training-algo-output"); the local target does the same. The report and the rules' verdicts are made of
a few small files in it. The archive comes from a job, so only regular files whose names are expected are written.
"""

import contextlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.service.control import service_errors
from pipeline.service.local_target import shown
from pipeline.service.targets import Target

HISTORY, VERDICTS = "history.json", "rules/status.json"
FOLDERS = ("rules", "profile")
LARGEST_BYTES = 512 << 20  # of all files that are unpacked
ENDED = ("Succeeded", "Failed", "Stopped")
HTML_NAME, JSON_NAME = "debugger.html", "debugger.json"
DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


def training_job(steps: Sequence[Mapping[str, Any]]) -> tuple[str, bool] | None:
    """Name of the last Training step's job, and whether it has ended; None without such a step."""
    for step in reversed(steps):
        if job_arn := step.get("Metadata", {}).get("TrainingJob", {}).get("Arn"):
            return str(job_arn).rpartition("/")[2], step["StepStatus"] in ENDED
    return None


def output_uri(target: Target, job_name: str) -> str | None:
    """Where a training job's output.tar.gz is; None if it saved none.

    Raises:
        PipelineError: the job is no longer known, or may not be looked at.
    """
    with service_errors(f"describe training job {job_name!r}"):
        job = target.client("sagemaker").describe_training_job(TrainingJobName=job_name)
    uri = f"{job['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{job_name}/output/output.tar.gz"
    with service_errors(f"look for {uri}"):
        return uri if target.holds(uri) else None


def debug_report(target: Target, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`rules` and `reports` of the status document.

    On the local target the report is the page below the home, if it has been written; on AWS it is made on demand of
    the archive, whose URI stands for it.
    """
    nothing: dict[str, Any] = {"rules": {}, "place": None}
    found = training_job(steps)
    if found is None or not found[1]:
        return nothing
    name = found[0]
    if target.reports and (saved := saved_report(target.reports / name)):
        return {"rules": verdicts_of(saved), "place": shown(target.reports / name / HTML_NAME)}
    with contextlib.suppress(PipelineError):
        uri = output_uri(target, name)
        documents = small_files(download(target, uri)) if uri else {}
        if documents:
            return {"rules": verdicts_of(documents.get(VERDICTS)), "place": None if target.reports else uri}
    return nothing


def saved_report(folder: Path) -> dict[str, Any] | None:
    """A report's JSON, if both its files are there; the JSON is written last."""
    try:
        document = as_json((folder / JSON_NAME).read_bytes())
    except OSError:
        return None
    return document if isinstance(document, dict) and (folder / HTML_NAME).is_file() else None


def verdicts_of(document: Any) -> dict[str, str]:
    """Rule -> status, of rules/status.json or of a report, which hold them alike."""
    rules = document.get("rules") if isinstance(document, dict) else None
    entries = [rule for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    return {str(rule["name"]): str(rule["status"]) for rule in entries if {"name", "status"} <= rule.keys()}


def download(target: Target, uri: str) -> bytes:
    """The archive.

    Raises:
        PipelineError: it cannot be had.
    """
    with service_errors(f"read {uri}"):
        return target.read(uri)


def small_files(content: bytes) -> dict[str, Any]:
    """JSON of the history and the verdicts by name, as far as the archive holds them; the rest is not unpacked."""
    found: dict[str, Any] = {}
    with contextlib.suppress(*DAMAGE):
        for name, member, archive in expected_files(content):
            if name.as_posix() in (HISTORY, VERDICTS) and (stream := archive.extractfile(member)):
                found[name.as_posix()] = as_json(stream.read())
            if len(found) == 2:
                break
    return found


def as_json(content: bytes) -> Any:
    """A document; None for what is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def unpack(content: bytes, folder: Path) -> bool:
    """Write what a report is made of below a folder; whether there was any history or verdict.

    Raises:
        OSError, ValueError, tarfile.TarError, zlib.error, EOFError: the archive is damaged (`DAMAGE`).
    """
    for name, member, archive in expected_files(content):
        stream = archive.extractfile(member)
        if stream:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stream.read())
    return (folder / HISTORY).is_file() or (folder / VERDICTS).is_file()


def expected_files(content: bytes) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo, tarfile.TarFile]]:
    """The regular files that a report is made of; no link, no name that leads elsewhere, no tensor.

    Raises:
        OSError, ValueError, tarfile.TarError, zlib.error, EOFError: the archive is damaged (`DAMAGE`).
    """
    left = LARGEST_BYTES
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            expected = name.as_posix() == HISTORY or (len(name.parts) > 1 and name.parts[0] in FOLDERS)
            if member.isreg() and expected and ".." not in name.parts:
                left -= member.size
                if left < 0:
                    raise ValueError(f"its files are larger than {LARGEST_BYTES >> 20} MiB")
                yield name, member, archive
