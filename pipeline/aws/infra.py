"""Makes and changes the two stacks: propose what would change, then apply it.

base.yaml comes first, then the functions' code in its bucket, then app.yaml, which takes base's outputs as parameters.
An account that has both in one stack, as earlier versions made it: base's change removes what app's then makes again.
The retrain schedule belongs to its user once it is made: what `schedule` set, or someone in the console, stays.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.aws import schedule, stack
from pipeline.aws.drift_check import SCRIPT, drift_parameters
from pipeline.aws.requests import describe, is_content, list_all, put_object
from pipeline.aws.stack import Change, ChangeSet, Client
from pipeline.aws.stack_parameters import APP, BASE, app_stack_name, settings_of, stack_parameters, tags
from pipeline.compile.bundle import ARCHIVE, DEPLOY, DESCRIBE_INPUTS, Bundle, bundle
from pipeline.config.config import Config

RESOURCE = re.compile(r"^  (\w+):.*\n    Type: AWS::", re.MULTILINE)
NOT_MADE = {  # what stands for base's outputs in a proposal, before there are any
    "BucketName": "made-by-base",
    "DeadLetterQueueArn": "arn:aws:sqs:us-east-1:000000000000:made-by-base",
    "AlarmTopicArn": "arn:aws:sns:us-east-1:000000000000:made-by-base",
    **dict.fromkeys(
        ("DeployRoleArn", "EndpointRoleArn", "InputsRoleArn", "JobRoleArn", "SchedulerRoleArn"),
        "arn:aws:iam::000000000000:role/made-by-base",
    ),
}
PROMOTED = ["sagemaker:DescribeModelPackage", "sagemaker:DescribeModelPackageGroup", "sagemaker:ListModelPackages"]
JOB_LOGS = [f"/aws/sagemaker/{kind}Jobs" for kind in ("Processing", "Training", "Transform")]  # of the whole account


class Proposal(NamedTuple):
    """The change set of base.yaml, if it changes, what changes in both stacks, and the schedule as it is."""

    base: ChangeSet | None
    changes: tuple[Change, ...]
    schedule: dict[str, str]


def propose(client: Client, config: Config) -> Proposal | None:
    """Make a change set towards pipeline.yaml; None if nothing would change. Nothing is changed yet.

    A ServiceError says why a stack cannot be changed now, or why CloudFormation refuses the change.
    """
    cloudformation, base_name = client("cloudformation"), config.aws.project
    for name in (base_name, app_stack_name(config)):
        stack.require_changeable(cloudformation, name, base_name)
    current = schedule.find(client, config)
    expression, state = (current.expression, current.state) if current else (config.aws.retrain_schedule, schedule.OFF)
    retraining = {"RetrainSchedule": expression, "RetrainState": state}
    base = change_set(client, config, BASE, {})
    changes = list(base.changes) if base else []
    in_app = set(RESOURCE.findall(APP.read_text()))
    if any(change.action == "remove" and change.name in in_app for change in changes):
        moved = [item._replace(action="move") if item.name in in_app else item for item in changes]
        return Proposal(base, tuple(moved), retraining)
    if app := app_change_set(client, config, {**NOT_MADE, **stack.known_outputs(client, base_name)}, retraining):
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
    made = stack.outputs(client, config.aws.project)
    yield from store_code(client, config, made["BucketName"])
    if app := app_change_set(client, config, made, proposal.schedule):
        yield from stack.execute(client("cloudformation"), app)


def app_change_set(
    client: Client, config: Config, made: dict[str, str], retraining: dict[str, str]
) -> ChangeSet | None:
    """Make a change set of app.yaml with base's outputs and the code as it is stored."""
    code = code_parameters(client, config, made["BucketName"])
    return change_set(client, config, APP, {**made, **retraining, **code, **drift_parameters(config, made)})


def change_set(client: Client, config: Config, template: Path, parameters: dict[str, str]) -> ChangeSet | None:
    """Make a change set of a template with those of the parameters, and of pipeline.yaml's, that it has."""
    known = {**parameters, **stack_parameters(config, template)}
    given = {name: known[name] for name in settings_of(template) if name in known}
    name = config.aws.project if template == BASE else app_stack_name(config)
    text, cloudformation = template.read_text(), client("cloudformation")
    return stack.make_change_set(cloudformation, name, text, parameters=given, tags=tags(config))


