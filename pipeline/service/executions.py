"""Pipelines and their executions: create, start, follow, stop, retry, list; boto3 only, the same for both targets."""

import json
import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, TypeVar

from botocore import xform_name
from botocore.exceptions import ClientError

from pipeline.aws.errors import explain, is_missing
from pipeline.aws.requests import items
from pipeline.compile.placement import INPUTS_STEP
from pipeline.definition.diff import differences
from pipeline.definition.steps import BY_METADATA, read_graph
from pipeline.errors import PassingError, PipelineError, ServiceError, UsageError
from pipeline.service.targets import POLL_SECONDS, Target, ask, ask_all, remembered, service_errors

Answer = TypeVar("Answer")
ACTIVE, ENDED = ("Executing", "Stopping"), ("Succeeded", "Failed", "Stopped")  # the latter of steps, too
WATCH_ATTEMPTS = 12
QUIET_SHARE = 0.02  # of the time without news: what a watcher may be late by
LONGEST_PAUSE_SECONDS = 0.5  # on this machine, so that a step's lines come soon
NOT_FOUND = ("ResourceNotFound", "ResourceNotFoundException", "ValidationException")
JOB_GROUPS = {name: each.log_group for name, each in BY_METADATA.items() if each.log_group}
NEWEST_FIRST = {"SortBy": "CreationTime", "SortOrder": "Descending"}
PAGE = 100  # the most executions that one request lists
COMPARED_EXECUTIONS = 5  # the newest ones, whose steps say how long a step takes
PARENT_EXECUTIONS = 20  # the newest ones, whose searches a new one may begin with


def existing(client: Any, name: str) -> dict[str, Any] | None:
    """Return DescribePipeline, or None if there is no such pipeline."""
    try:
        description: dict[str, Any] = client.describe_pipeline(PipelineName=name)
    except ClientError as problem:
        if problem.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
    return description


def pipeline_names(target: Target) -> list[str]:
    """Return the names of all pipelines, newest first."""
    return [each["PipelineName"] for each in ask_all(target, "list pipelines", "list_pipelines")]


def upsert(
    target: Target,
    *,
    name: str,
    definition: str,
    description: str,
    parallel_steps: int,
    tell: Callable[[list[str]], None] = lambda lines: None,
) -> str:
    """Create the pipeline, or update it where it differs; `tell` hears what changes before it does.

    Returns created, updated or unchanged.
    """
    client, tags = target.client("sagemaker"), [{"Key": key, "Value": value} for key, value in target.tags.items()]
    request = {
        "PipelineName": name,
        "PipelineDefinition": definition,
        "PipelineDescription": description,
        "RoleArn": target.placement.role_arn,
        "ParallelismConfiguration": {"MaxParallelExecutionSteps": parallel_steps},
    }
    with service_errors(f"create or update pipeline {name!r}"):
        known = existing(client, name)
        if known is None:
            new, token = request | ({"Tags": tags} if tags else {}), secrets.token_hex(16)
            try:
                client.create_pipeline(**new, ClientRequestToken=token)
                return "created"
            except ClientError:
                known = existing(client, name)
                if known is None:  # otherwise somebody else was quicker
                    raise
        # what it is tagged with besides is its owner's
        present = list(items(client, "list_tags", ResourceArn=known["PipelineArn"])) if tags else []
        changes, missing = differences(known, request), [tag for tag in tags if tag not in present]
        if not changes and not missing:
            return "unchanged"
        tell([*changes, *(f"tag {tag['Key']}: {tag['Value']}" for tag in missing)])
        if changes:
            client.update_pipeline(**request)
        if missing:
            client.add_tags(ResourceArn=known["PipelineArn"], Tags=missing)
        return "updated"


def start(
    target: Target, name: str, parameters: Mapping[str, str], selection: Mapping[str, Any] | None = None, **more: str
) -> str:
    """Start an execution, of the steps of a SelectiveExecutionConfig if there is one; return its ARN.

    `more` are members of the request, such as PipelineExecutionDisplayName.
    """
    request = {
        "PipelineName": name,
        "PipelineParameters": [{"Name": key, "Value": value} for key, value in parameters.items()],
        "ClientRequestToken": secrets.token_hex(16),
        **({"SelectiveExecutionConfig": selection} if selection else {}),
        **more,
    }
    return str(ask(target, f"start pipeline {name!r}", "start_pipeline_execution", **request)["PipelineExecutionArn"])


