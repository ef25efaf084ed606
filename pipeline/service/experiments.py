"""Executions as MLflow runs, written from outside the jobs: an execution is a run, its steps and trials its children.

The store is a SQLite file of the home with the artifacts beside it, on AWS the MLflow server that pipeline.yaml names,
by the plugin sagemaker-mlflow. A run is found again by its tags, and gets the tag `written` when it is complete, so
writing may be interrupted and repeated. Importing MLflow takes two seconds: only what writes pays for that.
"""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.local.engine.runner_process import taken_lock
from pipeline.local.store.storage import place, replacing
from pipeline.service import executions
from pipeline.service.executions import ENDED, JobLogs, job_of, source_of
from pipeline.service.reports import described, training_job
from pipeline.service.status import status
from pipeline.service.targets import Target

ENVIRONMENT = {  # nothing is sent, no lines about tables, and a server that does not answer is reported soon
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}  # fmt: skip
STATUSES = {"Succeeded": "FINISHED", "Completed": "FINISHED", "Failed": "FAILED", "Stopped": "KILLED"}  # else RUNNING
SERVICES_OWN = ("sagemaker_", "_tuning_")  # hyperparameters
UNTAKEN = re.compile(r"[^\w\-. :]|^\.+")  # of a name, by MLflow
LONGEST_NAME, LONGEST_VALUE = 250, 5000  # characters
PARAMETERS_AT_ONCE, METRICS_AT_ONCE = 100, 900  # MLflow takes 1,000 of both
MOST_RUNS = 5000  # of one execution
LOCK_WAIT_SECONDS = 300.0
PARENT, PIPELINE = "mlflow.parentRunId", "pipeline"  # tags: of children, of executions
RUNS = """SELECT runs.run_uuid id, name, status, start_time, end_time FROM tags JOIN runs USING (run_uuid)
    WHERE key = ? AND value = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC LIMIT ? OFFSET ?"""


class Run(NamedTuple):
    """A run as it is to be: of an execution, a step or a trial."""

    name: str
    status: str
    started: datetime | None
    ended: datetime | None
    tags: dict[str, Any]
    training_job: str | None = None  # whose hyperparameters and metrics are the run's
    parameters: Mapping[str, Any] = {}
    metrics: Mapping[str, list[float]] = {}  # a value for each epoch
    artifacts: Mapping[str, str | None] = {}  # name -> URI, or on this machine its file

    @property
    def stamp(self) -> str:
        """What tells that a run is written as it is; the same for all that go on."""
        return f"{self.status} {self.ended.isoformat()}" if self.ended and self.status in STATUSES else "not yet"


def store_uri(target: Target, home: Path) -> str:
    """Return MLflow's tracking URI: the home's SQLite file, on AWS the ARN of the server."""
    if target.name == "local":
        return f"sqlite:///{database(home)}"
    if server := target.placement.mlflow_tracking_server_arn:
        return server
    raise UsageError("Set aws.mlflow_tracking_server_arn in pipeline.yaml: no MLflow server is named there.")


def database(home: Path) -> Path:
    return home.resolve() / "mlflow" / "mlflow.db"


