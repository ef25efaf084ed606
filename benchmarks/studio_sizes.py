"""Measures lists and searches in a home with 10,000 executions and 100,000 training jobs, beside one with ten.

    python benchmarks/studio_sizes.py [--home FOLDER] [--executions 10000] [--jobs 100000] [--times 20]

A folder that is filled already is used as it is. Times are of whole answers of a page of 100, by HTTP from
`run_pipeline.py studio`, and of its pages.
"""

import argparse
import json
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.local import session  # noqa: E402
from pipeline.local.jobs.runtime import arn  # noqa: E402
from pipeline.local.store.state import State  # noqa: E402

PIPELINES = ("image-classification", "nightly", "other")
STEPS = ("PrepareData", "TuneHyperparameters", "TrainWithDebugger", "EvaluateModel")
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=any/20300101/us-east-1/sagemaker/aws4_request"}
START = 1_700_000_000.0
PAGE_MILLISECONDS = 200.0
DEFINITION = {"Version": "2020-12-01", "Parameters": [], "Steps": [{"Name": f"Step{n}", "Type": "Fail", "Arguments":
              {"ErrorMessage": "x" * 1000}} for n in range(25)]}  # fmt: skip


def fill(state: State, executions: int, jobs: int) -> None:
    """Fill a home by the functions with which runs fill theirs, a thousand records in a transaction."""
    for name in PIPELINES:
        role = "arn:aws:iam::000000000000:role/any"
        session(state.home).client("sagemaker").create_pipeline(
            PipelineName=name, PipelineDefinition=json.dumps(DEFINITION), RoleArn=role, ClientRequestToken="t" * 32
        )
    for begin in range(0, executions, 1000):
        with state.transaction():
            for number in range(begin, min(executions, begin + 1000)):
                add_execution(state, number)
    for begin in range(0, jobs, 1000):
        with state.transaction():
            for number in range(begin, min(jobs, begin + 1000)):
                add_trial(state, number)


def add_execution(state: State, number: int) -> None:
    """An execution that has ended, with its steps."""
    name, began = PIPELINES[number % len(PIPELINES)], START + 60 * number
    execution = f"{arn('pipeline', name)}/execution/{number:012}"
    status = ("Succeeded", "Failed", "Stopped")[number % 10 % 3]
    document = {
        "PipelineArn": arn("pipeline", name), "PipelineName": name, "PipelineExecutionArn": execution,
        "PipelineExecutionStatus": status, "CreationTime": began, "LastModifiedTime": began + 50,
        "PipelineExecutionDisplayName": f"run {number}", "Definition": DEFINITION, "Options": {},
        "Parameters": {"AccuracyThreshold": number % 100 / 100, "DataUri": f"s3://local/data/{number}"},
        "ParallelismConfiguration": {},
    }  # fmt: skip
    state.add_execution(document)
    for step in STEPS:
        record = {"StepName": step, "StepType": "Processing", "StepStatus": "Succeeded", "StartTime": began,
                  "EndTime": began + 10, "AttemptCount": 1, "Metadata": {}, "Properties": {}}  # fmt: skip
        state.put_step(execution, record)