def selected_steps(
    content: Mapping[str, Any], named: Sequence[str], *, with_following: bool
) -> tuple[dict[str, Any], set[str]]:
    """Return the SelectiveExecutionConfig of some steps of a definition, also of all that wait for them if so asked,
    and the steps whose values an earlier execution has to give; a UsageError where they cannot be chosen."""
    graph = read_graph(content)
    after = graph.downstream(named) if with_following else set(named)
    chosen = [*(step for step in graph.steps if step in after), *(step for step in named if step not in graph.steps)]
    if problems := list(graph.selection_problems(chosen)):
        raise UsageError("\n".join(problems))
    with_inputs = [INPUTS_STEP, *chosen]  # the data's version and the registered models, as they are now
    if INPUTS_STEP in graph.values_needed(chosen) and not any(graph.selection_problems(with_inputs)):
        chosen = with_inputs
    return {"SelectedSteps": [{"StepName": step} for step in chosen]}, graph.values_needed(chosen)


def start_from(target: Target, arn: str, step: str) -> str:
    """Start an execution of a step and all that wait for it, on what an execution has left; return its ARN."""
    name = pipeline_of(arn)
    known = existing(target.client("sagemaker"), name)
    if known is None:
        raise ServiceError(f"There is no pipeline {name!r} any more.")
    content = json.loads(known["PipelineDefinition"])
    selection, needed = selected_steps(content, [step], with_following=True)
    declared = {parameter["Name"] for parameter in content.get("Parameters") or []}
    values = {key: value for key, value in parameters_of(target, arn).items() if key in declared}
    return start(target, name, values, {**selection, **({"SourcePipelineExecutionArn": arn} if needed else {})})


def stop(target: Target, arn: str) -> None:
    request = {"PipelineExecutionArn": arn, "ClientRequestToken": secrets.token_hex(16)}
    ask(target, f"stop execution {arn}", "stop_pipeline_execution", **request)


def retry(target: Target, arn: str, *, replace_classes: bool = False) -> None:
    """RetryPipelineExecution; with `replace_classes` the version that it registered may replace one of other classes.

    Raises:
        UsageError: it has registered none, which could be given that permission.
    """
    if replace_classes:
        found = [step.get("Metadata", {}).get("RegisterModel", {}).get("Arn") for step in steps(target, arn)]
        if not any(found):
            raise UsageError("--replace-classes is for a registered version; this execution has none: use it with run.")
        for version in filter(None, found):
            update = {"ModelPackageArn": version, "CustomerMetadataProperties": {"replace_classes": "true"}}
            ask(target, f"update the version that {arn} registered", "update_model_package", **update)
    request = {"PipelineExecutionArn": arn, "ClientRequestToken": secrets.token_hex(16)}
    ask(target, f"retry execution {arn}", "retry_pipeline_execution", **request)


def describe(target: Target, arn: str) -> dict[str, Any]:
    """DescribePipelineExecution."""
    try:
        return ask(target, f"find execution {arn}", "describe_pipeline_execution", PipelineExecutionArn=arn)
    except ServiceError as problem:
        if not isinstance(problem.__cause__, ClientError) or not is_missing(problem.__cause__):
            raise
        name, _, execution = arn.partition(":pipeline/")[2].partition("/execution/")
        sentence = f"Pipeline {name!r} has no execution {execution!r}; those there are: run_pipeline.py list"
        raise ServiceError(sentence) from problem


def definition_of(target: Target, arn: str) -> dict[str, Any]:
    """Return the definition that an execution was started with."""
    request = {"PipelineExecutionArn": arn}
    action, operation = f"read the definition of {arn}", "describe_pipeline_definition_for_execution"
    definition: dict[str, Any] = json.loads(ask(target, action, operation, **request)["PipelineDefinition"])
    return definition


