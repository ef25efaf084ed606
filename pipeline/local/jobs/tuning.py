"""Runs a Tuning step: training jobs with hyperparameters from a search, so many at a time.

The answer is what DescribeHyperParameterTuningJob and ListTrainingJobsForHyperParameterTuningJob would give.
"""

import asyncio
import os
import secrets
from collections.abc import Mapping
from typing import Any

from pipeline.definition.search_config import read_search_config
from pipeline.errors import DefinitionError
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, now
from pipeline.local.jobs.search import Search, Trial
from pipeline.local.jobs.training import TrainingJob
from pipeline.local.jobs.warm_start import WarmStartError, known_trials
from pipeline.local.sandbox.launcher import WarmParent
from pipeline.local.store.state import Document, is_full

OBJECTIVE_HYPERPARAMETER = "_tuning_objective_metric"
COUNTERS = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
COUNTED_AS = {"Failed": "NonRetryableError"}
SUMMARY_LIMIT = 50
COUNTING = ("Completed", "Stopped")  # statuses of trials whose objective counts
SUMMARIZED = (
    "TrainingJobName",
    "TrainingJobArn",
    "TrainingJobStatus",
    "CreationTime",
    "TrainingStartTime",
    "TrainingEndTime",
    "FailureReason",
)


async def run_tuning(call: StepCall, runtime: Runtime) -> StepResult:
    """One Tuning step.

    Raises:
        StepFailure: no trial reported the objective, or the search cannot begin where it should.
    """
    try:
        job = TuningJob(call, runtime)
    except (WarmStartError, DefinitionError) as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    metadata = {"TuningJob": {"Arn": job.document["HyperParameterTuningJobArn"]}}
    try:
        await job.run()
    except asyncio.CancelledError:
        job.finish("Stopped")
        raise
    except BaseExceptionGroup as problem:  # what no other trial would fare better with
        reason = f"InternalServerError: {problem.exceptions[0]}"
        job.finish("Failed", FailureReason=reason)
        raise StepFailure(reason, metadata=metadata) from problem
    if not job.ranked():
        reason = job.failure_reason()
        job.finish("Failed", FailureReason=reason)
        raise StepFailure(reason, metadata=metadata)
    job.finish("Completed")
    return StepResult(job.properties(), metadata, job.outputs())


