"""What a person sees: progress while an execution runs, and the table at its end. Fits 80 columns."""

import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from botocore.exceptions import ClientError

from pipeline.aws.errors import explain, is_missing
from pipeline.service.control import service_errors
from pipeline.service.status import JOB_GROUPS, job_of
from pipeline.service.targets import Target

LINES_A_LOOK = 3
LAST_LINES = 10
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey
SHOWN_CHARACTERS = 1000  # of a line of a log
WIDTH = 80
LABEL = 14
LENT = "of an earlier execution"
HEADING = 29  # before what is said of a step: seconds and name
ENDED = ("Succeeded", "Failed", "Stopped")
UNREMARKABLE = re.compile(r"\w+: (InProgress|NoIssuesFound)|(rule_\w+=[01] ?)+")  # of a debugger rule
REMARKABLE = (": IssuesFound", ": Error")


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """Its lines of at most `width` characters; a name or an option is not parted at a hyphen."""
    return textwrap.wrap(text, width, break_on_hyphens=False)


class Progress:
    """Prints what has changed since the last look: steps, trials, and the lines that jobs print.

    On a terminal the newest line of a job replaces the one before; elsewhere every line is plain.
    """

    def __init__(self, target: Target, stream: TextIO) -> None:
        self.target = target
        self.stream = stream
        self.live = stream.isatty()
        self.began = time.monotonic()
        self.states: dict[str, str] = {}
        self.trials: set[str] = set()
        self.streams: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.unreadable: set[str] = set()

    def look(self, steps: list[dict[str, Any]]) -> None:
        """Say what is new."""
        for step in steps:
            name, status = step["StepName"], step["StepStatus"]
            if name not in self.states:
                self.states[name] = "Executing"
                if "CacheHitResult" not in step and status not in ENDED:
                    self.say(name, "started")
            if self.states[name] in ENDED:
                continue
            self.follow(step)
            if status in ENDED:
                self.states[name] = status
                self.say(name, ending(step))
                for line in wrapped(step.get("FailureReason", ""), WIDTH - HEADING):
                    self.say(name, line)

    def follow(self, step: Mapping[str, Any]) -> None:
        """What the step's job has said since.

        Raises:
            PassingError: AWS was not reached; the next look may do better.
        """
        job = job_of(step)
        if job is None or "CacheHitResult" in step:
            return
        with service_errors(f"follow step {step['StepName']!r}"):
            if job[0] == "TuningJob":
                self.follow_trials(step["StepName"], job[1])
            elif lines := self.new_lines(JOB_GROUPS[job[0]], job[1]):
                for line in [found for found in lines if not UNREMARKABLE.fullmatch(found)][-LINES_A_LOOK:]:
                    tell = self.say if line.endswith(REMARKABLE) else self.hint
                    tell(step["StepName"], epoch_text(line))

    def follow_trials(self, step_name: str, job_name: str) -> None:
        """One line for each trial that has ended."""
        pages = self.target.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
        try:
            found = [
                trial
                for page in pages.paginate(HyperParameterTuningJobName=job_name)
                for trial in page["TrainingJobSummaries"]
            ]
        except ClientError:
            return
        for number, trial in enumerate(found, start=1):
            if trial["TrainingJobStatus"] != "InProgress" and trial["TrainingJobName"] not in self.trials:
                self.trials.add(trial["TrainingJobName"])
                self.say(step_name, f"trial {number} {trial_text(trial)}")

    def new_lines(self, group: str, job_name: str) -> list[str]:
        """Lines of the job's log since the last look; of a job on several instances, the first one's."""
        logs, log_group = self.target.client("logs"), f"/aws/sagemaker/{group}"
        try:
            stream = self.stream_of(logs, log_group, job_name)
            if stream is None:
                return []
            token = {"nextToken": self.tokens[job_name]} if job_name in self.tokens else {}
            answer = logs.get_log_events(logGroupName=log_group, logStreamName=stream, startFromHead=True, **token)
        except ClientError as problem:
            return self.not_readable(log_group, problem)
        self.tokens[job_name] = answer["nextForwardToken"]
        return [event["message"].rstrip() for event in answer["events"] if event["message"].strip()]

    def stream_of(self, logs: Any, log_group: str, job_name: str) -> str | None:
        """The job's log stream, once there is one."""
        if job_name not in self.streams:
            found = logs.describe_log_streams(logGroupName=log_group, logStreamNamePrefix=f"{job_name}/")["logStreams"]
            if not found:
                return None
            self.streams[job_name] = found[0]["logStreamName"]
        return self.streams[job_name]

    def not_readable(self, log_group: str, problem: ClientError) -> list[str]:
        """No lines; why, said once, unless the log is only not there yet."""
        if not is_missing(problem) and log_group not in self.unreadable:
            self.unreadable.add(log_group)
            return [f"The log cannot be shown: {explain(problem)}"]
        return []

    def say(self, step: str, text: str) -> None:
        """A line that stays."""
        erase = "\r\x1b[K" if self.live else ""
        print(f"{erase}{self.elapsed()} {step:<20} {printable(text)}", file=self.stream, flush=True)

    def hint(self, step: str, text: str) -> None:
        """A line that, on a terminal, the next one replaces."""
        if not self.live:
            self.say(step, text)
            return
        line = f"{self.elapsed()} {step:<20} {printable(text)}"[: WIDTH - 1]
        print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)

    def elapsed(self) -> str:
        """Seconds since the start."""
        return f"{time.monotonic() - self.began:6.1f}s"