def add_trial(state: State, number: int) -> None:
    """A trial as a search leaves it, of about three kilobytes."""
    tuning, name, began = number // 100, f"trial-{number:06}", START + 6 * number
    channel = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://local/data/{number % 7}",
                                "S3DataDistributionType": "FullyReplicated"}}  # fmt: skip
    metrics = ["train:loss", "train:accuracy", "validation:loss", "validation:accuracy", "selection:accuracy"]
    document = {
        "TrainingJobName": name, "TrainingJobArn": arn("training-job", name),
        "TuningJobArn": arn("hyper-parameter-tuning-job", f"tuning-{tuning}"),
        "TrainingJobStatus": "Failed" if number % 50 == 0 else "Completed", "SecondaryStatus": "Completed",
        "HyperParameters": {"lr": str(number % 1000 / 1000), "epochs": str(number % 40), "folds": "5", "seed": "0",
                            "hidden_units": "256", "dropout": "0.3", "weight_decay": "0.0001", "batch_size": "64",
                            "sagemaker_program": "trial.py"},
        "AlgorithmSpecification": {"TrainingInputMode": "File", "TrainingImage": f"image:{number % 3}",
                                   "MetricDefinitions": [{"Name": metric, "Regex": f"{metric}=([0-9.eE+-]+)"}
                                                         for metric in metrics]},
        "InputDataConfig": [{"ChannelName": channel_name, "DataSource": channel}
                            for channel_name in ("embeddings", "manifest", "code")],
        "OutputDataConfig": {"S3OutputPath": "s3://local/jobs/TuneHyperparameters", "CompressionType": "GZIP"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600}, "RoleArn": "arn:aws:iam::000000000000:role/local-job",
        "ModelArtifacts": {"S3ModelArtifacts": f"s3://local/jobs/TuneHyperparameters/{name}/output/model.tar.gz"},
        "FinalMetricDataList": [{"MetricName": metric, "Value": number % 997 / 997, "Timestamp": began + 3}
                                for metric in metrics],
        "CreationTime": began, "LastModifiedTime": began + 5, "TrainingStartTime": began, "TrainingEndTime": began + 5,
        "TrainingTimeInSeconds": 5, "BillableTimeInSeconds": 5,
    }  # fmt: skip
    state.put("TrainingJob", name, document)


def where(*filters: tuple[str, str, str]) -> dict[str, Any]:
    """A SearchExpression."""
    members = ("Name", "Operator", "Value")
    return {"SearchExpression": {"Filters": [dict(zip(members, each, strict=True)) for each in filters]}}


def asked() -> Iterator[tuple[str, str, dict[str, Any], float]]:
    """What is measured: operation, words, request, and the limit in milliseconds."""
    pipeline = arn("pipeline", PIPELINES[0])
    tuning = arn("hyper-parameter-tuning-job", "tuning-7")
    yield "ListTrainingJobs", "all", {}, 50
    yield "ListTrainingJobs", "a status", {"StatusEquals": "Failed"}, 50
    yield "ListTrainingJobs", "a name that is nowhere", {"NameContains": "zzz"}, 50
    yield "ListTrainingJobs", "by name", {"SortBy": "Name"}, 50
    yield "ListTrainingJobs", "before a time", {"CreationTimeBefore": START + 1000}, 50
    yield "ListPipelines", "all", {}, 50
    yield "ListPipelineExecutions", "of one pipeline", {"PipelineName": PIPELINES[0]}, 50
    yield "ListPipelineExecutions", "the first", {"PipelineName": PIPELINES[0], "SortOrder": "Ascending"}, 50
    found = {"Resource": "PipelineExecution", "SortBy": "CreationTime"}
    yield "Search", "executions", found, 50
    yield "Search", "of one pipeline", found | where(("PipelineArn", "Equals", pipeline)), 50
    yield "Search", "of a status", found | where(("PipelineExecutionStatus", "Equals", "Failed")), 50
    yield "Search", "by display name", found | where(("PipelineExecutionDisplayName", "Contains", "99")), 50
    yield "Search", "by a parameter", found | where(("PipelineParameters.Value", "Contains", "data/77")), 500
    found = {"Resource": "TrainingJob"}
    yield "Search", "training jobs", found, 50
    yield "Search", "of one search", found | where(("TuningJobArn", "Equals", tuning)), 50
    yield "Search", "of a time", found | where(("CreationTime", "GreaterThan", "2023-11-20T00:00:00")), 50
    yield "Search", "by hyperparameter", found | where(("HyperParameters.lr", "LessThan", "0.005")), 500
    yield "Search", "by metric", found | where(("Metrics.train:loss", "GreaterThan", "0.995")), 500
    yield "Search", "by image", found | where(("AlgorithmSpecification.TrainingImage", "Equals", "none")), 500