def steps(target: Target, arn: str) -> list[dict[str, Any]]:
    """Return the steps that were started, in that order."""
    request = {"PipelineExecutionArn": arn, "SortOrder": "Ascending"}
    return ask_all(target, f"list the steps of {arn}", "list_pipeline_execution_steps", **request)


def parameters_of(target: Target, arn: str) -> dict[str, str]:
    """Return the parameters of an execution, with their defaults."""
    action, operation = f"read the parameters of {arn}", "list_pipeline_parameters_for_execution"
    return {item["Name"]: item["Value"] for item in ask_all(target, action, operation, PipelineExecutionArn=arn)}


def listed(target: Target, name: str, count: int | None = None, **more: Any) -> list[dict[str, Any]]:
    """Return the executions of a pipeline as they are listed, the newest first; at most `count` of them.

    `more` are members of the request, such as CreatedBefore.
    """
    client, request = target.client("sagemaker"), {"PipelineName": name, **NEWEST_FIRST, **more}
    with service_errors(f"list executions of pipeline {name!r}"):
        if existing(client, name) is None:
            return []
        if count and count <= PAGE:
            return list(client.list_pipeline_executions(MaxResults=count, **request)["PipelineExecutionSummaries"])
        return list(items(client, "list_pipeline_executions", **request))[:count]


def search(target: Target, wanted: Mapping[str, str], count: int) -> dict[str, Any]:
    """Search for executions of all pipelines, the newest first: by `pipeline`, `status`, by what it was started
    (`client`) and `text`, a part of the names; `page` is the NextToken of the answer before."""
    arn = target.placement.pipeline_arn(wanted["pipeline"]) if wanted.get("pipeline") else None
    exact = {"PipelineArn": arn, "PipelineExecutionStatus": wanted.get("status"),
             "CreatedBy.IamIdentity.SourceIdentity": wanted.get("client")}  # fmt: skip
    expression = dict[str, Any]()
    if filters := [{"Name": name, "Value": value} for name, value in exact.items() if value]:
        expression["Filters"] = filters
    if text := wanted.get("text"):
        names = ("PipelineExecutionArn", "PipelineExecutionDisplayName")
        by_text = [{"Name": name, "Operator": "Contains", "Value": text} for name in names]
        expression["SubExpressions"] = [{"Filters": by_text, "Operator": "Or"}]
    more = {"SearchExpression": expression, "NextToken": wanted.get("page")}
    request = {"Resource": "PipelineExecution", "MaxResults": count, **NEWEST_FIRST}
    request |= {name: value for name, value in more.items() if value}
    return ask(target, "search for executions", "search", **request)


