"""Runs a Tuning step: training jobs with hyperparameters from a search, so many at a time.

The answer is what DescribeHyperParameterTuningJob and ListTrainingJobsForHyperParameterTuningJob would give. A search
may learn from earlier ones by WarmStartConfig, as the guide's automatic-model-tuning-warm-start page has it: parents
have ended, and have the same objective and as many hyperparameters; their own parents do not count.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import DefinitionError
from pipeline.local.checks.search import read_search_config
from pipeline.local.jobs.runtime import Runtime, StepCall, StepFailure, StepResult, arn, now, record_job
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


async def run_tuning(call: StepCall, runtime: Runtime) -> StepResult:
    """One Tuning step; StepFailure if no trial reported the objective, or the search cannot begin."""
    try:
        job = TuningJob(call, runtime)
    except DefinitionError as problem:
        raise StepFailure(f"ClientError: {problem}") from problem
    metadata = {"TuningJob": {"Arn": job.document["HyperParameterTuningJobArn"]}}
    try:
        await job.run()
    except asyncio.CancelledError:
        job.save("Stopped")
        raise
    except BaseExceptionGroup as problem:  # what no other trial would fare better with
        reason = f"InternalServerError: {problem.exceptions[0]}"
        job.save("Failed", FailureReason=reason)
        raise StepFailure(reason, metadata=metadata) from problem
    ranked = job.ranked()
    if not ranked:
        job.save("Failed", FailureReason=job.failure_reason())
        raise StepFailure(job.failure_reason(), metadata=metadata)
    job.save("Completed")
    summaries = [job.summary(trial) for trial in ranked[:SUMMARY_LIMIT]]
    properties = {**job.document, "TrainingJobSummaries": summaries}
    return StepResult(properties, metadata, [trial.output_uri for trial in ranked])


class TrialJob(TrainingJob):
    """The training job of a trial."""

    def __init__(self, tuning: "TuningJob", trial: Trial) -> None:
        self.tuning, self.trial = tuning, trial
        request = {name: value for name, value in tuning.template.items() if name != "DefinitionName"}
        request["HyperParameters"] = {
            **request.pop("StaticHyperParameters", {}),
            **trial.hyperparameters,
            OBJECTIVE_NAME: tuning.objective["MetricName"],
        }
        request["TuningJobArn"] = tuning.document["HyperParameterTuningJobArn"]
        name = f"{tuning.name}-{len(tuning.trials) + 1:03d}-{secrets.token_hex(4)}"
        super().__init__(name, request, tuning.runtime)
        self.parent = tuning.parent
        self.link_from_bytes = 0  # what so many jobs read is not copied for each
        if "OMP_NUM_THREADS" not in os.environ:  # the trial's share of the processors
            self.environment["OMP_NUM_THREADS"] = str(
                max(1, (os.cpu_count() or 1) // tuning.search.config.max_parallel)
            )

    @property
    def status(self) -> str:
        """TrainingJobStatus."""
        return str(self.document["TrainingJobStatus"])

    @property
    def objective(self) -> float | None:
        """The last value of the objective that the script printed."""
        return self.trial.reports[-1] if self.trial.reports else None

    def on_metric(self, name: str, value: float) -> None:
        """Stop the trial where the search says so."""
        if name == self.tuning.objective["MetricName"] and self.tuning.search.report(self.trial, value):
            self.stop()


class TuningJob:
    """One search; `document` is what DescribeHyperParameterTuningJob answers."""

    def __init__(self, call: StepCall, runtime: Runtime) -> None:
        """Begin, or raise a DefinitionError: the search cannot be made, or not learn from a parent."""
        self.runtime = runtime
        self.name = call.job_name
        self.config = call.arguments["HyperParameterTuningJobConfig"]
        self.template: Mapping[str, Any] = call.arguments["TrainingJobDefinition"]
        self.search = Search(read_search_config(call.arguments), list(known_trials(call.arguments, runtime.state)))
        self.objective = self.config["HyperParameterTuningJobObjective"]
        self.parent = WarmParent()
        self.trials: list[TrialJob] = []
        self.expired = False
        self.document: Document = {
            "HyperParameterTuningJobName": self.name,
            "HyperParameterTuningJobArn": arn("hyper-parameter-tuning-job", self.name),
            **call.arguments,
            "CreationTime": now(),
        }
        self.save("InProgress")

    async def run(self) -> None:
        """Start trials as places become free, until the search has enough or time is up."""
        limit = self.config["ResourceLimits"].get("MaxRuntimeInSeconds")
        timer = asyncio.get_running_loop().call_later(float(limit), self.expire) if limit else None
        running: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    while not self.expired and (trial := self.search.ask()):
                        running.add(group.create_task(self.run_trial(trial)))
                    if not running:
                        break
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    if self.search.done:
                        self.stop_running()
        finally:
            if timer:
                timer.cancel()
            self.parent.close()

    def expire(self) -> None:
        """MaxRuntimeInSeconds has passed."""
        self.expired = True
        self.stop_running()

    def stop_running(self) -> None:
        """What still runs is stopped, and counts with what it has reached."""
        for trial in self.trials:
            if trial.status == "InProgress":
                trial.stop()

    async def run_trial(self, trial: Trial) -> None:
        """One training job; its failure is the trial's, not the search's."""
        job = TrialJob(self, trial)
        self.trials.append(job)
        self.save()
        try:
            await job.run()
        except StepFailure as failure:  # recorded in the job's document
            if is_full(failure):
                raise
        finally:
            self.search.finish(trial, "Stopped" if job.status == "InProgress" else job.status)
            self.save()

    def ranked(self) -> list[TrialJob]:
        """Trials with an objective and an end that counts, best first, earlier ones first among equals."""
        counted = [trial for trial in self.trials if trial.status in COUNTING and trial.objective is not None]
        return sorted(counted, key=lambda trial: -self.search.sign * (trial.objective or 0))

    def summary(self, trial: TrialJob) -> Document:
        """HyperParameterTrainingJobSummary."""
        value = trial.objective
        objective = {} if value is None else {**self.objective, "Value": value}
        ended = "Failed" if value is None else "Succeeded"
        found: Document = {
            "TrainingJobDefinitionName": self.template.get("DefinitionName"),
            "TuningJobName": self.name,
            "TunedHyperParameters": trial.trial.hyperparameters,
            "ObjectiveStatus": "Pending" if trial.status == "InProgress" else ended,
            "FinalHyperParameterTuningJobObjectiveMetric": objective or None,
            **{name: trial.document.get(name) for name in SUMMARIZED},
        }
        return {name: member for name, member in found.items() if member is not None}

    def failure_reason(self) -> str:
        """Why there is no winner."""
        if not self.trials:
            return "No training job was started: the search had nothing to try."
        if reasons := [trial.document["FailureReason"] for trial in self.trials if "FailureReason" in trial.document]:
            return f"All {len(self.trials)} training jobs failed. The last one: {reasons[-1]}"
        return (
            f"No training job printed the objective {self.objective['MetricName']!r}; "
            "its regular expression in MetricDefinitions never matched a number."
        )

    def save(self, status: str | None = None, **more: Any) -> None:
        """Write the document with counters and the best trial so far, and every trial's summary."""
        if status:
            self.document.update(HyperParameterTuningJobStatus=status, **more)
            if status != "InProgress":
                self.document["HyperParameterTuningEndTime"] = now()
        summaries = [self.summary(trial) for trial in self.trials]
        self.document.update(LastModifiedTime=now(), **counted(summaries))
        if best := self.ranked():
            self.document["BestTrainingJob"] = self.summary(best[0])
        document = {**self.document, "Trials": summaries}
        record_job(self.runtime.state, "HyperParameterTuningJob", self.name, document)