def code_parameters(client: Client, config: Config, bucket: str) -> dict[str, str]:
    """Return where each function's code lies, and the object's version: `not-stored`, or empty if none are kept."""
    given: dict[str, str] = {}
    for name, code in function_bundles().items():
        key = code_key(config, code)
        found = describe(client("s3").head_object, Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        is_stored = found is not None and is_content(found, archive(code))
        version = found.get("VersionId", "null") if found and is_stored else "not-stored"
        given |= {f"{name}CodeKey": key, f"{name}CodeVersion": "" if version == "null" else version}
    return given


def store_code(client: Client, config: Config, bucket: str) -> Iterator[str]:
    """Store the code of each function, and of the drift check if there is one, unless it is there with that content."""
    functions = function_bundles().items()
    stored = {f"the {name.lower()} function": (code_key(config, code), archive(code)) for name, code in functions}
    if config.drift.schedule:
        stored["the drift check"] = (f"{bundle(SCRIPT).key(config.pipeline.name)}/{ARCHIVE}", bundle(SCRIPT).archive())
    for name, (key, content) in stored.items():
        if done := put_object(client("s3"), bucket, key, content):
            yield f"code of {name} {done} as s3://{bucket}/{key}"


def function_bundles() -> dict[str, Bundle]:
    """Return the code of each function, by the name that app.yaml has for it."""
    return {"Deploy": bundle(DEPLOY), "Inputs": bundle(DESCRIBE_INPUTS)}


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


def stack_differences(client: Client, config: Config) -> list[str]:
    """Return in which settings and code the stacks differ from this project; nothing before there are stacks."""
    found: dict[str, str] = {}
    keys = {f"{name}CodeKey": code_key(config, code) for name, code in function_bundles().items()}
    for template, name in ((BASE, config.aws.project), (APP, app_stack_name(config))):
        present = stack.describe_stack(client("cloudformation"), name)
        if present is None:
            return [] if template == BASE else [*found.values(), f"stack {name} is not made"]
        given = {item["ParameterKey"]: item["ParameterValue"] for item in present.get("Parameters", [])}
        settings = settings_of(template)
        if given.keys() != settings.keys():
            found[name] = f"stack {name} is of another version of this project"
        for parameter, value in stack_parameters(config, template).items():
            if given.get(parameter, value) != value:
                in_words = f"{given[parameter] or 'null'} in the stack, {value or 'null'} in pipeline.yaml"
                found.setdefault(settings[parameter], f"{settings[parameter]}: {in_words}")
        changed = [key for key in settings if key in keys and given.get(key, keys[key]) != keys[key]]
        found |= {key: f"the code of the {key.removesuffix('CodeKey').lower()} function" for key in changed}
    return list(found.values())


def finish(client: Client, config: Config) -> Iterator[str]:
    """Do what templates cannot, or must not by themselves; yield a line for each thing that is changed."""
    group = config.registry.model_package_group
    if ensure_model_group(client, config):
        yield f"model package group {group} made"
    if set_promotion(client("sagemaker"), config):
        accounts = ", ".join(config.aws.promote_to) or "nobody else"
        yield f"versions of model package group {group} can be read by {accounts}"
    logs, days = client("logs"), config.aws.job_log_retention_days
    for name in JOB_LOGS if days else ():
        found = list_all(logs, "describe_log_groups", logGroupNamePrefix=name)
        known = {each["logGroupName"]: each.get("retentionInDays") for each in found}
        if name not in known:
            logs.create_log_group(logGroupName=name)
        if known.get(name) != days:
            logs.put_retention_policy(logGroupName=name, retentionInDays=days)
            yield f"log group {name} keeps {days} days"


def set_promotion(sagemaker: Any, config: Config) -> bool:
    """Let the accounts of aws.promote_to read the group's versions, and nobody else; return whether that changed."""
    request = {"ModelPackageGroupName": config.registry.model_package_group}
    group = sagemaker.describe_model_package_group(**request)["ModelPackageGroupArn"]
    present = describe(sagemaker.get_model_package_group_policy, **request) or {"ResourcePolicy": "null"}
    statement = {
        "Sid": "Promotion",
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:{group.split(':')[1]}:iam::{each}:root" for each in config.aws.promote_to]},
        "Action": PROMOTED,
        "Resource": [group, f"{group.replace(':model-package-group/', ':model-package/')}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]} if config.aws.promote_to else None
    if json.loads(present["ResourcePolicy"]) == policy:
        return False
    if policy:
        sagemaker.put_model_package_group_policy(**request, ResourcePolicy=json.dumps(policy))
    else:
        sagemaker.delete_model_package_group_policy(**request)
    return True


def ensure_model_group(client: Client, config: Config) -> bool:
    """Make the model package group unless it is there; return whether it was made."""
    sagemaker, name = client("sagemaker"), config.registry.model_package_group
    if describe(sagemaker.describe_model_package_group, ModelPackageGroupName=name):
        return False
    request = {"ModelPackageGroupName": name, "ModelPackageGroupDescription": config.pipeline.description}
    sagemaker.create_model_package_group(**request, Tags=stack.as_pairs(tags(config)))
    return True