def recent(target: Target, name: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Return the ARN, status and start of the newest executions of a pipeline; for `more` see `listed`."""
    return [
        {
            "execution": each["PipelineExecutionArn"].rpartition("/")[2],
            "execution_arn": each["PipelineExecutionArn"],
            "status": each["PipelineExecutionStatus"],
            "started": each["StartTime"],
        }
        for each in sorted(listed(target, name, count, **more), key=lambda each: each["StartTime"], reverse=True)
    ]


def execution_arn(target: Target, name: str, wanted: str | None) -> str:
    """Return the ARN of an execution by its ARN, its last part, or the newest; a ServiceError if there is none."""
    if wanted:
        return wanted if wanted.startswith("arn:") else f"{target.placement.pipeline_arn(name)}/execution/{wanted}"
    found = listed(target, name, 1)
    if not found:
        raise ServiceError(f"Pipeline {name!r} has no execution yet; start one with: run_pipeline.py run")
    return str(found[0]["PipelineExecutionArn"])


def source_execution(target: Target, name: str, needed: Set[str]) -> str:
    """Return the newest execution that has ended and in which these steps succeeded; a UsageError if there is none."""
    for summary in listed(target, name):
        arn: str = summary["PipelineExecutionArn"]
        if summary["PipelineExecutionStatus"] not in ACTIVE:
            succeeded = {step["StepName"] for step in steps(target, arn) if step["StepStatus"] == "Succeeded"}
            if needed <= succeeded:
                return arn
    raise UsageError(
        f"No execution of pipeline {name!r} has what the chosen steps read, the values of "
        f"{', '.join(sorted(needed))}; run the whole pipeline first."
    )


def watch(target: Target, arn: str, look: Callable[[list[dict[str, Any]]], None]) -> str:
    """Call `look` with the steps until the execution has ended, which may take hours; return its status."""
    known, changed = None, time.monotonic()

    def end() -> str | None:
        nonlocal known, changed
        status, found = str(describe(target, arn)["PipelineExecutionStatus"]), steps(target, arn)
        look(found)
        if found != known:
            known, changed = found, time.monotonic()
        return None if status in ACTIVE else status

    def pause_seconds() -> float:
        quiet_seconds = time.monotonic() - changed  # here, what asking costs a training lacks
        return max(POLL_SECONDS[target.name], min(quiet_seconds * QUIET_SHARE, LONGEST_PAUSE_SECONDS))

    return poll(end, pause_seconds)


def poll(end: Callable[[], Answer | None], pause_seconds: Callable[[], float]) -> Answer:
    """Ask `end` until it answers; a throttled or unanswered request is repeated, WATCH_ATTEMPTS times in a row."""
    failed = 0
    while True:
        try:
            if answer := end():
                return answer
            failed = 0
        except PassingError:
            failed += 1
            if failed == WATCH_ATTEMPTS:
                raise
        time.sleep(pause_seconds())


def job_of(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return metadata member and name of a step's job."""
    found = [(member, step.get("Metadata", {}).get(member, {}).get("Arn")) for member in JOB_GROUPS]
    return next(((member, arn.rpartition("/")[2]) for member, arn in found if arn), None)


def job_group(step: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the log group's last part and the job's name of a step that ran a job."""
    job = job_of(step)
    return (JOB_GROUPS[job[0]], job[1]) if job and "CacheHitResult" not in step else None


def pipeline_of(execution_arn: str) -> str:
    return execution_arn.partition(":pipeline/")[2].partition("/")[0]


def source_of(step: Mapping[str, Any]) -> str | None:
    """Return the execution that the step's result is of, where it is another one."""
    given: Mapping[str, str] = step.get("CacheHitResult") or step.get("SelectiveExecutionResult") or {}
    return given.get("SourcePipelineExecutionArn")


def describe_job(target: Target, step: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer of the service about a step's job."""
    job = job_of(step)
    if job is None:
        return None
    resource = BY_METADATA[job[0]].resource
    operation = xform_name(f"Describe{resource}")
    return ask(target, f"describe job {job[1]!r}", operation, **{f"{resource}Name": job[1]})


def users_places(target: Target, pipeline_name: str, step: Mapping[str, Any]) -> dict[str, str]:
    """Return what a person calls the folders that a step's job sees: the data's own folder, else where S3 has them."""
    with suppress(PipelineError):
        job = describe_job(target, step) or {}
        inputs = [each["S3Input"] for each in job.get("ProcessingInputs", []) if "S3Input" in each]
        uris = {each["LocalPath"]: each["S3Uri"] for each in inputs if "LocalPath" in each}
        for channel in job.get("InputDataConfig", []):
            place = channel["DataSource"].get("S3DataSource", {}).get("S3Uri", "")
            uris[f"/opt/ml/input/data/{channel['ChannelName']}"] = place
        last = remembered(target, pipeline_name)
        names = {last["uri"]: last["source"]} if last else {}
        return {path: names.get(uri) or target.where(uri) for path, uri in uris.items() if uri}
    return {}


def usual_seconds(target: Target, name: str, *, besides: str = "") -> dict[str, float]:
    """Return the median seconds of each step in the newest executions that succeeded, in the order of their steps.

    Reused steps do not count; one that was only ever reused is left out.
    """
    taken: dict[str, list[float]] = {}
    for execution in recent(target, name, COMPARED_EXECUTIONS):
        if execution["status"] == "Succeeded" and execution["execution_arn"] != besides:
            for step in steps(target, execution["execution_arn"]):
                if "EndTime" in step and "CacheHitResult" not in step and "SelectiveExecutionResult" not in step:
                    seconds = (step["EndTime"] - step["StartTime"]).total_seconds()
                    taken.setdefault(step["StepName"], []).append(seconds)
    return {step: statistics.median(seconds) for step, seconds in taken.items()}


def describe_search(target: Target, tuning_job: str) -> dict[str, Any]:
    """DescribeHyperParameterTuningJob."""
    operation, request = "describe_hyper_parameter_tuning_job", {"HyperParameterTuningJobName": tuning_job}
    return ask(target, f"describe tuning job {tuning_job!r}", operation, **request)


def trials(target: Target, tuning_job: str) -> list[dict[str, Any]]:
    """ListTrainingJobsForHyperParameterTuningJob, in the order in which the trials were started."""
    operation, request = (
        "list_training_jobs_for_hyper_parameter_tuning_job",
        {"HyperParameterTuningJobName": tuning_job},
    )
    found = ask_all(target, f"list the trials of tuning job {tuning_job!r}", operation, **request)
    return sorted(found, key=lambda job: job["CreationTime"])


def ended_trials(target: Target, tuning_job: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Return number and summary of each trial of a search that has ended; none where that cannot be asked."""
    with suppress(ServiceError):
        found = enumerate(trials(target, tuning_job), start=1)
        return [item for item in found if item[1]["TrainingJobStatus"] != "InProgress"]
    return []


def warm_start_parent(target: Target, name: str, definition: str) -> str | None:
    """Return the tuning job that the definition's first search may begin with (tuning.warm_start), if there is one.

    It is the newest of this pipeline that has been completed, and that the service accepts: with the same objective and
    number of hyperparameters (guide, "automatic-model-tuning-warm-start"). A definition cannot find that out.
    """
    wanted = next((step["Arguments"] for step in json.loads(definition)["Steps"] if step["Type"] == "Tuning"), None)
    for summary in listed(target, name, PARENT_EXECUTIONS) if wanted else ():
        for step in steps(target, summary["PipelineExecutionArn"]):
            member, job = job_of(step) or ("", "")
            if member == "TuningJob" and step["StepStatus"] == "Succeeded":
                found = describe_search(target, job)
                completed = found["HyperParameterTuningJobStatus"] == "Completed"
                if wanted and completed and search_shape(found) == search_shape(wanted):
                    return job
    return None


def search_shape(search: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return metric and direction of a search, and how many hyperparameters it has, without the service's own."""
    config = search["HyperParameterTuningJobConfig"]
    objective, ranges = config["HyperParameterTuningJobObjective"], config.get("ParameterRanges") or {}
    static = search["TrainingJobDefinition"].get("StaticHyperParameters") or {}
    names = {*static, *(entry["Name"] for kind in ranges.values() for entry in kind or [])}
    return objective["MetricName"], objective["Type"], len([name for name in names if not name.startswith("_")])


class JobLogs:
    """Reads on in the logs of jobs: each call returns what was printed since the last one."""

    def __init__(self, target: Target) -> None:
        self.client = target.client("logs")
        self.places: dict[str, dict[str, str]] = {}  # of a job: stream and token
        self.unreadable: set[str] = set()

    def new_lines(self, group: str, job_name: str) -> list[str]:
        """Return new lines of a job's log; of a job on several instances, the first one's.

        Why a log cannot be read is a line as well, once; one that is not there yet has no lines.
        """
        log_group = {"logGroupName": f"/aws/sagemaker/{group}"}
        try:
            if job_name not in self.places:
                answer = self.client.describe_log_streams(**log_group, logStreamNamePrefix=f"{job_name}/")
                if not answer["logStreams"]:
                    return []
                self.places[job_name] = {"logStreamName": answer["logStreams"][0]["logStreamName"]}
            answer = self.client.get_log_events(**log_group, **self.places[job_name], startFromHead=True)
        except ClientError as problem:
            if is_missing(problem) or group in self.unreadable:
                return []
            self.unreadable.add(group)
            return [f"The log cannot be shown: {explain(problem)}"]
        self.places[job_name]["nextToken"] = answer["nextForwardToken"]
        return [event["message"].rstrip() for event in answer["events"] if event["message"].strip()]