def counted(trials: Sequence[Document]) -> Document:
    """Return the counters of a search over the summaries of its trials."""
    statuses = [trial["TrainingJobStatus"].replace("Failed", "NonRetryableError") for trial in trials]
    objectives = [trial["ObjectiveStatus"] for trial in trials]
    return {
        "TrainingJobStatusCounters": {name: statuses.count(name) for name in COUNTERS},
        "ObjectiveStatusCounters": {name: objectives.count(name) for name in ("Succeeded", "Pending", "Failed")},
    }


def known_trials(request: Mapping[str, Any], state: State) -> Iterator[Known]:
    """The hyperparameters and objectives of all parents' trials; DefinitionError if one cannot be a parent."""
    for named in request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", []):
        name = named["HyperParameterTuningJobName"]
        parent = state.get("HyperParameterTuningJob", name)
        fault = parent_fault(parent, request) if parent else "which does not exist"
        if parent is None or fault:
            raise DefinitionError([f"WarmStartConfig names the tuning job {name!r}, {fault}."])
        static = parent["TrainingJobDefinition"].get("StaticHyperParameters", {})
        for trial in parent.get("Trials", []):
            if reached := trial.get("FinalHyperParameterTuningJobObjectiveMetric"):
                yield {**static, **trial["TunedHyperParameters"]}, float(reached["Value"])


def parent_fault(parent: Document, request: Mapping[str, Any]) -> str | None:
    """Why a search cannot learn from a tuning job, as the end of a sentence: it runs, or it was another search."""
    if (status := parent["HyperParameterTuningJobStatus"]) not in (*COUNTING, "Failed"):
        return f"which is {status}; wait for its end"
    (theirs, their_count), (objective, count) = searched(parent), searched(request)
    if theirs != objective:
        return f"whose objective is {theirs}, not {objective}"
    counts = f"which has {their_count} hyperparameters, static and searched, not {count}"
    return counts if their_count != count else None


def searched(request: Mapping[str, Any]) -> tuple[str, int]:
    """The objective with its direction, and how many hyperparameters there are, static and searched."""
    config = request["HyperParameterTuningJobConfig"]
    objective, ranges = config["HyperParameterTuningJobObjective"], config.get("ParameterRanges", {})
    static = request["TrainingJobDefinition"].get("StaticHyperParameters", {})
    names = {entry["Name"] for kind in ranges.values() for entry in kind or []}
    return f"{objective['MetricName']} {objective['Type']}", len(names | set(static))
