"""What a person sees while an execution runs: steps, trials, the lines of jobs, and how long it may still take."""

import re
import time
from collections.abc import Mapping
from typing import Any, Self, TextIO

from pipeline.cli.output import WIDTH, is_live, printable, with_places
from pipeline.errors import PipelineError
from pipeline.service.comparison import shorten_number
from pipeline.service.executions import (
    ENDED,
    JobLogs,
    ended_trials,
    job_group,
    job_of,
    pipeline_of,
    users_places,
    usual_seconds,
)
from pipeline.service.targets import Target, service_errors

LINES_AT_ONCE = 3
KEPT_SECONDS = 1.0  # the newest line may be why the job fails, which is told at the end
REASON_CHARACTERS = 500  # of a line, that a FailureReason has surely
JOBS_FOLDER = "/opt/ml/"
FROM_EARLIER = "of an earlier execution"
UNREMARKABLE = re.compile(r"\w+: (InProgress|NoIssuesFound)|(rule_\w+=[01] ?)+")  # of a debugger rule
REMARKABLE = re.compile(r"\w+: (IssuesFound|Error)\b")
COLOURS = {"Failed": "red", "Succeeded": "green"}  # of a line that begins so


class Progress:
    """Prints what has changed since it was last shown the steps.

    On a terminal the newest line of each running job, a bar and an estimate stay at the bottom; elsewhere every line
    is plain, and there is no estimate.
    """

    def __init__(self, target: Target, stream: TextIO, execution_arn: str) -> None:
        self.target, self.stream = target, stream
        self.pipeline_name = pipeline_of(execution_arn)
        self.began = time.monotonic()
        self.logs: JobLogs | None = None
        self.statuses: dict[str, str] = {}
        self.started_at: dict[str, float] = {}
        self.newest_lines: dict[str, str] = {}  # of running steps
        self.kept: dict[str, tuple[str, float]] = {}  # newest lines of running steps, and when they came
        self.trials: set[str] = set()
        self.live: Any = None
        self.usual: Mapping[str, float] = {}
        if is_live(stream):
            from rich.console import Console
            from rich.live import Live

            try:
                self.usual = usual_seconds(target, self.pipeline_name, besides=execution_arn)
            except PipelineError:  # an estimate is not worth an end
                self.usual = {}
            self.live = Live(console=Console(file=stream), get_renderable=self.bottom, transient=True)

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, steps: list[dict[str, Any]]) -> None:
        """Print what is new."""
        for step in steps:
            name, status = step["StepName"], step["StepStatus"]
            if name not in self.statuses:
                self.statuses[name] = "Executing"
                self.started_at[name] = time.monotonic()
                if "CacheHitResult" not in step and status not in ENDED:
                    self.say(name, "started")
            if self.statuses[name] in ENDED:
                continue
            self.follow(step)
            if status in ENDED:
                self.statuses[name] = status
                self.newest_lines.pop(name, None)
                self.say(name, describe_end(step))

    def follow(self, step: Mapping[str, Any]) -> None:
        """Print what the step's job has printed since, but for the newest line that may be why it failed."""
        name, job = step["StepName"], job_of(step)
        if job is None or "CacheHitResult" in step:
            return
        with service_errors(f"follow step {name!r}"):
            if job[0] == "TuningJob":
                for number, trial in ended_trials(self.target, job[1]):
                    if trial["TrainingJobName"] not in self.trials:
                        self.trials.add(trial["TrainingJobName"])
                        self.say(name, f"trial {number} {describe_trial(trial)}")
            elif group := job_group(step):
                self.logs = self.logs or JobLogs(self.target)
                lines = [line for line in self.logs.new_lines(*group) if not UNREMARKABLE.fullmatch(line)]
                kept, now = self.kept.pop(name, None), time.monotonic()
                shown = [*([kept] if kept else []), *((line, now) for line in lines[-LINES_AT_ONCE:])]
                for each in shown:
                    self.show_line(step, *each, is_newest=each is shown[-1])

    def show_line(self, step: Mapping[str, Any], line: str, at: float, *, is_newest: bool) -> None:
        """Print a line of a job, or keep it for later; what the reason of a failure repeats is not printed."""
        name, may_wait = step["StepName"], step["StepStatus"] not in ENDED and time.monotonic() < at + KEPT_SECONDS
        if is_newest and line.strip()[:REASON_CHARACTERS] in step.get("FailureReason", ""):
            return
        shown = shorten_epoch(line)
        if JOBS_FOLDER in line:
            shown = with_places(line, users_places(self.target, self.pipeline_name, step))
        if self.live and not REMARKABLE.match(line):
            self.newest_lines[name] = shown
        elif is_newest and may_wait:
            self.kept[name] = (line, at)
        else:
            self.say(name, shown, at)

    def say(self, step: str, text: str, at: float | None = None) -> None:
        """Print a line that stays."""
        line = f"{(at or time.monotonic()) - self.began:6.1f}s {step:<20} {printable(text)}"
        if self.live:
            self.live.console.print(line, style=COLOURS.get(text.partition(" ")[0]), markup=False, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)

    def bottom(self) -> Any:
        """Return what stays at the bottom of a terminal: the newest lines, a bar, the time left."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        clock = f"{time.monotonic() - self.began:6.1f}s"
        lines = [
            Text(f"{clock} {step:<20} {printable(line)}"[: WIDTH - 1], style="dim")
            for step, line in self.newest_lines.items()
        ]
        if not self.usual:
            return Group(*lines, Text(clock, style="dim") if not lines else "")
        total, left = sum(self.usual.values()), self.seconds_left()
        left_text = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            clock,
            ProgressBar(total=total, completed=max(0.0, total - left), width=40),
            "nearly done" if left < 1 else f"about {left_text} left",
        )
        return Group(*lines, bar)

    def seconds_left(self) -> float:
        """Return the usual seconds of the steps that have not ended, less those that running ones have had."""
        now = time.monotonic()
        return sum(
            max(0.0, seconds - (now - self.started_at.get(step, now)))
            for step, seconds in self.usual.items()
            if self.statuses.get(step) not in ENDED
        )


def shorten_epoch(line: str) -> str:
    """Return an epoch's line in a form that fits; any other line as it is."""
    values = dict(re.findall(r"(\w+)=([0-9.]+)", line)) if line.startswith("epoch=") else {}
    if not values.keys() >= {"train_loss", "validation_loss", "train_accuracy", "validation_accuracy"}:
        return line
    loss = f"loss {values['train_loss']}/{values['validation_loss']}"
    accuracy = f"accuracy {values['train_accuracy']}/{values['validation_accuracy']}"
    return f"epoch {values['epoch']:>2} {loss} {accuracy}"


def describe_trial(trial: Mapping[str, Any]) -> str:
    """Return a finished trial in one line."""
    metric = trial.get("FinalHyperParameterTuningJobObjectiveMetric")
    score = f"{metric['Value']:.4f}" if metric else "no objective"
    stopped = "" if trial["TrainingJobStatus"] == "Completed" else f" ({trial['TrainingJobStatus'].lower()})"
    return f"{score}{stopped}  {hyperparameters_text(trial['TunedHyperParameters'])}"


def hyperparameters_text(values: Mapping[str, str]) -> str:
    """Return name=value pairs, numbers to four digits."""
    return " ".join(f"{name}={shorten_number(value)}" for name, value in values.items())


def describe_end(step: Mapping[str, Any]) -> str:
    """Return how a step ended."""
    if "CacheHitResult" in step:
        return "reused"
    if "SelectiveExecutionResult" in step:
        return FROM_EARLIER
    if outcome := step.get("Metadata", {}).get("Condition", {}).get("Outcome"):
        return f"the condition is {outcome}"
    seconds = (step["EndTime"] - step["StartTime"]).total_seconds() if "EndTime" in step else 0.0
    return f"{step['StepStatus']} after {seconds:.1f} s"
