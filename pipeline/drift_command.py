"""`drift`: what the endpoint was sent, against what its model was evaluated on.

The requests are those that data capture has kept; the other side is the baseline.json that EvaluateModel has put beside
the evaluation.json which the model's version names. steps/drift.py compares them, a process of its own as job code is.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from pipeline import control
from pipeline.batch_transform import approved_version, objects
from pipeline.bundle import STEPS
from pipeline.config import Config
from pipeline.control import service_errors
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.invocation import Arguments, chosen_target, loaded
from pipeline.local_target import shown
from pipeline.targets import Target

SCRIPT = STEPS / "drift.py"
HTML_NAME, JSON_NAME, BASELINE_NAME = "drift.html", "drift.json", "baseline.json"
CAPTURE, ENDING = "capture", ".jsonl"
METRIC = "LargestDistance"


def drift(arguments: Arguments) -> int:
    """Write the report; 1 if any statistic shows major drift.

    Raises:
        UsageError: nothing was captured, or there is no approved version.
        ServiceError: the version has no baseline, or its files cannot be read.
    """
    config = loaded(arguments)
    if arguments.metric and arguments.target != "aws":
        raise UsageError("drift --metric is for CloudWatch: --target aws.")
    target = chosen_target(arguments, config, reads_only=True)
    endpoint = arguments.endpoint or config.deploy.endpoint_name
    source = arguments.captured or target.placement.uri(config.pipeline.name, CAPTURE, endpoint)
    lines = newest(target, source, arguments.last)
    version = approved_version(target, config.registry.model_package_group, arguments.model)
    folder = Path(arguments.out or Path(arguments.home) / "reports" / "drift").resolve()
    write_report(lines, baseline_of(target, version), folder)
    document = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    if arguments.metric:
        put_metric(target, config, endpoint, document)
    report(arguments, {**document, "model_package_arn": version, "report": str(folder / HTML_NAME)})
    return 1 if document["drift"] == "major" else 0


def newest(target: Target, source: str, count: int) -> list[str]:
    """The last events captured, the newest first.

    Raises:
        UsageError: there is none.
    """
    lines: list[str] = []
    for text in files_backwards(target, source):
        lines += reversed([line for line in text.split("\n") if line.strip()])
        if len(lines) >= count:
            break
    if not lines:
        raise UsageError(
            f"{source} holds no captured request; set deploy.data_capture_percent and deploy, or name captured files "
            "by --captured."
        )
    return lines[:count]


def files_backwards(target: Target, source: str) -> Iterator[str]:
    """The captured files, the newest first: below a variant they are named after their time."""

    def by_time(name: str) -> list[str]:
        return name.split("/")[-5:]

    if source.startswith("s3://"):
        top = f"{source.rstrip('/')}/"
        names = [name for name in objects(target, top) if name.endswith(ENDING)]
        for name in sorted(names, key=by_time, reverse=True):
            yield target.read(f"{top}{name}").decode(errors="replace")
        return
    folder = Path(source)
    if not folder.is_dir():
        raise UsageError(f"--captured {source}: there is no such folder.")
    found = [file.relative_to(folder).as_posix() for file in folder.rglob(f"*{ENDING}")]
    for name in sorted(found, key=by_time, reverse=True):
        yield (folder / name).read_text(encoding="utf-8", errors="replace")


def baseline_of(target: Target, version_arn: str) -> bytes:
    """The baseline of a version.

    Raises:
        ServiceError: it has none, being of an earlier release or registered by somebody else.
    """
    metrics: dict[str, Any] = control.model_package(target, version_arn).get("ModelMetrics", {})
    uri = str(metrics.get("ModelQuality", {}).get("Statistics", {}).get("S3Uri", ""))
    try:
        return target.read(f"{uri.rpartition('/')[0]}/{BASELINE_NAME}")
    except (PipelineError, ClientError) as problem:
        number = version_arn.rpartition("/")[2]
        raise ServiceError(f"Model version {number} has no {BASELINE_NAME} beside {uri or 'its metrics'}; train it "
                           "anew with: run_pipeline.py run --no-cache") from problem  # fmt: skip


def write_report(lines: list[str], baseline: bytes, folder: Path) -> None:
    """steps/drift.py, by this interpreter.

    Raises:
        ServiceError: it failed, with the last line of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="drift-") as scratch:
        captured, known = Path(scratch) / "captured.jsonl", Path(scratch) / BASELINE_NAME
        captured.write_text("\n".join(lines), encoding="utf-8")
        known.write_bytes(baseline)
        words = ("--captured", captured, "--baseline", known, "--report-dir", folder)
        command = [sys.executable, str(SCRIPT), *map(str, words)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"The drift report could not be written: {said}")


def put_metric(target: Target, config: Config, endpoint: str, document: dict[str, Any]) -> None:
    """The largest distance that chance does not explain, 0 without any: an alarm on 0.25 hears of major drift."""
    distances = [found["distance"] for found in document["statistics"].values() if found["drift"] != "none"]
    with service_errors("put the drift metric"):
        target.client("cloudwatch").put_metric_data(
            Namespace=f"{config.aws.project}/drift",
            MetricData=[
                {
                    "MetricName": METRIC,
                    "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
                    "Value": max(distances, default=0.0),
                    "Unit": "None",
                }
            ],
        )


def report(arguments: Arguments, document: dict[str, Any]) -> None:
    """The verdicts, and where the report is."""
    if arguments.json:
        print(json.dumps(document))
        return
    print(f"{document['images']} captured images against {document['baseline_images']} of the test split")
    for name, found in document["statistics"].items():
        print(f"  {name:<16}  distance {found['distance']:.3f}  by chance {found['by_chance']:.3f}  {found['drift']}")
    print(f"Drift: {document['drift']}\n{shown(Path(document['report']))}")
