"""Runs a Tuning step: training jobs with hyperparameters from a search, so many at a time.

The answer is what DescribeHyperParameterTuningJob and ListTrainingJobsForHyperParameterTuningJob would give. A search
may learn from earlier ones by WarmStartConfig, as the guide's automatic-model-tuning-warm-start page has it: parents
have ended, and have the same objective and as many hyperparameters; their own parents do not count.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.definition.search_config import read_search_config
from pipeline.errors import DefinitionError, PipelineError
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, now
from pipeline.local.jobs.search import Known, Search, Trial
from pipeline.local.jobs.toolkit import OBJECTIVE_NAME
from pipeline.local.jobs.training import TrainingJob
from pipeline.local.sandbox.launcher import WarmParent
from pipeline.local.store.state import Document, State, is_full

COUNTING = ("Completed", "Stopped")  # statuses of trials whose objective counts
COUNTERS = ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped")
SUMMARY_LIMIT = 50
SUMMARIZED = ("TrainingJobName", "TrainingJobArn", "TrainingJobStatus", "CreationTime", "TrainingStartTime",
              "TrainingEndTime", "FailureReason")  # fmt: skip


class WarmStartError(PipelineError):
    """A parent that WarmStartConfig names cannot be learned from."""


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
    return StepResult(job.properties(), metadata, [training.output_uri for _, training in job.ranked()])


class TuningJob:
    """One search."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        self.runtime = runtime
        self.name = call.job_name
        self.config = call.arguments["HyperParameterTuningJobConfig"]
        self.template: Mapping[str, Any] = call.arguments["TrainingJobDefinition"]
        config = read_search_config(call.arguments)
        self.search = Search(config, list(known_trials(call.arguments, runtime.state)))
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
            OBJECTIVE_NAME: self.objective["MetricName"],
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
            if job.document["TrainingJobStatus"] in COUNTING and (value := self.value_of(job)) is not None
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

    def failure_reason(self) -> str:
        """Why there is no winner."""
        if not self.trials:
            return "No training job was started: the search had nothing to try."
        if reasons := [job.document["FailureReason"] for _, job in self.trials if "FailureReason" in job.document]:
            return f"All {len(self.trials)} training jobs failed. The last one: {reasons[-1]}"
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
        summaries = [self.summary(trial, job) for trial, job in self.trials]
        statuses = [found["TrainingJobStatus"].replace("Failed", "NonRetryableError") for found in summaries]
        objectives = [found["ObjectiveStatus"] for found in summaries]
        self.document.update(
            LastModifiedTime=now(),
            TrainingJobStatusCounters={name: statuses.count(name) for name in COUNTERS},
            ObjectiveStatusCounters={name: objectives.count(name) for name in ("Succeeded", "Pending", "Failed")},
        )
        if best := self.ranked():
            self.document["BestTrainingJob"] = self.summary(*best[0])
        self.runtime.state.put("HyperParameterTuningJob", self.name, {**self.document, "Trials": summaries})


def known_trials(request: Mapping[str, Any], state: State) -> Iterator[Known]:
    """The hyperparameters and objectives of all parents' trials; none without WarmStartConfig.

    Raises:
        WarmStartError: a parent is missing, has not ended, or searched something else.
    """
    for named in (request.get("WarmStartConfig") or {}).get("ParentHyperParameterTuningJobs") or []:
        name = named["HyperParameterTuningJobName"]
        parent, begin = state.get("HyperParameterTuningJob", name), f"WarmStartConfig names the tuning job {name!r}, "
        if parent is None:
            raise WarmStartError(f"{begin}which does not exist.")
        if (status := parent["HyperParameterTuningJobStatus"]) not in (*COUNTING, "Failed"):
            raise WarmStartError(f"{begin}which is {status}; wait for its end.")
        (their_objective, their_names), (objective, names) = searched(parent), searched(request)
        if their_objective != objective:
            raise WarmStartError(f"{begin}whose objective is {their_objective}, not {objective}.")
        if len(their_names) != len(names):
            counts = f"{len(their_names)} hyperparameters, static and searched, not {len(names)}"
            raise WarmStartError(f"{begin}which has {counts}.")
        static = parent["TrainingJobDefinition"].get("StaticHyperParameters") or {}
        for trial in parent.get("Trials") or []:
            if reached := trial.get("FinalHyperParameterTuningJobObjectiveMetric"):
                yield {**static, **trial["TunedHyperParameters"]}, float(reached["Value"])


def searched(request: Mapping[str, Any]) -> tuple[str, set[str]]:
    """The objective with its direction, and the names of all hyperparameters, static and searched."""
    config = request["HyperParameterTuningJobConfig"]
    objective, ranges = config["HyperParameterTuningJobObjective"], config.get("ParameterRanges") or {}
    static = request["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    names = {entry["Name"] for kind in ranges.values() for entry in kind or []}
    return f"{objective['MetricName']} {objective['Type']}", names | set(static)
