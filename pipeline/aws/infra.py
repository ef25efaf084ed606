"""Makes and changes the two stacks: propose what would change, then apply it.

base.yaml comes first, then the functions' code in its bucket, then app.yaml, which takes base's outputs as parameters.
An account that has both in one stack, as earlier versions made it: base's change removes what app's then makes again.
The retrain schedule belongs to its user once it is made: what `schedule` set, or someone in the console, stays.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.aws import schedule, stack
from pipeline.aws.drift_check import drift_bundle, drift_parameters
from pipeline.aws.requests import describe, is_content
from pipeline.aws.stack import Change, ChangeSet, Client
from pipeline.aws.stack_parameters import app_stack_name, stack_name, stack_parameters, tags
from pipeline.compile.bundle import ARCHIVE, Bundle, deploy_bundle, inputs_bundle
from pipeline.config.config import Config

BASE, APP = (Path(__file__).with_name(name) for name in ("base.yaml", "app.yaml"))
PARAMETER = re.compile(r"^  (\w+): \{Type: ", re.MULTILINE)
RESOURCE = re.compile(r"^  (\w+):.*\n    Type: AWS::", re.MULTILINE)
NOT_MADE = {  # what stands for base's outputs in a proposal, before there are any
    "BucketName": "made-by-base",
    "DeadLetterQueueArn": "arn:aws:sqs:us-east-1:000000000000:made-by-base",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:000000000000:made-by-base",
    **{f"{role}RoleArn": "arn:aws:iam::000000000000:role/made-by-base"
       for role in ("Deploy", "Endpoint", "Events", "Inputs", "Job", "Scheduler")},
}  # fmt: skip


class Proposal(NamedTuple):
    """The change set of base.yaml, if it changes, what changes in both stacks, and the schedule as it is."""

    base: ChangeSet | None
    changes: tuple[Change, ...]
    schedule: dict[str, str]


def propose(client: Client, config: Config) -> Proposal | None:
    """Make a change set towards pipeline.yaml; None if nothing would change. Nothing is changed yet.

    A ServiceError says why a stack cannot be changed now, or why CloudFormation refuses the change.
    """
    cloudformation, base_name = client("cloudformation"), stack_name(config)
    for name in (base_name, app_stack_name(config)):
        stack.require_changeable(cloudformation, name, base_name)
    retraining = schedule_parameters(client, config)
    base = change_set(client, config, BASE, {})
    changes = list(base.changes) if base else []
    in_app = set(RESOURCE.findall(APP.read_text()))
    if any(change.action == "remove" and change.name in in_app for change in changes):
        moved = [item._replace(action="move") if item.name in in_app else item for item in changes]
        return Proposal(base, tuple(moved), retraining)
    made = {**NOT_MADE, **stack.known_outputs(client, base_name)}
    code = {**code_parameters(client, config, made["BucketName"]), **drift_parameters(config, made)}
    if app := change_set(client, config, APP, {**made, **retraining, **code}):
        stack.discard(cloudformation, app)  # it is made again, with base's outputs and the stored code
        changes += app.changes
    return Proposal(base, tuple(changes), retraining) if changes else None


def discard(client: Client, proposal: Proposal) -> None:
    """Leave nothing of a proposal."""
    if proposal.base:
        stack.discard(client("cloudformation"), proposal.base)


def apply(client: Client, config: Config, proposal: Proposal) -> Iterator[str]:
    """Carry a proposal out; yield a line for each thing that is done. A ServiceError says what failed, and why."""
    if proposal.base:
        yield from stack.execute(client("cloudformation"), proposal.base)
    made = stack.outputs(client, stack_name(config))
    yield from store_code(client, config, made["BucketName"])
    code = {**code_parameters(client, config, made["BucketName"]), **drift_parameters(config, made)}
    if app := change_set(client, config, APP, {**made, **proposal.schedule, **code}):
        yield from stack.execute(client("cloudformation"), app)


def change_set(client: Client, config: Config, template: Path, parameters: dict[str, str]) -> ChangeSet | None:
    """Make a change set of a template with those of the parameters, and of pipeline.yaml's, that it has."""
    text, values = template.read_text(), {**stack_parameters(config), **parameters}
    given = {name: values[name] for name in PARAMETER.findall(text) if name in values}
    name = stack_name(config) if template == BASE else app_stack_name(config)
    return stack.make_change_set(client("cloudformation"), name, text, parameters=given, tags=tags(config))


def schedule_parameters(client: Client, config: Config) -> dict[str, str]:
    """Return the schedule's parameters as its user has left them."""
    current = schedule.find(client, config)
    return {
        "RetrainSchedule": current.expression if current else config.aws.retrain_schedule,
        "RetrainState": current.state if current else schedule.OFF,
    }


def code_parameters(client: Client, config: Config, bucket: str) -> dict[str, str]:
    """Return where each function's code lies, and that object's version; `not-stored` before it is there."""
    found: dict[str, str] = {}
    for name, code in function_bundles().items():
        key = code_key(config, code)
        version = stored_version(client("s3"), bucket, key, archive(code))
        found |= {f"{name}CodeKey": key, f"{name}CodeVersion": "not-stored" if version is None else version}
    return found


def store_code(client: Client, config: Config, bucket: str) -> Iterator[str]:
    """Store the code of each function, and of the drift check if there is one, unless it is there already."""
    functions = function_bundles().items()
    stored = {f"the {name.lower()} function": (code_key(config, code), archive(code)) for name, code in functions}
    if config.drift.schedule:
        check = drift_bundle()
        stored["the drift check"] = (f"{check.key(config.pipeline.name)}/{ARCHIVE}", check.archive())
    for name, (key, content) in stored.items():
        if stored_version(client("s3"), bucket, key, content) is None:
            client("s3").put_object(Bucket=bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256")
            yield f"code of {name} stored as s3://{bucket}/{key}"


def stored_version(s3: Any, bucket: str, key: str, content: bytes) -> str | None:
    """Return an object's version, empty in a bucket without them; None unless it is there with that content."""
    found = describe(s3.head_object, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if found is None or not is_content(found, content):
        return None
    version = str(found.get("VersionId", ""))
    return "" if version == "null" else version


def function_bundles() -> dict[str, Bundle]:
    """Return the code of each function, by the name that app.yaml has for it."""
    return {"Deploy": deploy_bundle(), "Inputs": inputs_bundle()}


def code_key(config: Config, code: Bundle) -> str:
    """Return where a function's code lies in the bucket; it changes with the code."""
    return f"{code.key(config.pipeline.name)}/function.zip"


def archive(code: Bundle) -> bytes:
    """Return a function's modules as a .zip whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in sorted(code.files.items()):
            member = zipfile.ZipInfo(name)  # of the year 1980
            member.external_attr = 0o100644 << 16  # a file that Lambda may read
            file.writestr(member, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def ensure_model_group(client: Client, config: Config) -> bool:
    """Make the model package group unless it is there; return whether it was made."""
    sagemaker, name = client("sagemaker"), config.registry.model_package_group
    if describe(sagemaker.describe_model_package_group, ModelPackageGroupName=name):
        return False
    sagemaker.create_model_package_group(
        ModelPackageGroupName=name,
        ModelPackageGroupDescription=config.pipeline.description,
        Tags=[{"Key": key, "Value": value} for key, value in tags(config).items()],
    )
    return True
