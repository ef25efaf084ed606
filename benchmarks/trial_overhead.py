"""What one more trial of a search costs beyond its own arithmetic, on the local target.

    python benchmarks/trial_overhead.py                trials that are forked from one warm parent, and started afresh
    python benchmarks/trial_overhead.py --trials 12    more of them

The trials are those of steps/trial.py on made-up embeddings, one after the other, in a search that the real
`run_pipeline.py run --definition` runs. Each measures its own call of `train`; what else passes between the start of
one trial and the start of the next is overhead: placing inputs, starting a process, imports, packing the model. The
first trial of a search, which pays for the warm parent, is printed by itself.
"""

import argparse
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from pipeline.compile.bundle import bundle  # noqa: E402
from pipeline.local.store.state import State  # noqa: E402

BUCKET, CLASSES = "benchmark", 10
TIMED = """
import time
import sys
import trial
from classifier.job.failures import TRAINING_FAILURE, run

def timed(*arguments, **settings):
    began = time.perf_counter()
    result = plain(*arguments, **settings)
    print(f"arithmetic_seconds={time.perf_counter() - began:.4f}", flush=True)
    return result

plain, trial.train = trial.train, timed
sys.exit(run(trial.main, TRAINING_FAILURE))
"""
WAYS = {"forked": {}, "started afresh": {"LOCAL_FORK": "off"}}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # else threads of a busy machine wait for each other


@dataclass(frozen=True)
class Timings:
    """Seconds of one search."""

    first: float  # from the search's own start to the second trial's, less the arithmetic
    overheads: list[float]  # of the other trials, from start to start
    arithmetic: list[float]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description="What one more trial costs beyond its own arithmetic.")
    parser.add_argument("--trials", type=int, default=6, metavar="N", help="trials of each search, 3 to 30 (default 6)")
    parser.add_argument("--images", type=int, default=600, metavar="N", help="training images (default 600)")
    arguments = parser.parse_args()
    if not 3 <= arguments.trials <= 30:
        parser.error(f"argument --trials: must be from 3 to 30, but got {arguments.trials}")
    print(f"{arguments.trials} trials one after the other, {arguments.images} images")
    print(f"seconds{'':24}{'first':>9}{'min':>9}{'median':>9}{'max':>9}{'arithmetic':>12}")
    for name, settings in WAYS.items():
        found = measure(arguments.trials, arguments.images, settings)
        rest = found.overheads
        columns = (found.first, min(rest), median(rest), max(rest))
        print(f"{name:31}" + "".join(f"{value:9.3f}" for value in columns) + f"{median(found.arithmetic):12.3f}")


def measure(trials: int, images: int, settings: dict[str, str]) -> Timings:
    """One search in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as folder:
        home, file = Path(folder, "home"), Path(folder, "search.json")
        place_inputs(home / "s3" / BUCKET, images)
        file.write_text(json.dumps(definition(trials)))
        command = [sys.executable, str(REPOSITORY / "run_pipeline.py"), "run"]
        command += ["--definition", str(file), "--home", str(home), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD, **settings})
        if done.returncode:
            sys.exit(f"{shlex.join(command)} ended with status {done.returncode}:\n{done.stderr}{done.stdout}")
        return timings(home, json.loads(done.stdout)["execution_arn"])


def timings(home: Path, execution_arn: str) -> Timings:
    """What the state and the logs say of the search."""
    state = State(home)
    search = state.steps(execution_arn)[0]["Properties"]
    state.close()
    jobs = sorted(search["TrainingJobSummaries"], key=lambda job: job["CreationTime"])
    arithmetic = [arithmetic_seconds(home / "jobs" / job["TrainingJobName"] / "log.txt") for job in jobs]
    starts = [job["CreationTime"] for job in jobs] + [search["HyperParameterTuningEndTime"]]
    beyond = [after - start - own for (start, after), own in zip(pairwise(starts), arithmetic, strict=True)]
    return Timings(beyond[0], beyond[1:], arithmetic)


def arithmetic_seconds(log: Path) -> float:
    """What a trial printed of its own call of `train`."""
    found = re.search(r"arithmetic_seconds=([0-9.]+)", log.read_text())
    if not found:
        sys.exit(f"A trial did not get to its end:\n{log.read_text()}")
    return float(found[1])


def place_inputs(bucket: Path, images: int) -> None:
    """The trial's code, and embeddings of the width of the default backbone with their manifest."""
    generator = np.random.default_rng(0)
    counts = {"train": images, "validation": max(CLASSES, images // 5)}
    (bucket / "embeddings").mkdir(parents=True)
    for split, count in counts.items():
        views = 4 if split == "train" else 1
        values = generator.standard_normal((count, views, 1280)).astype(np.float16)
        np.save(bucket / "embeddings" / f"{split}-000000.npy", values)
        np.save(bucket / "embeddings" / f"{split}_labels.npy", np.arange(count) % CLASSES)
    manifest = {
        "classes": [str(number) for number in range(CLASSES)],
        "counts": {split: {"all": count} for split, count in counts.items()},
        "preprocess": {},
        "backbone": {"feature_dim": 1280},
    }
    (bucket / "manifest").mkdir()
    (bucket / "manifest" / "manifest.json").write_text(json.dumps(manifest))
    (bucket / "code").mkdir()
    for name, content in {**bundle("trial.py").files, "timed.py": TIMED.encode()}.items():
        (bucket / "code" / name).write_bytes(content)
    with gzip.open(bucket / "sourcedir.tar.gz", "wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(bucket / "code", arcname=".")


def definition(trials: int) -> dict[str, Any]:
    """A pipeline of one search."""
    channels = [
        {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri}}}
        for name, uri in (("embeddings", f"s3://{BUCKET}/embeddings"), ("manifest", f"s3://{BUCKET}/manifest"))
    ]
    static = {
        "sagemaker_program": "timed.py",
        "sagemaker_submit_directory": f"s3://{BUCKET}/sourcedir.tar.gz",
        "epochs": "4",
        "hidden_units": "512",
    }
    job = {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": {
            "TrainingInputMode": "File",
            "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/python:3.11",
            "MetricDefinitions": [{"Name": "accuracy", "Regex": "selection_accuracy=([0-9.]+)"}],
        },
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
        "RoleArn": "arn:aws:iam::123456789012:role/pipeline",
    }
    search = {
        "Strategy": "Random",
        "RandomSeed": 0,
        "ResourceLimits": {"MaxParallelTrainingJobs": 1, "MaxNumberOfTrainingJobs": trials},
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "accuracy"},
        "ParameterRanges": {
            "ContinuousParameterRanges": [
                {"Name": "lr", "MinValue": "0.0005", "MaxValue": "0.004", "ScalingType": "Logarithmic"}
            ]
        },
    }
    arguments = {"HyperParameterTuningJobConfig": search, "TrainingJobDefinition": job}
    step = {"Name": "Search", "Type": "Tuning", "Arguments": arguments}
    return {"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": [step]}


if __name__ == "__main__":
    main()