def printable(line: str) -> str:
    """Return a job's line as a terminal may show it: no control characters, and not without end."""
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", COLOUR.sub("", line))
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


def epoch_text(line: str) -> str:
    """An epoch's line in a form that fits; any other line as it is."""
    values = dict(re.findall(r"(\w+)=([0-9.]+)", line)) if line.startswith("epoch=") else {}
    if not values.keys() >= {"train_loss", "validation_loss", "train_accuracy", "validation_accuracy"}:
        return line
    loss = f"loss {values['train_loss']}/{values['validation_loss']}"
    accuracy = f"accuracy {values['train_accuracy']}/{values['validation_accuracy']}"
    return f"epoch {values['epoch']:>2} {loss} {accuracy}"


def trial_text(trial: Mapping[str, Any]) -> str:
    """A finished trial in one line."""
    metric = trial.get("FinalHyperParameterTuningJobObjectiveMetric")
    score = f"{metric['Value']:.4f}" if metric else "no objective"
    stopped = "" if trial["TrainingJobStatus"] == "Completed" else f" ({trial['TrainingJobStatus'].lower()})"
    return f"{score}{stopped}  {hyperparameters_text(trial['TunedHyperParameters'])}"


def hyperparameters_text(values: Mapping[str, str]) -> str:
    """name=value, numbers to four digits."""
    return " ".join(f"{name}={shortened(value)}" for name, value in values.items())


def shortened(value: str) -> str:
    """A long number with fewer digits."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def ending(step: Mapping[str, Any]) -> str:
    """How a step ended."""
    if "CacheHitResult" in step:
        return "reused"
    if "SelectiveExecutionResult" in step:
        return LENT
    if outcome := step.get("Metadata", {}).get("Condition", {}).get("Outcome"):
        return f"the condition is {outcome}"
    seconds = (step["EndTime"] - step["StartTime"]).total_seconds() if "EndTime" in step else 0.0
    return f"{step['StepStatus']} after {seconds:.1f} s"


def print_summary(
    document: Mapping[str, Any],
    command: Callable[..., str],
    *,
    own: bool,
    reuse: str,
    usual_endpoint: str | None,
    last_lines: Callable[[str, int], list[str]],
) -> None:
    """The table of steps, what came of them, and what to do next.

    Args:
        document: what `status --json` prints.
        command: puts words into a command line that can be typed.
        own: whether it is this project's pipeline, not any other definition.
        reuse: what makes a reused step unchanged.
        usual_endpoint: the endpoint of pipeline.yaml.
        last_lines: reads the end of a log.
    """
    print(f"\n{'Step':<22}{'Type':<15}{'Status':<12}{'Seconds':>8}  Note")
    for step in document["steps"]:
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f}"
        lent = LENT if step["source_execution"] else ""
        note = "reused" if step["cache_hit"] else lent or step["outcome"] or ""
        print(f"{step['name']:<22}{step['type']:<15}{step['status']:<12}{seconds:>8}  {note}".rstrip())
    if any(step["cache_hit"] for step in document["steps"]) and reuse:
        print("\n".join(["", *wrapped(reuse)]))
    print(f"\nExecution      {document['status']}  {document['execution_arn'].rpartition('/')[2]}")
    for label, text in facts(document):
        print(f"{label:<{LABEL}} {text}")
    for failed in [step for step in document["steps"] if step["status"] == "Failed"]:
        print_failure(failed, last_lines)
    print("\nNext")
    for text, why in next_commands(document, command, usual_endpoint, own):
        print(f"  {text}\n      {why}")


def facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each result."""
    rows = []
    if "test_accuracy" in document["metrics"]:
        rows.append(("Test accuracy", accuracy_words(document["metrics"], document["parameters"])))
    if document["best_hyperparameters"]:
        rows.append(("Winner", hyperparameters_text(document["best_hyperparameters"])))
    if document["rules"]:
        lines = wrapped(rules_text(document["rules"]), WIDTH - LABEL - 1)
        rows += zip(("Rules", *[""] * len(lines)), lines, strict=False)
    if document["model_package_arn"]:
        version = document["model_package_arn"].partition("/")[2]
        rows.append(("Model", f"{version}  {document['model_approval_status']}"))
    if document["endpoint"]:
        rows.append(("Endpoint", f"{document['endpoint']['name']}  {document['endpoint']['status']}"))
        rows += [("", text) for text in (document["endpoint"]["url"], document["endpoint"]["note"]) if text]
    messages = [step["outputs"]["message"] for step in document["steps"] if "message" in step["outputs"]]
    for message in messages[-1:]:
        rows += zip(("Deployment", *[""] * len(message)), wrapped(message, WIDTH - LABEL - 1), strict=False)
    places = {place: name.title() for name, place in reversed(document["reports"].items()) if place}
    rows += [(name, place) for place, name in reversed(places.items())]
    return rows