def written(home: Path, tag: str, value: str, start: int, count: int) -> list[dict[str, Any]]:
    """Return a home's runs that have a tag, the newest first: by SQL, as MLflow takes two seconds to be imported.

    MLflow's tables, as of its version 3, are named here and in RUNS alone.
    """
    if not database(home).exists():
        return []
    try:
        with closing(sqlite3.connect(f"{database(home).as_uri()}?mode=ro", uri=True)) as store:
            store.row_factory = sqlite3.Row
            found = [dict(row) for row in store.execute(RUNS, (tag, value, count, start))]
            for run in found:
                for kind, table in (("params", "params"), ("tags", "tags"), ("metrics", "latest_metrics")):
                    run[kind] = dict(store.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", [run["id"]]))
    except sqlite3.Error as problem:
        raise ServiceError(f"{database(home)} cannot be read: {problem}.") from problem
    return found


def write_executions(target: Target, home: Path, name: str, last: int) -> list[str]:
    """Write the newest executions of a pipeline, unless they are written as they are; return the names of these."""
    newest, uri = executions.recent(target, name, last), store_uri(target, home)
    if not newest and not home.is_dir():
        return []
    os.environ.update(ENVIRONMENT)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with taken_lock(home / "locks" / "experiments", LOCK_WAIT_SECONDS):
            store = Store(target, database(home), uri)
            return [each["execution"] for each in reversed(newest) if store.write(each["execution_arn"])]
    except BlockingIOError as problem:
        raise ServiceError(f"Another process has been writing to {uri} for {LOCK_WAIT_SECONDS:.0f} s.") from problem
    except (MlflowException, SQLAlchemyError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise ServiceError(f"Nothing more could be written to {uri}: {reason}") from problem


class Store:
    """Writes executions to MLflow, one after the other."""

    def __init__(self, target: Target, database: Path, uri: str) -> None:
        from mlflow import MlflowClient, set_tracking_uri

        self.target, self.artifacts = target, database.with_name("artifacts")
        if target.name == "local" and not database.exists():
            with replacing(database) as unfinished:  # whole, or not at all
                MlflowClient(f"sqlite:///{unfinished}")
        set_tracking_uri(uri)  # which SageMaker's plugin asks for
        self.client, self.experiment = MlflowClient(), ""
        self.known = dict[tuple[str, str], Any]()  # the runs of the execution that is being written

    def write(self, arn: str) -> bool:
        """Write an execution unless it is written as it is; return whether it was written now."""
        from mlflow.entities import ViewType

        answer, steps = executions.describe(self.target, arn), executions.steps(self.target, arn)
        named = answer.get("MLflowConfig", {}).get("MlflowExperimentName")
        self.experiment = self.experiment_id(named or executions.pipeline_of(arn))
        found = self.client.search_runs([self.experiment], f"tags.execution_arn = '{arn}'", ViewType.ALL, MOST_RUNS)
        self.known = {key(run.data.tags): run for run in found}
        times = answer["CreationTime"], answer["LastModifiedTime"]
        run = Run(arn.rpartition("/")[2], answer["PipelineExecutionStatus"], *times, {"execution_arn": arn})
        if self.is_complete(run):
            return False
        parent = self.put(run._replace(ended=None))
        for child in (child for step in steps for child in step_runs(self.target, arn, step)):
            if not self.is_complete(child):
                child.tags[PARENT] = parent
                self.put(with_training(self.target, child))
        self.put(execution_run(self.target, run, answer.get("CreatedBy", {}), steps))
        return True

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment, which is created if there is none."""
        location = self.artifacts.as_uri() if self.target.name == "local" else None
        known = self.client.get_experiment_by_name(name)
        if known and location not in (None, known.artifact_location):
            raise ServiceError(f"{self.artifacts.parent} was copied from elsewhere: remove it, and it is written anew.")
        return str(known.experiment_id if known else self.client.create_experiment(name, location))

    def is_complete(self, run: Run) -> bool:
        """Return whether a run is written as it is, or somebody has deleted it in MLflow."""
        found = self.known.get(key(run.tags))
        if found is None or found.info.lifecycle_stage == "deleted":
            return found is not None
        return run.ended is not None and run.stamp == found.data.tags.get("written")

    def put(self, run: Run) -> str:
        """Write all that a run has, then its status, and at last that it is complete; return its id."""
        from mlflow.entities import Metric, Param, RunTag

        tags, started = {name: text(value) for name, value in run.tags.items()}, milliseconds(run.started)
        new = self.known.get(key(run.tags)) or self.client.create_run(self.experiment, started, tags, run.name)
        self.known[key(run.tags)], own, ended = new, str(new.info.run_id), milliseconds(run.ended)
        given = {taken(name): text(value) for name, value in run.parameters.items()}
        parameters = [Param(*item) for item in given.items() if item[0] not in new.data.params]  # none is ever changed
        metrics = [Metric(taken(name), value, ended, epoch) for name, values in run.metrics.items()
                   for epoch, value in enumerate(values, start=1)]  # fmt: skip
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(own, params=parameters[start : start + PARAMETERS_AT_ONCE])
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(own, metrics[start : start + METRICS_AT_ONCE])
        for name, source in run.artifacts.items():
            with suppress(PipelineError, OSError):  # what is gone is left out
                if source and self.target.name == "local":
                    place(Path(source).resolve(strict=True), self.artifacts / own / "artifacts" / name)
                elif source and source.endswith(".html"):
                    self.client.log_text(own, self.target.read(source).decode(), name)
        if run.status in STATUSES and ended:
            self.client.set_terminated(own, STATUSES[run.status], ended)
        else:
            self.client.update_run(own, "RUNNING")
        tags |= {"status": run.status, "written": run.stamp}
        self.client.log_batch(own, tags=[RunTag(*item) for item in tags.items()])
        return own


def execution_run(target: Target, run: Run, author: Mapping[str, Any], steps: list[dict[str, Any]]) -> Run:
    """Return the run of an execution, with all that it has."""
    document, job = status(target, run.tags["execution_arn"]), training_job(steps)
    model = described(target, job[0]).get("ModelArtifacts", {}).get("S3ModelArtifacts") if job else None
    best = document["best_hyperparameters"] if run.status == "Succeeded" else {}  # else a retry may find others
    pipeline, reports = executions.pipeline_of(run.tags["execution_arn"]), document["reports"]
    page = f"/executions/{pipeline}/{run.name}"
    tags = {
        PIPELINE: pipeline,
        "mlflow.user": author.get("UserProfileName") or author.get("IamIdentity", {}).get("Arn"),
        "mlflow.note.content": f"`run_pipeline.py status {run.name}`, or {page} of `run_pipeline.py studio`",
        "failure_reason": document["failure_reason"],
        "rules": ", ".join(rule for rule, verdict in document["rules"].items() if verdict == "IssuesFound"),
        "model": model,
        "model_package_arn": document["model_package_arn"],
    }
    return run._replace(
        tags=run.tags | {name: value for name, value in tags.items() if value},
        parameters={**document["parameters"], **{f"best {name}": value for name, value in best.items()}},
        metrics={name: [value] for name, value in document["metrics"].items()},
        artifacts={"evaluation.html": reports["evaluation"], "training.html": reports["debugger"],
                   "model.tar.gz": model and target.where(model)},
    )  # fmt: skip


def step_runs(target: Target, arn: str, step: Mapping[str, Any]) -> Iterator[Run]:
    """Yield a step, once it has ended or has its job, then its trials, unless another execution's result was reused."""
    (member, job), source, name = job_of(step) or ("", ""), source_of(step), step["StepName"]
    outcome = step.get("Metadata", {}).get("Condition", {}).get("Outcome")
    tags = {"step_name": name, "job_name": job, "result_of": source, "failure_reason": step.get("FailureReason"),
            "outcome": outcome, "execution_arn": arn}  # fmt: skip
    if job or step["StepStatus"] in ENDED:
        yield Run(name, step["StepStatus"], step.get("StartTime"), step.get("EndTime"),
                  {name: value for name, value in tags.items() if value},
                  job if member == "TrainingJob" and not source else None)  # fmt: skip
    for number, trial in enumerate(executions.trials(target, job) if member == "TuningJob" and not source else (), 1):
        own, final = trial["TrainingJobName"], trial.get("FinalHyperParameterTuningJobObjectiveMetric")
        yield Run(f"trial {number}", trial["TrainingJobStatus"], trial.get("TrainingStartTime"),
                  trial.get("TrainingEndTime"), {"step_name": name, "job_name": own, "execution_arn": arn}, own,
                  metrics={"objective": [final["Value"]]} if final else {})  # fmt: skip


def with_training(target: Target, run: Run) -> Run:
    """Return a run with the hyperparameters of its training job and all values of the metrics in its log."""
    if run.training_job is None or run.status not in STATUSES:
        return run
    job, logs, values = described(target, run.training_job), JobLogs(target), dict[str, list[float]]()
    patterns = dict[str, re.Pattern[str]]()
    for each in job["AlgorithmSpecification"].get("MetricDefinitions", []):
        with suppress(re.error):  # SageMaker's are not all Python's
            patterns[each["Name"]] = re.compile(each["Regex"])
    while lines := logs.new_lines("TrainingJobs", run.training_job):
        for name, found in ((name, pattern.search(line)) for line in lines for name, pattern in patterns.items()):
            with suppress(ValueError, TypeError, IndexError):  # no number, or no group
                if found:
                    values.setdefault(name, []).append(float(found[1]))
    own = {name: value for name, value in job.get("HyperParameters", {}).items() if not name.startswith(SERVICES_OWN)}
    return run._replace(parameters=own, metrics={**run.metrics, **values})


def key(tags: Mapping[str, str]) -> tuple[str, str]:
    """Return what tells a run from the others of its execution."""
    return tags.get("step_name", ""), tags.get("job_name", "")


def taken(name: str) -> str:
    return UNTAKEN.sub("_", name)[:LONGEST_NAME]


def text(value: object) -> str:
    return str(value)[:LONGEST_VALUE]


def milliseconds(time: datetime | None) -> int | None:
    return int(1000 * time.timestamp()) if time else None
