"""`drift`: what the endpoint was sent, against what its model was trained on.

The requests are those that data capture has kept. The other side is in the model's version: its network, the baseline
of the training's embeddings beside it, and EvaluateModel's baseline.json. steps/drift.py compares them, a process of
its own as job code is.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.cli.invocation import Arguments, chosen_target, command, loaded, opened
from pipeline.cli.run_commands import started
from pipeline.config.config import Config
from pipeline.errors import ServiceError, UsageError
from pipeline.paths import STEPS
from pipeline.service.batch_transform import approved_version
from pipeline.service.control import service_errors
from pipeline.service.drift_inputs import BASELINE_NAME, newest, put_version
from pipeline.service.local_target import shown
from pipeline.service.targets import Target

SCRIPT = STEPS / "drift.py"
HTML_NAME, JSON_NAME = "drift.html", "drift.json"
CAPTURE = "capture"
METRIC = "DriftScore"
DRIFTED = 3  # exit status: 1 and 2 say that nothing was compared


def drift(arguments: Arguments) -> int:
    """Write the report; 3 if there is drift, which may start the pipeline.

    Raises:
        UsageError: nothing was captured, there is no approved version, or options do not go together.
        ServiceError: the version has no baseline, its files cannot be read, or too few images were captured.
    """
    config = loaded(arguments)
    refuse_options(arguments, config)
    target = chosen_target(arguments, config, reads_only=True)
    endpoint = arguments.endpoint or config.deploy.endpoint_name
    source = arguments.captured or target.placement.uri(config.pipeline.name, CAPTURE, endpoint)
    lines = newest(target, config, source, arguments.last)
    version = approved_version(target, config.registry.model_package_group, arguments.model)
    folder = Path(arguments.out or Path(arguments.home) / "reports" / "drift").resolve()
    write_report(target, lines, version, folder)
    document = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    if arguments.publish:
        put_metric(target, config, endpoint, document)
    document |= {"model_package_arn": version, "report": str(folder / HTML_NAME)}
    if not arguments.json:
        report(document)
    if arguments.retrain and document["drift"]:
        document["execution_arn"] = retrained(arguments)
    if arguments.json:
        print(json.dumps(document))
    return DRIFTED if document["drift"] else 0


def refuse_options(arguments: Arguments, config: Config) -> None:
    """Raise for options that do not go together.

    Raises:
        UsageError: they do not.
    """
    if arguments.publish and arguments.target != "aws":
        raise UsageError("drift --publish is for CloudWatch: --target aws.")
    if arguments.publish and arguments.retrain and config.drift.retrain:
        raise UsageError("With drift.retrain in pipeline.yaml, --publish starts the pipeline; leave out --retrain.")
    if arguments.data and not arguments.retrain:
        raise UsageError("drift --data names what to train with: it goes with --retrain.")


def retrained(arguments: Arguments) -> str:
    """Start the pipeline as `start` does, its search beginning as tuning.warm_start says; the execution's ARN."""
    project = opened(arguments)
    arn = started(arguments, project, chosen_target(arguments, project.config))
    if not arguments.json:
        print(f"Started {arn}\nFollow it with: {command(arguments, 'status', '--watch')}")
        if not arguments.data:
            print("What has not changed is reused: without new images at data.source, or --data, the model stays.")
    return arn


def write_report(target: Target, lines: list[str], version: str, folder: Path) -> None:
    """steps/drift.py, by this interpreter.

    Raises:
        ServiceError: it failed, with the last line of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="drift-") as scratch:
        put_version(target, version, Path(scratch))
        captured = Path(scratch) / "captured.jsonl"
        captured.write_text("\n".join(lines), encoding="utf-8")
        words = {"captured": captured, "model-dir": scratch, "baseline": Path(scratch) / BASELINE_NAME}
        options = [f"--{name}={value}" for name, value in {**words, "report-dir": folder}.items()]
        command = [sys.executable, str(SCRIPT), *options]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"Drift was not judged: {said}")


def put_metric(target: Target, config: Config, endpoint: str, document: dict[str, Any]) -> None:
    """The drift score: above 1 there is drift."""
    with service_errors("put the drift metric"):
        target.client("cloudwatch").put_metric_data(
            Namespace=f"{config.aws.project}/drift",
            MetricData=[
                {
                    "MetricName": METRIC,
                    "Dimensions": [{"Name": "EndpointName", "Value": endpoint}],
                    "Value": document["drift_score"],
                    "Unit": "None",
                }
            ],
        )


def report(document: dict[str, Any]) -> None:
    """The verdicts, and where the report is."""
    verdict = "drift" if document["drift"] else "no drift"
    print(f"{document['images']} captured images against {document['reference_images']} of the training's")
    print(f"  embeddings        distance {document['distance']:.3f}  alarm from {document['threshold']:.3f}  {verdict}")
    print(f"and against {document['test_images']} of the test split")
    for name, found in document["statistics"].items():
        print(f"  {name:<16}  distance {found['distance']:.3f}  by chance  {found['by_chance']:.3f}  {found['drift']}")
    print(f"Drift score {document['drift_score']:.2f}: {verdict}\n{shown(Path(document['report']))}")
