"""Makes and changes the stack: propose what would change, then apply it.

On an empty account the bucket comes first, then the deploy function's code, then the function, by a second change set.
The retrain schedule belongs to its user once it is made: what `schedule` set, or someone in the console, stays.
"""

import io
import re
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import WaiterError

from pipeline.aws import schedule, stack
from pipeline.aws.requests import WAITER, describe, list_all, put_new
from pipeline.aws.stack import Change, ChangeSet, Client
from pipeline.aws.stack_parameters import stack_name, stack_parameters, tags
from pipeline.compile.bundle import deploy_bundle
from pipeline.config.config import Config
from pipeline.errors import ServiceError

TEMPLATE = Path(__file__).with_name("stack.yaml")
NEEDS_CODE = re.compile(r"^  (\w+):.*\n    Type: (\S+)\n    Condition: HasDeployCode$", re.MULTILINE)
NO_CHANGE = re.compile(r"didn't contain changes|No updates are to be performed|no changes", re.IGNORECASE)
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "continue its rollback in the CloudFormation console",
    "ROLLBACK_FAILED": "delete it in the CloudFormation console",
    "DELETE_FAILED": "delete it again with `run_pipeline.py teardown`",
}
NEVER_MADE = ("ROLLBACK_COMPLETE", "CREATE_FAILED")  # nothing of a failed creation is left but the stack's name


def propose(client: Client, config: Config) -> ChangeSet | None:
    """Make a change set towards pipeline.yaml; None if nothing would change. Nothing is changed yet.

    On an empty account its changes include those of the second one, which follows the deploy function's code. A
    ServiceError says why the stack cannot be changed now, or why CloudFormation refuses the change.
    """
    made = is_made(client("cloudformation"), stack_name(config))
    if made or config.aws.bucket:
        return make_change_set(client, config, with_code=True)
    first = make_change_set(client, config, with_code=False)
    later = sorted(Change("add", *names) for names in NEEDS_CODE.findall(TEMPLATE.read_text()))
    return first._replace(changes=(*first.changes, *later), code_follows=True) if first else None


def apply(client: Client, config: Config, change_set: ChangeSet) -> Iterator[str]:
    """Carry a proposal out; yield a line for each thing that is done. A ServiceError says what failed, and why."""
    following: ChangeSet | None = change_set
    if change_set.code_follows:
        yield from stack.execute(client("cloudformation"), change_set)
    yield from upload_code(client, config)
    if change_set.code_follows:
        following = make_change_set(client, config, with_code=True)
    if following:
        yield from stack.execute(client("cloudformation"), following)


def is_made(cloudformation: Any, name: str) -> bool:
    """Whether the stack is there, a ServiceError if it cannot be changed; the rest of a failed creation is removed."""
    present = stack.describe_stack(cloudformation, name)
    status = present["StackStatus"] if present else "REVIEW_IN_PROGRESS"  # of a change set that nobody executed
    if present and not stack.is_own(present):
        raise ServiceError(f"Stack '{name}' is another project's: choose another aws.project in pipeline.yaml.")
    if status in STUCK:
        raise ServiceError(f"Stack '{name}' is {status}: {STUCK[status]}, then repeat the command.")
    if status == "REVIEW_IN_PROGRESS":
        return False
    if status.endswith("_IN_PROGRESS"):
        raise ServiceError(f"Stack '{name}' is being changed ({status}): repeat the command once that has ended.")
    if status in NEVER_MADE:
        list(stack.delete(cloudformation, name))
    return status not in NEVER_MADE


def make_change_set(client: Client, config: Config, *, with_code: bool) -> ChangeSet | None:
    """Make the change set towards pipeline.yaml, with or without the deploy function; None if nothing would change."""
    cloudformation, name = client("cloudformation"), stack_name(config)
    present, current = stack.describe_stack(cloudformation, name), schedule.find(client, config)
    kind = "UPDATE" if present and present["StackStatus"] != "REVIEW_IN_PROGRESS" else "CREATE"
    parameters = stack_parameters(
        config,
        code_key=code_key(config) if with_code else "",
        schedule=current.expression if current else config.aws.retrain_schedule,
        schedule_state=current.state if current else schedule.OFF,
    )
    answer = cloudformation.create_change_set(
        StackName=name,
        ChangeSetName=f"infra-{secrets.token_hex(6)}",
        ChangeSetType=kind,
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Tags=[{"Key": key, "Value": value} for key, value in tags(config).items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    request = {"StackName": answer["StackId"], "ChangeSetName": answer["Id"]}
    try:
        cloudformation.get_waiter("change_set_create_complete").wait(**request, WaiterConfig=WAITER)
    except WaiterError as error:
        stack.discard(cloudformation, ChangeSet(request, kind, ()))
        reason = error.last_response.get("StatusReason") or str(error)
        if NO_CHANGE.search(reason):
            return None
        raise ServiceError(f"CloudFormation refuses the change of stack '{name}': {reason}") from error
    changes = list_all(cloudformation, "describe_change_set", **request)
    return ChangeSet(request, kind, tuple(read_change(item["ResourceChange"]) for item in changes))


def read_change(resource: dict[str, Any]) -> Change:
    is_replaced = resource.get("Replacement") in ("True", "Conditional")
    action = "replace" if is_replaced else resource["Action"].lower()
    return Change(action, resource["LogicalResourceId"], resource["ResourceType"])


def code_key(config: Config) -> str:
    """Return where the deploy function's code lies in the bucket; it changes with the code."""
    return f"{deploy_bundle().key(config.pipeline.name)}/function.zip"


def upload_code(client: Client, config: Config) -> Iterator[str]:
    """Store the deploy function's code unless it is there."""
    bucket, key = config.aws.bucket or stack.outputs(client, stack_name(config))["BucketName"], code_key(config)
    if put_new(client("s3"), bucket, key, code_archive()):
        yield f"Code of the deploy function uploaded to s3://{bucket}/{key}"


def code_archive() -> bytes:
    """Return the deploy function's modules as a .zip whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(deploy_bundle().files.items()):
            member = zipfile.ZipInfo(name)  # of the year 1980
            member.external_attr = 0o100644 << 16  # a file that Lambda may read
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
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
