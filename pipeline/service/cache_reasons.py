"""Why a step of an execution ran although an earlier one had run it: what differs of what the step cache looks at.

The jobs of the two executions are described and compared, on either target, by the members that SageMaker's cache key
is made of ("Caching pipeline steps" in the guide). On this machine the bytes below an S3 URI count, on AWS the URI.
"""

import datetime
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from pipeline.aws.requests import items
from pipeline.compile.bundle import ARCHIVE
from pipeline.definition.diff import members, pair
from pipeline.definition.steps import STEP_TYPES, Definition, Step
from pipeline.service import executions
from pipeline.service.executions import describe_job, pipeline_of, recent, source_of
from pipeline.service.targets import Target, service_errors, split_uri

EARLIER_EXECUTIONS = 20  # the newest ones that are looked at
NAMED_FILES = 3
UNCHANGED = (
    "nothing that the cache looks at differs: it was switched off (--no-cache), the earlier result had expired, "
    "or its files were changed or removed"
)
Json = Mapping[str, Any]


def explain_steps(target: Target, execution_arn: str, only: str | None = None) -> list[dict[str, Any]]:
    """Return for each step, or one, its name, whether it was reused, the earlier execution and why it ran again."""
    declared, rows = Definition(executions.definition_of(target, execution_arn)).steps, []
    earlier = earlier_steps(target, pipeline_of(execution_arn), execution_arn)
    for step in executions.steps(target, execution_arn):
        name, source = step["StepName"], source_of(step)
        if only not in (None, name):
            continue
        before = {"Execution": source.rpartition("/")[2]} if source else earlier.get(name)
        reasons = [] if source else reasons_of(target, step, declared.get(name), before)
        compared = before["Execution"] if before and (source or reasons) else None
        rows.append({"step": name, "reused": bool(source), "compared_with": compared, "reasons": reasons})
    return rows


def earlier_steps(target: Target, pipeline_name: str, execution_arn: str) -> dict[str, dict[str, Any]]:
    """Return each step as it last succeeded before an execution, with the name of that execution."""
    found: dict[str, dict[str, Any]] = {}
    began = executions.describe(target, execution_arn)["CreationTime"]
    before = recent(target, pipeline_name, EARLIER_EXECUTIONS + 1, CreatedBefore=began.timestamp())
    arns = [each["execution_arn"] for each in before]
    for arn in arns[arns.index(execution_arn) + 1 :] if execution_arn in arns else arns:
        for step in executions.steps(target, arn):
            if step["StepStatus"] == "Succeeded":
                found.setdefault(step["StepName"], {**step, "Execution": arn.rpartition("/")[2]})
    return found


def reasons_of(target: Target, step: Json, declared: Step | None, before: Json | None) -> list[str]:
    """Return why a step ran, in a few words each; none for a type that is never reused."""
    if declared is None or not (key := STEP_TYPES[declared.type].cache_key):
        return []
    if not (declared.definition.get("CacheConfig") or {}).get("Enabled"):
        return ["the definition does not ask for caching (CacheConfig)"]
    if before is None:
        return ["no earlier execution has succeeded with it"]
    found = changes_of(target, before, step, key)
    return ["its job, or the earlier one, is not known any more"] if found is None else found or [UNCHANGED]


def changes_of(target: Target, before: Json, step: Json, key: tuple[str, ...]) -> list[str] | None:
    """Return what differs between the jobs of two steps, in some members; None where a job is not known."""
    old, new = describe_job(target, before), describe_job(target, step)
    if old is None or new is None:
        return None
    cached = [{each: counted(each, job.get(each)) for each in key} for job in (old, new)]
    outputs = new.get("ProcessingOutputConfig", {}).get("Outputs", [])
    written = {output.get("S3Output", {}).get("S3Uri") for output in outputs}
    written.add(new.get("OutputDataConfig", {}).get("S3OutputPath"))
    return list(differences(target, *map(flatten, cached), written=written, since=before["StartTime"]))


def counted(name: str, member: Any) -> Any:
    """Return what counts of a member of a job: of a search's trials, not where they write nor what they run on."""
    from pipeline.local.engine.cache import TRIAL_MEMBERS

    if name == "TrainingJobDefinition" and member:
        return {each: member.get(each) for each in (*TRIAL_MEMBERS, "Environment")}
    return member


def differences(
    target: Target, before: Json, after: Json, *, written: set[Any], since: datetime.datetime
) -> Iterator[str]:
    """Yield what differs between the leaves of two jobs' members: an argument, an input's place, files below it.

    `written` are the URIs that the job itself writes, `since` is when the earlier one started.
    """
    for path in {**before, **after}:
        was, now = before.get(path), after.get(path)
        if not (is_uri(was) and is_uri(now)) or now in written:
            if was != now:
                yield f"{path}: {pair(was, now)}"
            continue
        if was == now and target.name == "local":
            if changed := [name for name, item in files_below(target, now).items() if item["LastModified"] > since]:
                yield f"{path}: {text_of_files(changed, 'written since', now)}"
        elif was != now:
            olds, news = contents(target, was), contents(target, now)
            if names := {name for name in {**olds, **news} if olds.get(name) != news.get(name)}:
                yield f"{path}: {text_of_files(sorted(names), 'changed', now)}"
            elif target.name == "aws":
                yield f"{path}: the same files at another place, {pair(was, now)}"


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of a JSON value by their paths; items of lists go by the name that they carry."""
    inner = members(value) if isinstance(value, dict | list) else None
    if inner is None:
        return {path: value}
    return {
        place: leaf
        for name, each in inner.items()
        for place, leaf in flatten(each, f"{path}.{name}" if path else name).items()
    }


def is_uri(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith("s3://")


def files_below(target: Target, uri: str) -> dict[str, Json]:
    """Return what S3 lists at or below a URI, by the name from there."""
    bucket, prefix = split_uri(uri)
    with service_errors(f"list {uri}"):
        found = list(items(target.client("s3"), "list_objects_v2", Bucket=bucket, Prefix=prefix))
    inside = (item for item in found if item["Key"] == prefix or item["Key"].startswith(f"{prefix.rstrip('/')}/"))
    return {item["Key"].removeprefix(prefix).strip("/"): item for item in inside}


def contents(target: Target, uri: str) -> dict[str, object]:
    """Return a mark of the content of each file at or below a URI; of a job's archive of code, of each in it."""
    if uri.endswith(f"/{ARCHIVE}") and target.holds(uri):
        with service_errors(f"read {uri}"), tarfile.open(fileobj=io.BytesIO(target.read(uri))) as archive:
            return {member.name: hash(file.read()) for member in archive if (file := archive.extractfile(member))}
    return {name: item["ETag"] for name, item in files_below(target, uri).items()}


def text_of_files(names: list[str], what: str, uri: str) -> str:
    """Return how many files at or below a URI these are, and the first names."""
    names = [name or uri.rpartition("/")[2] for name in names]
    more = f" and {len(names) - NAMED_FILES:,} more" if len(names) > NAMED_FILES else ""
    return f"{len(names):,} file{'' if len(names) == 1 else 's'} {what}: {', '.join(names[:NAMED_FILES])}{more}"