def accuracy_words(metrics: Mapping[str, float], parameters: Mapping[str, Any]) -> str:
    """The accuracy, of how many images, its interval and what was asked for."""
    said = [f"threshold {parameters['AccuracyThreshold']}"] if "AccuracyThreshold" in parameters else []
    if "test_accuracy_images" in metrics:
        low, high, images = (metrics[f"test_accuracy_{name}"] for name in ("lower_bound", "upper_bound", "images"))
        said.insert(0, f"{images:,} image{'' if images == 1 else 's'}, 95 %: {low:.3f} to {high:.3f}")
    return f"{metrics['test_accuracy']:.4f}" + (f" ({'; '.join(said)})" if said else "")


def rules_text(rules: Mapping[str, str]) -> str:
    """How many rules watched the training, and which of them found a problem or failed."""
    found = [name for name, status in rules.items() if status == "IssuesFound"]
    failed = [name for name, status in rules.items() if status == "Error"]
    said = [
        f"{len(rules)} watched the training",
        "found a problem: " + ", ".join(found) if found else "no problem found",
    ]
    return "; ".join([*said, *(["failed: " + ", ".join(failed)] if failed else [])])


def print_failure(step: Mapping[str, Any], last_lines: Callable[[str, int], list[str]]) -> None:
    """Why a step failed, and the end of its log."""
    print(f"\n{step['name']} failed: {printable(step['failure_reason'])}")
    if step["log"] and (lines := last_lines(step["log"], LAST_LINES)):
        print(f"The last lines of its log, {step['log']}:")
        print("\n".join(f"  {printable(line)}" for line in lines))


def next_commands(
    document: Mapping[str, Any], command: Callable[..., str], usual_endpoint: str | None, own: bool
) -> Iterator[tuple[str, str]]:
    """The commands that make sense now, and why; most of them know this project's own pipeline only."""
    endpoint = document["endpoint"]
    if endpoint and own:
        other = [] if endpoint["name"] == usual_endpoint else ["--endpoint", endpoint["name"]]
        yield command("invoke", document["example_image"] or "IMAGE", *other), "classify an image"
    if document["model_approval_status"] == "PendingManualApproval" and own:
        yield command("approve"), "approve and deploy the model"
    if (document["reports"]["debugger"] or "").startswith("s3://"):
        name = document["execution_arn"].rpartition("/")[2]
        yield command("report", name), "how the training went: rules, curves, profile, search"
    judged = any(step["type"] == "Fail" for step in document["steps"])
    if document["status"] in ("Failed", "Stopped") and not judged:
        yield command("retry"), "go on from the failed step"
    if "InputDataUri" in document["parameters"] and own:
        yield command("run", "--data", "FOLDER"), "your own images: one folder a class"
    yield command("status"), "this summary again"
    if own:
        yield command("teardown"), "end the endpoint and remove what was made"