class TuningJob:
    """One search."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.runtime = runtime
        self.name = call.job_name
        self.config = call.arguments["HyperParameterTuningJobConfig"]
        self.template: Mapping[str, Any] = call.arguments["TrainingJobDefinition"]
        config = read_search_config(self.config, self.template.get("StaticHyperParameters"))
        self.search = Search(config, known_trials(call.arguments, runtime.state))
        self.objective = self.config["HyperParameterTuningJobObjective"]
        self.parallel = config.max_parallel
        self.parent = WarmParent()
        self.trials: list[tuple[Trial, TrainingJob]] = []
        self.expired = False
        self.document: Document = {
            "HyperParameterTuningJobName": self.name,
            "HyperParameterTuningJobArn": arn("hyper-parameter-tuning-job", self.name),
            **call.arguments,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": now(),
        }
        self.save()

    async def run(self) -> None:
        """Start trials as places become free, until the search has enough or time is up."""
        limit = self.config["ResourceLimits"].get("MaxRuntimeInSeconds")
        timer = asyncio.get_running_loop().call_later(float(limit), self.expire) if limit else None
        try:
            async with asyncio.TaskGroup() as group:
                await self.keep_busy(group)
        finally:
            if timer:
                timer.cancel()
            self.parent.close()

    async def keep_busy(self, group: asyncio.TaskGroup) -> None:
        """At most MaxParallelTrainingJobs trials at a time."""
        running: set[asyncio.Task[None]] = set()
        while True:
            while len(running) < self.parallel and not self.expired and (trial := self.search.ask()):
                running.add(group.create_task(self.run_trial(trial)))
            if not running:
                return
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if self.search.done:
                self.stop_running()

    def expire(self) -> None:
        """MaxRuntimeInSeconds has passed."""
        self.expired = True
        self.stop_running()

    def stop_running(self) -> None:
        """What still runs is stopped, and counts with what it has reached."""
        for _, job in self.trials:
            if job.document["TrainingJobStatus"] == "InProgress":
                job.stop()

    async def run_trial(self, trial: Trial) -> None:
        """One training job; its failure is the trial's, not the search's."""
        job = TrainingJob(
            f"{self.name}-{len(self.trials) + 1:03d}-{secrets.token_hex(4)}",
            self.trial_request(trial),
            self.runtime,
            threads=max(1, (os.cpu_count() or 1) // self.parallel),
            parent=self.parent,
        )
        job.document["TuningJobArn"] = self.document["HyperParameterTuningJobArn"]
        self.trials.append((trial, job))

        def on_metric(name: str, value: float) -> None:
            if name == self.objective["MetricName"] and self.search.report(trial, value):
                job.stop()

        try:
            await job.run(on_metric)
        except StepFailure as failure:  # recorded in the job's document
            if is_full(failure):
                raise
        finally:
            status = job.document["TrainingJobStatus"]
            self.search.finish(trial, "Stopped" if status == "InProgress" else status, self.value_of(job))
            self.save()

    def trial_request(self, trial: Trial) -> Document:
        """The training request of one trial."""
        template = {k: v for k, v in self.template.items() if k not in ("StaticHyperParameters", "DefinitionName")}
        hyperparameters = {
            **(self.template.get("StaticHyperParameters") or {}),
            **trial.hyperparameters,
            OBJECTIVE_HYPERPARAMETER: self.objective["MetricName"],
        }
        return {**template, "HyperParameters": hyperparameters}

    def value_of(self, job: TrainingJob) -> float | None:
        """The last value of the objective that the job printed."""
        return job.values.get(self.objective["MetricName"], (None, None))[0]

    def ranked(self) -> list[tuple[Trial, TrainingJob]]:
        """Trials with an objective and an end that counts, best first, earlier ones first among equals."""
        sign = -1 if self.objective["Type"] == "Maximize" else 1
        counted = [
            (sign * value, number)
            for number, (_, job) in enumerate(self.trials)
            if (value := self.value_of(job)) is not None and job.document["TrainingJobStatus"] in COUNTING
        ]
        return [self.trials[number] for _, number in sorted(counted)]

    def summary(self, trial: Trial, job: TrainingJob) -> Document:
        """HyperParameterTrainingJobSummary."""
        document, value = job.document, self.value_of(job)
        ended = document["TrainingJobStatus"] != "InProgress"
        found: Document = {
            "TrainingJobDefinitionName": self.template.get("DefinitionName"),
            "TuningJobName": self.name,
            "TunedHyperParameters": trial.hyperparameters,
            "ObjectiveStatus": ("Succeeded" if value is not None else "Failed") if ended else "Pending",
            **{name: document.get(name) for name in SUMMARIZED},
        }
        if value is not None:
            found["FinalHyperParameterTuningJobObjectiveMetric"] = {**self.objective, "Value": value}
        return {name: member for name, member in found.items() if member is not None}

    def properties(self) -> Document:
        """The Describe answer with TrainingJobSummaries, best first."""
        best_first = [self.summary(trial, job) for trial, job in self.ranked()]
        return {**self.document, "TrainingJobSummaries": best_first[:SUMMARY_LIMIT]}

    def outputs(self) -> list[str]:
        """Where the trials' models are."""
        return [job.output_uri for _, job in self.ranked()]

    def failure_reason(self) -> str:
        """Why there is no winner."""
        if not self.trials:
            return "No training job was started: the search had nothing to try."
        reasons = [job.document.get("FailureReason") for _, job in self.trials]
        last = next((reason for reason in reversed(reasons) if reason), None)
        if last:
            return f"All {len(self.trials)} training jobs failed. The last one: {last}"
        return (
            f"No training job printed the objective {self.objective['MetricName']!r}; "
            "its regular expression in MetricDefinitions never matched a number."
        )

    def finish(self, status: str, **more: Any) -> None:
        """Record how the search ended."""
        self.document.update(HyperParameterTuningJobStatus=status, HyperParameterTuningEndTime=now(), **more)
        self.save()

    def save(self) -> None:
        """Write the document with counters and the best trial so far, and every trial's summary."""
        statuses = [job.document["TrainingJobStatus"] for _, job in self.trials]
        summaries = [self.summary(trial, job) for trial, job in self.trials]
        objectives = [summary["ObjectiveStatus"] for summary in summaries]
        self.document.update(
            LastModifiedTime=now(),
            TrainingJobStatusCounters={
                name: sum(COUNTED_AS.get(status, status) == name for status in statuses) for name in COUNTERS
            },
            ObjectiveStatusCounters={name: objectives.count(name) for name in ("Succeeded", "Pending", "Failed")},
        )
        if best := self.ranked():
            self.document["BestTrainingJob"] = self.summary(*best[0])
        self.runtime.state.put("HyperParameterTuningJob", self.name, {**self.document, "Trials": summaries})