def pages() -> Iterator[str]:
    """The addresses of pages, each with a limit of PAGE_MILLISECONDS."""
    first, last = f"{PIPELINES[0]}/{0:012}", f"{PIPELINES[0]}/{9:012}"
    yield from ("/executions", "/executions.part", f"/executions?pipeline={PIPELINES[0]}", "/executions?status=Failed")
    yield from (
        "/executions?text=99",
        "/executions?text=nowhere",
        f"/executions/{first}",
        f"/executions/{first}/live?step=",
    )
    yield from (f"/compare?a={first}&b={last}", f"/start/{PIPELINES[0]}", "/experiments", "/experiments?start=5")
    yield from ("/models", "/endpoints", "/data", "/schedules")


def fill_experiments(home: Path, executions: int, jobs: int) -> None:
    """Fill MLflow's store with runs of the executions and trials, each with ten parameters and metrics."""
    words = [sys.executable, ROOT / "run_pipeline.py", "experiments", "--home", home, "--pipeline", "none"]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as store, store:
        store.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (99, 'many', 'active')")
        for number in range(executions + jobs):
            run, began = f"{number:032}", int(1000 * (START + number))
            tag = (
                ("pipeline", PIPELINES[0])
                if number < executions
                else ("mlflow.parentRunId", f"{number % executions:032}")
            )
            columns = "run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id"
            values = (run, f"run {number}", "FINISHED", began, began + 5000, "active", 99)
            store.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            store.execute("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", (*tag, run))
            for name in (f"name{n}" for n in range(10)):
                store.execute("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", (name, "0.001", run))
                values = (name, 0.5, began, 1, False, run)
                store.execute("INSERT INTO latest_metrics VALUES (?, ?, ?, ?, ?, ?)", values)


@contextmanager
def served(home: Path) -> Iterator[tuple[str, requests.Session]]:
    """The address of a server of the home, and a browser that has opened its link, within the block."""
    words = [sys.executable, ROOT / "run_pipeline.py", "studio", "--home", home, "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(found for line in process.stdout if (found := re.search(r"(http://[\d.]+:\d+)/\S+", line)))
            with requests.Session() as client:
                client.get(found[0])
                yield found[1], client
        finally:
            process.terminate()


def measure(home: Path, executions: int, jobs: int, times: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the median and the 99th percentile of each request in milliseconds."""
    state = State(home)
    if not state.count("PipelineExecution", []):
        fill(state, executions, jobs)
        fill_experiments(home, executions, jobs)
    taken = {}
    with served(home) as (url, client):
        for operation, words, members, _ in asked():
            body = json.dumps({"MaxResults": 100, **members})
            headers = {**SIGNED, "X-Amz-Target": f"SageMaker.{operation}"}
            taken[operation, words] = timed(times, lambda: client.post(url, body, headers=headers))  # noqa: B023
        for path in pages():
            taken["page", path] = timed(times, lambda: client.get(url + path))  # noqa: B023
    return taken


def timed(times: int, ask: Callable[[], requests.Response]) -> tuple[float, float]:
    """Return the median and the 99th percentile of some requests in milliseconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        reply = ask()
        seconds.append(time.perf_counter() - began)
        assert reply.ok, f"{reply.url}: {reply.text}"
    return statistics.median(seconds) * 1000, sorted(seconds)[int(0.99 * times)] * 1000


def main() -> int:
    """Print a table; 1 if a median is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = measure(Path(folder) / "small", 10, 10, options.times)
        large = measure(options.home or Path(folder) / "large", options.executions, options.jobs, options.times)
    print(f"{'milliseconds':<66} {'ten':>8} {'many':>8} {'p99':>8} {'limit':>6}")
    is_slow = False
    rows = [(operation, words, limit) for operation, words, _, limit in asked()]
    for operation, words, limit in [*rows, *(("page", path, PAGE_MILLISECONDS) for path in pages())]:
        (few, _), (median, worst) = small[operation, words], large[operation, words]
        is_slow = is_slow or median > limit
        print(f"{operation:<23} {words:<42} {few:8.1f} {median:8.1f} {worst:8.1f} {limit:6.0f}")
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
