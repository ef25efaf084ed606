"""Makes the training report of an execution: the debugger's output unpacked, the search asked for, one page written.

The page is written by steps/classifier/watch/training_report.py, which the training job runs too. It is started as a
process of its own, as jobs are: `steps/` is job code, which imports nothing of this package.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, ServiceError
from pipeline.paths import STEPS
from pipeline.service import control
from pipeline.service.debug_output import (
    DAMAGE,
    HTML_NAME,
    download,
    output_uri,
    saved_report,
    training_job,
    unpack,
)
from pipeline.service.status import job_of, tuning_job
from pipeline.service.targets import Target

MODULE = "classifier.watch.training_report"


class NothingSaved(ServiceError):
    """A training without the debugger's files."""


def keep_report(target: Target, execution_arn: str) -> None:
    """Write the report of an execution's training below the local target's home, unless it is there.

    A training job whose result is reused keeps its report; only another search makes it a new one. What goes wrong is
    said on standard error: the execution itself is not concerned.
    """
    if target.reports is None:
        return
    try:
        steps = control.steps(target, execution_arn)
    except ServiceError:  # whoever asks for the execution's status next hears of it
        return
    try:
        found = training_job(steps)
        if found and found[1] and not is_current(target.reports / found[0], search_job(steps)):
            make_report(target, steps, target.reports / found[0])
    except NothingSaved:
        return
    except PipelineError as problem:
        print(f"There is no training report: {problem}", file=sys.stderr)


def is_current(folder: Path, search: str | None) -> bool:
    """Whether a folder holds the report of a training with that search."""
    saved = saved_report(folder)
    return saved is not None and (saved.get("search") or {}).get("name") == search


def make_report(target: Target, steps: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Fetch what the training saved, and write the report; the path of its page.

    Args:
        target: where the execution ran.
        steps: of ListPipelineExecutionSteps, one of which has a training job that has ended.
        folder: of the report; made if need be.

    Raises:
        NothingSaved: the debugger saved nothing.
        ServiceError: the output cannot be read, or the report cannot be written.
    """
    found = training_job(steps)
    uri = output_uri(target, found[0]) if found else None
    if uri is None:
        raise NothingSaved("the training saved no debugger files")
    content = download(target, uri)
    with tempfile.TemporaryDirectory(prefix="training-report-") as scratch:
        output_dir = Path(scratch) / "output"
        output_dir.mkdir()
        try:
            saved = unpack(content, output_dir)
        except DAMAGE as problem:
            raise ServiceError(f"{uri} cannot be unpacked: {problem}.") from problem
        if not saved:
            raise NothingSaved("the training saved no debugger files")
        search_file = Path(scratch) / "search.json"
        search_file.write_text(json.dumps(search_record(target, steps)))
        run_script("--output-dir", output_dir, "--report-dir", folder, "--search", search_file)
    return folder / HTML_NAME


def run_script(*words: object) -> None:
    """steps/classifier/watch/training_report.py, by this interpreter.

    Raises:
        ServiceError: it failed, with the last line of what it said.
    """
    command = [sys.executable, "-P", "-m", MODULE, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(STEPS)}
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise ServiceError(f"{MODULE} could not write the report: {said}")


def search_job(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Name of the last Tuning step's job."""
    jobs = [job for step in steps if (job := job_of(step)) and job[0] == "TuningJob"]
    return jobs[-1][1] if jobs else None


def search_record(target: Target, steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The search with every trial, as the report reads it; None if there was none or it is gone."""
    name = search_job(steps)
    job = tuning_job(target, name) if name else {}
    if not job:
        return None
    config = job["HyperParameterTuningJobConfig"]
    objective = config.get("HyperParameterTuningJobObjective", {})
    winner = job.get("BestTrainingJob", {}).get("TrainingJobName")
    return {
        "name": name,
        "strategy": config["Strategy"],
        "objective_metric": objective.get("MetricName"),
        "objective_type": objective.get("Type"),
        "trials": [trial(summary, winner) for summary in trial_summaries(target, str(name))],
    }


def trial_summaries(target: Target, name: str) -> list[dict[str, Any]]:
    """ListTrainingJobsForHyperParameterTuningJob, in the order in which the trials were started."""
    with control.service_errors(f"list the trials of tuning job {name!r}"):
        pages = target.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
        found = [
            summary
            for page in pages.paginate(HyperParameterTuningJobName=name)
            for summary in page["TrainingJobSummaries"]
        ]
    return sorted(found, key=lambda summary: summary["CreationTime"])


def trial(summary: Mapping[str, Any], winner: str | None) -> dict[str, Any]:
    """One trial."""
    started, ended = summary.get("TrainingStartTime"), summary.get("TrainingEndTime")
    return {
        "name": summary["TrainingJobName"],
        "status": summary["TrainingJobStatus"],
        "hyperparameters": dict(summary.get("TunedHyperParameters", {})),
        "objective": summary.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value"),
        "seconds": (ended - started).total_seconds() if started and ended else None,
        "winner": summary["TrainingJobName"] == winner,
    }
