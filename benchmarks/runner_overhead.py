"""What the local runner itself costs: six no-op Processing steps, cold and all cached, as whole processes.

    python benchmarks/runner_overhead.py                         six steps in a row, five times
    python benchmarks/runner_overhead.py --shape independent     six steps that may run at once
    python benchmarks/runner_overhead.py --compare "metaflow=python flow.py run"    another tool, timed the same way

Each repetition runs `run_pipeline.py run --definition` twice in a home of its own: first every step is executed, then
every step is taken from the cache; both are checked in the report that `--json` prints. The definition is plain JSON
like that of the SageMaker SDK. Wall seconds are of the whole process, interpreter start included.

A step's inputs are ready when the step before it has ended or, for independent steps, when the first has started. From
then on count the report's `started`, and the first statement of the step's script, which prints the time to its log:
that includes the start of the script's own interpreter.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET, KEY = "benchmark", "code/noop.py"
SCRIPT = "import time\n\nprint(time.time(), flush=True)\n"
PEERS = """Other tools, six no-op tasks, cold / all cached, measured elsewhere and only a hint:
  flytekit 0.77 / 0.66 s (in one process), metaflow 2.0-2.6 / 0.58 s, KFP local 4.2-4.4 / 0.45 s, ZenML 6.0 / 4.1 s"""


@dataclass
class Timings:
    """Everything measured: wall times in seconds, waits in milliseconds."""

    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    launch_ms: list[float] = field(default_factory=list)
    started_ms: list[float] = field(default_factory=list)
    running_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class Span:
    """One executed step."""

    started: datetime
    running: datetime  # the script's first statement
    ended: datetime


def main() -> None:
    """Measures and prints a table."""
    arguments = parse_arguments()
    timings = Timings()
    for _ in range(arguments.repeat):
        measure(timings, definition(arguments.steps, arguments.shape), arguments.shape)
    print(f"{arguments.steps} no-op Processing steps, {arguments.shape}, {arguments.repeat} repetitions")
    print(f"{'':52}{'min':>9}{'median':>9}{'max':>9}")
    print_row("cold, whole process (s)", timings.cold)
    print_row("all cached, whole process (s)", timings.cached)
    print_row("cold: launch until the first script runs (ms)", timings.launch_ms)
    print_row("cold: inputs ready until the step is started (ms)", timings.started_ms)
    print_row("cold: inputs ready until its script runs (ms)", timings.running_ms)
    for name, command in arguments.compare:
        print_row(f"{name}, whole process (s)", [wall_seconds(command) for _ in range(arguments.repeat)])
    print(PEERS)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the local runner itself costs.")
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="repetitions (default 5)")
    parser.add_argument("--steps", type=positive, default=6, metavar="N", help="no-op steps (default 6)")
    parser.add_argument(
        "--shape", choices=("chain", "independent"), default="chain", help="one after the other, or not"
    )
    parser.add_argument(
        "--compare", type=named_command, action="append", default=[], metavar="NAME=COMMAND", help="time it as well"
    )
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {number}")
    return number


def named_command(text: str) -> tuple[str, list[str]]:
    """`NAME=COMMAND`."""
    name, _, command = text.partition("=")
    if not name or not command:
        raise argparse.ArgumentTypeError(f"write NAME=COMMAND, not '{text}'")
    return name, shlex.split(command)


def definition(steps: int, shape: str) -> dict[str, Any]:
    """A pipeline definition of no-op steps, each of which may be cached."""
    names = [f"Noop{number}" for number in range(1, steps + 1)]
    before = {name: [previous] for previous, name in pairwise(names)} if shape == "chain" else {}
    return {
        "Version": "2020-12-01",
        "Metadata": {},
        "Parameters": [],
        "PipelineExperimentConfig": None,
        "MlflowConfig": None,
        "Steps": [noop_step(name, before.get(name, [])) for name in names],
    }


def noop_step(name: str, depends_on: list[str]) -> dict[str, Any]:
    """A Processing step that only tells the time; its environment sets it apart from the others in the cache."""
    code = {
        "InputName": "code",
        "AppManaged": False,
        "S3Input": {
            "S3Uri": f"s3://{BUCKET}/{KEY}",
            "LocalPath": "/opt/ml/processing/input/code",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": "FullyReplicated",
            "S3CompressionType": "None",
        },
    }
    step: dict[str, Any] = {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30}
            },
            "AppSpecification": {
                "ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/python:3.11",
                "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/noop.py"],
            },
            "RoleArn": "arn:aws:iam::123456789012:role/pipeline",
            "ProcessingInputs": [code],
            "Environment": {"STEP": name},
        },
        "CacheConfig": {"Enabled": True, "ExpireAfter": "P1D"},
    }
    return step | ({"DependsOn": depends_on} if depends_on else {})


def measure(timings: Timings, pipeline: dict[str, Any], shape: str) -> None:
    """One repetition: a cold run and a cached one in a fresh home."""
    with tempfile.TemporaryDirectory(prefix="runner-overhead-") as folder:
        home, file = Path(folder, "home"), Path(folder, "overhead.json")
        script = home / "s3" / BUCKET / KEY
        script.parent.mkdir(parents=True)
        script.write_text(SCRIPT)
        file.write_text(json.dumps(pipeline))
        launched = datetime.now(UTC)
        seconds, steps = run(file, home, cached=False)
        timings.cold.append(seconds)
        spans = sorted(span(step) for step in steps)
        timings.launch_ms.append(milliseconds(launched, spans[0].running))
        for ready, step in ready_steps(spans, shape):
            timings.started_ms.append(milliseconds(ready, step.started))
            timings.running_ms.append(milliseconds(ready, step.running))
        timings.cached.append(run(file, home, cached=True)[0])


def run(file: Path, home: Path, *, cached: bool) -> tuple[float, list[dict[str, Any]]]:
    """Wall seconds of one whole `run_pipeline.py run`, and the steps of its report."""
    command = [sys.executable, str(REPOSITORY / "run_pipeline.py"), "run"]
    command += ["--definition", str(file), "--home", str(home), "--json"]
    began = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with status {process.returncode}:\n{process.stderr}")
    steps: list[dict[str, Any]] = json.loads(process.stdout)["steps"]
    for step in steps:
        if step["status"] != "Succeeded" or step["cache_hit"] is not cached:
            sys.exit(f"Expected a step that Succeeded with cache_hit {cached}, but got {json.dumps(step)}.")
    return seconds, steps


def span(step: dict[str, Any]) -> Span:
    """When a step of the report was started, when its script ran, and when it ended."""
    printed = Path(step["log"]).read_text().split()[-1]
    return Span(
        started=datetime.fromisoformat(step["started"]),
        running=datetime.fromtimestamp(float(printed), UTC),
        ended=datetime.fromisoformat(step["ended"]),
    )


def ready_steps(spans: list[Span], shape: str) -> Iterator[tuple[datetime, Span]]:
    """Each step but the first, and when its inputs were ready; of independent ones, those with a place at once."""
    if shape == "chain":
        return ((before.ended, step) for before, step in pairwise(spans))
    first_end = min(span.ended for span in spans)
    return ((spans[0].started, step) for step in spans[1:] if step.started < first_end)


def wall_seconds(command: list[str]) -> float:
    """Wall seconds of any command."""
    began = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with status {process.returncode}:\n{process.stderr}")
    return time.perf_counter() - began


def milliseconds(start: datetime, end: datetime) -> float:
    """From `start` to `end`."""
    return (end - start).total_seconds() * 1000


def print_row(label: str, values: list[float]) -> None:
    """Minimum, median and maximum; nothing when nothing was measured."""
    if values:
        print(f"{label:52}" + "".join(f"{value:9.3f}" for value in (min(values), median(values), max(values))))


if __name__ == "__main__":
    main()
