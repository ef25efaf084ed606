"""Makes and changes the stack: propose what would change, then apply it.

    propose: is the stack in a state to be changed? -> parameters from pipeline.yaml -> change set -> what it changes
    apply:   code into the bucket -> execute the change set; on an empty account the bucket comes first, the deploy
             function with a second change set

The retrain schedule belongs to its user once it is made: what `schedule` set, or someone in the console, stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.aws import deploy_code, schedule, stack
from pipeline.aws.stack import Change, ChangeSet, Client
from pipeline.aws.stack_parameters import stack_name, stack_parameters, tags
from pipeline.aws.template import TEMPLATE, read_template
from pipeline.config.config import Config
from pipeline.errors import ServiceError

CODE_CONDITION = "HasDeployCode"
STUCK = {
    "UPDATE_ROLLBACK_FAILED": "continue its rollback in the CloudFormation console",
    "ROLLBACK_FAILED": "delete it in the CloudFormation console",
    "DELETE_FAILED": "delete it again with `run_pipeline.py teardown`",
}
EMPTY = ("ROLLBACK_COMPLETE", "CREATE_FAILED")  # nothing of a failed creation is left but the stack's name


@dataclass(frozen=True)
class Proposal:
    """What applying would do: the change set, and the changes of it and of the one that follows it."""

    change_set: ChangeSet | None
    changes: tuple[Change, ...]
    code_follows: bool

    @property
    def is_empty(self) -> bool:
        """Whether the account is as pipeline.yaml wants it."""
        return self.change_set is None


def propose(client: Client, config: Config) -> Proposal:
    """A change set towards pipeline.yaml; nothing is changed yet.

    Raises:
        ServiceError: the stack cannot be changed now, or CloudFormation refuses the change.
    """
    cloudformation = client("cloudformation")
    name = stack_name(config)
    present = changeable(cloudformation, name)
    has_bucket = bool(config.aws.bucket or present)
    change_set = next_change_set(client, config, with_code=has_bucket)
    changes = change_set.changes if change_set else ()
    if not has_bucket:
        changes += tuple(sorted(waiting_for_code(), key=lambda found: found.name))
    return Proposal(change_set, changes, code_follows=not has_bucket)


def apply(client: Client, config: Config, proposal: Proposal) -> Iterator[str]:
    """Carry a proposal out; a line for each thing that is done.

    Raises:
        ServiceError: a resource failed, with its reason.
    """
    cloudformation = client("cloudformation")
    if proposal.change_set is None:
        return
    if not proposal.code_follows:
        yield from upload_code(client, config)
    yield from stack.execute(cloudformation, proposal.change_set)
    if not proposal.code_follows:
        return
    yield from upload_code(client, config)
    second = next_change_set(client, config, with_code=True)
    if second:
        yield from stack.execute(cloudformation, second)


def discard(client: Client, proposal: Proposal) -> None:
    """Forget a proposal that is not wanted."""
    if proposal.change_set:
        stack.discard(client("cloudformation"), proposal.change_set)


def is_current(client: Client, config: Config) -> bool:
    """Whether the stack's deploy function runs this version of the code."""
    present = stack.describe(client("cloudformation"), stack_name(config))
    return stack.deployed_parameters(present).get("DeployCodeKey") == deploy_code.key(config.pipeline.name)


def changeable(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """The stack as described, or None if it has to be made.

    Raises:
        ServiceError: it is being changed, or is stuck.
    """
    present = stack.describe(cloudformation, name)
    status = present["StackStatus"] if present else "REVIEW_IN_PROGRESS"
    if status == "REVIEW_IN_PROGRESS":  # at most a change set that nobody executed
        return None
    if status in EMPTY:
        list(stack.delete(cloudformation, name))
        return None
    if status in STUCK:
        raise ServiceError(f"Stack '{name}' is {status}: {STUCK[status]}, then repeat the command.")
    if status.endswith("_IN_PROGRESS"):
        raise ServiceError(f"Stack '{name}' is being changed ({status}): repeat the command once that has ended.")
    return present


def next_change_set(client: Client, config: Config, *, with_code: bool) -> ChangeSet | None:
    """The change set towards pipeline.yaml, with or without the deploy function."""
    current = schedule.found(client, config)
    parameters = stack_parameters(
        config,
        code_key=deploy_code.key(config.pipeline.name) if with_code else "",
        schedule=current.expression if current else config.aws.retrain_schedule,
        schedule_state=current.state if current else schedule.OFF,
    )
    cloudformation = client("cloudformation")
    text = TEMPLATE.read_text()
    return stack.create_change_set(cloudformation, stack_name(config), text, parameters=parameters, tags=tags(config))


def upload_code(client: Client, config: Config) -> Iterator[str]:
    """Store the deploy function's code unless it is there."""
    bucket = config.aws.bucket or stack.outputs(client, stack_name(config))["BucketName"]
    if deploy_code.upload(client("s3"), bucket, config.pipeline.name):
        yield f"Code of the deploy function uploaded to s3://{bucket}/{deploy_code.key(config.pipeline.name)}"


def waiting_for_code() -> Iterator[Change]:
    """The resources that the template makes only once the code is there."""
    for name, resource in read_template()["Resources"].items():
        if resource.get("Condition") == CODE_CONDITION:
            yield Change("add", name, resource["Type"])
