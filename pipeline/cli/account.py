"""`infra`, `images` and `teardown`: what surrounds the pipeline in an account or a home, and its end."""

import contextlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TextIO

from pipeline.cli.call import Call
from pipeline.cli.output import confirmed, print_json
from pipeline.errors import ServiceError, UsageError
from pipeline.local.engine.runner_process import send, taken_lock
from pipeline.local.sagemaker.created_jobs import end_all
from pipeline.local.sandbox.namespaces import TOKEN_FILE
from pipeline.service import executions
from pipeline.service import models as registry
from pipeline.service.local_target import LOCAL_FOLDERS, LocalTarget

SERVER_ENDS_SECONDS = 10


def account_clients(call: Call, command: str) -> Callable[[str], Any]:
    """Return the account's clients."""
    if call.target != "aws":
        raise UsageError(f"{command} is about an AWS account; this machine needs none of it: --target aws.")
    return call.open_clients()


def infra(call: Call, yes: bool = False) -> int:
    """Make or change the stack: show what changes, ask, wait."""
    from pipeline.aws import infra, stack
    from pipeline.aws.stack_parameters import app_stack_name

    client, config, out = account_clients(call, "infra"), call.config, call.progress_stream
    proposal, names = infra.propose(client, config), (config.aws.project, app_stack_name(config))
    if proposal is None:
        print(f"Stacks {' and '.join(names)}: nothing to change.", file=out)
    else:
        for change in proposal.changes:
            print(f"  {change.action:<8} {change.name:<22} {change.resource_type}", file=out)
        if not confirmed(out, f"Change stacks {' and '.join(names)} in {config.aws.region}?", sure=yes):
            infra.discard(client, proposal)
            print("Nothing was changed.", file=out)
            return 0
        for line in infra.apply(client, config, proposal):
            print(line, file=out, flush=True)
    for line in infra.finish(client, config):
        print(line, file=out, flush=True)
    made = {name: value for stack_of in names for name, value in stack.outputs(client, stack_of).items()}
    return print_json({"stacks": names, "outputs": made}) if call.as_json else 0


def images(
    call: Call, image_action: Literal["build", "push"], base_image: str | None = None, pip_args: str = ""
) -> int:
    """Build the images, or push them to the stack's repositories."""
    from pipeline.aws import images, stack

    client, answers = account_clients(call, "images"), list[dict[str, Any]]()
    for name in images.NAMES:
        if image_action == "build":
            answers.append({"image": images.build(name, base_image=base_image, pip_args=pip_args)})
            continue
        repository = stack.outputs(client, call.config.aws.project)[f"{name.title()}RepositoryUri"]
        uri, pushed = images.push(name, repository, client("ecr"))
        answers.append({"image": uri, "pushed": pushed})
    if call.as_json:
        return print_json(answers)
    for answer in answers:
        print(f"{answer['image']}{'' if answer.get('pushed', True) else '  (there already)'}")
    return 0


def teardown(call: Call, yes: bool = False, delete_data: bool = False) -> int:
    """End what the product runs and remove what it made; nothing else in the folder or the account is touched."""
    out = call.progress_stream
    clear = clear_account(call, out, delete_data, sure=yes) if call.target == "aws" else clear_home(call.home, out, yes)
    return print_json({"removed": clear}) if call.as_json else 0


def clear_account(call: Call, out: TextIO, delete_data: bool, *, sure: bool) -> bool:
    """Return whether there was something to remove in the account, and it was."""
    from pipeline.aws import inventory, teardown

    client, config = call.open_clients(), call.config
    items = inventory.find(client, config)
    if not items:
        print("There is nothing to remove.", file=out)
        return False
    for item in items:
        print(f"  {item.kind:<22} {item.name}  {item.note}".rstrip(), file=out)
    kept = "and all data" if delete_data else "but not the data in the bucket (--delete-data)"
    if not confirmed(out, f"Remove all of this, {kept}?", sure=sure):
        print("Nothing was removed.", file=out)
        return False
    for line in teardown.remove(client, config, items, delete_data=delete_data):
        print(line, file=out, flush=True)
    return True


def clear_home(home: Path, out: TextIO, sure: bool) -> bool:
    """Return whether there was something to remove in a home, and it was."""
    if not (home / "state.db").is_file():
        print(f"There is nothing to remove: {home} holds no state.", file=out)
        return False
    target = LocalTarget(None, home)
    names = [found["EndpointName"] for found in registry.endpoints(target)]
    print(f"Ends {len(names)} endpoint{'' if len(names) == 1 else 's'} and removes {home} with all models and data.",
          file=out)  # fmt: skip
    if not confirmed(out, sure=sure):
        print("Nothing was removed.", file=out)
        return False
    end_server(target.home)
    end_jobs(target)
    for name in names:
        target.client("sagemaker").delete_endpoint(EndpointName=name)
    target.state.close()
    for folder in LOCAL_FOLDERS:
        shutil.rmtree(home.resolve() / folder, ignore_errors=True)
    for file in (*home.resolve().glob("state.*"), home.resolve() / TOKEN_FILE):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it
        home.resolve().rmdir()
    print("Removed.", file=out)
    return True


def end_server(home: Path) -> None:
    """End the studio's server of a home, if one runs, and wait for that."""
    lock = home / "locks" / "studio"
    if lock.exists():
        send(lock, signal.SIGTERM)
        with contextlib.suppress(BlockingIOError), taken_lock(lock, wait_seconds=SERVER_ENDS_SECONDS):
            pass


def end_jobs(target: LocalTarget) -> None:
    """Stop the executions, then the jobs that belong to none; wait for each."""
    for arn in [
        each["PipelineExecutionArn"] for each in target.state.with_status("PipelineExecution", *executions.ACTIVE)
    ]:
        if executions.describe(target, arn)["PipelineExecutionStatus"] in executions.ACTIVE:
            with contextlib.suppress(ServiceError):  # it has ended meanwhile, or is being stopped already
                executions.stop(target, arn)
            executions.watch(target, arn, lambda steps: None)
    end_all(target.state)
