"""What the drift check reads: the captured requests, and of the model's version what says how its training looked."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from pipeline.config.config import Config
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.service.models import model_package
from pipeline.service.targets import Target, objects, service_errors

BASELINE_NAME = "baseline.json"
MODEL_FILES = ("model.onnx", "drift_baseline.npz")
ACCEPTED = "a folder or s3://bucket/prefix with the .jsonl files of a data capture"


def newest_requests(target: Target, config: Config, source: str, count: int) -> list[str]:
    """Return the last events captured, the newest first; a UsageError if there is none."""
    lines: list[str] = []
    for text in files_backwards(target, source):
        lines += reversed([line for line in text.split("\n") if line.strip()])
        if len(lines) >= count:
            break
    if not lines:
        percent = config.deploy.data_capture_percent
        capture = f"captures {percent} %" if percent else "captures nothing (0)"
        raise UsageError(
            f"{source} holds no captured request. deploy.data_capture_percent {capture} of the requests: "
            f"{'send some, or ' if percent else 'set it and run the pipeline, or '}name by --captured {ACCEPTED}."
        )
    return lines[:count]


def files_backwards(target: Target, source: str) -> Iterator[str]:
    """Yield the captured files' text, the newest first: below a variant they are named after their time."""
    folder, is_remote = Path(source), source.startswith("s3://")
    if not is_remote and not folder.is_dir():
        raise UsageError(f"--captured {source}: there is no such folder; {ACCEPTED} is accepted.")
    below = None if is_remote else [each.relative_to(folder).as_posix() for each in folder.rglob("*.jsonl")]
    names = sorted(
        objects(target, source) if below is None else below, key=lambda name: name.split("/")[-5:], reverse=True
    )
    for name in (name for name in names if name.endswith(".jsonl")):
        content = target.read(f"{source.rstrip('/')}/{name}") if is_remote else (folder / name).read_bytes()
        yield content.decode(errors="replace")


def put_version(target: Target, version_arn: str, folder: Path) -> None:
    """Write a version's baseline.json and model files into a folder; a ServiceError if it was registered without."""
    described, number = model_package(target, version_arn), version_arn.rpartition("/")[2]
    metrics: dict[str, Any] = described.get("ModelMetrics", {})
    uri = str(metrics.get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", ""))
    baseline = required(target, f"{uri.rpartition('/')[0]}/{BASELINE_NAME}", number, BASELINE_NAME)
    (folder / BASELINE_NAME).write_bytes(baseline)
    containers = described.get("InferenceSpecification", {}).get("Containers", [{}])
    archive = required(target, str(containers[0].get("ModelDataUrl", "")), number, "model.tar.gz")
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
            for member in members:
                if member.name.removeprefix("./") in MODEL_FILES:
                    members.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
        raise ServiceError(f"Model version {number} has a model.tar.gz that is damaged: {problem}.") from problem
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise ServiceError(lacking(number, f"no {name} in its model"))


def required(target: Target, uri: str, number: str, name: str) -> bytes:
    try:
        return target.read(uri)
    except (PipelineError, ClientError, ValueError) as problem:
        raise ServiceError(lacking(number, f"no {name} at {uri or 'any place'}")) from problem


def lacking(number: str, what: str) -> str:
    anew = "run_pipeline.py run --no-cache, or on AWS with a shorter pipeline.cache_expire_days"
    return f"Model version {number} has {what}; train it anew with: {anew}"


def put_metric(target: Target, project: str, endpoint: str, score: float) -> None:
    """Put the drift score to CloudWatch: above 1 there is drift."""
    datum = {"MetricName": "DriftScore", "Dimensions": [{"Name": "EndpointName", "Value": endpoint}], "Unit": "None"}
    with service_errors("put the drift metric"):
        target.client("cloudwatch").put_metric_data(
            Namespace=f"{project}/drift", MetricData=[{**datum, "Value": score}]
        )
