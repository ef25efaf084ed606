"""`teardown`: ends what the product runs and removes what it made, in a home of this machine or in an account.

Nothing else in the folder or in the account is touched.
"""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from botocore.exceptions import ClientError

from pipeline.cli.confirmation import confirmed
from pipeline.cli.invocation import Arguments, loaded
from pipeline.errors import ServiceError
from pipeline.service import control
from pipeline.service.aws_target import aws_client
from pipeline.service.local_target import LOCAL_FOLDERS, LocalTarget
from pipeline.service.targets import POLL_SECONDS

if TYPE_CHECKING:
    from pipeline.aws.inventory import Item
    from pipeline.config.config import PricesConfig

TRANSFORM_ACTIVE = ("InProgress", "Stopping")


def tear_down(arguments: Arguments) -> int:
    """The command."""
    out = sys.stderr if arguments.json else sys.stdout
    if arguments.target == "aws":
        removed = account_cleared(arguments, out)
    else:
        removed = torn_down(Path(arguments.home), out, sure=arguments.yes)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    return 0


def account_cleared(arguments: Arguments, out: TextIO) -> bool:
    """Whether there was something to remove in the account, and it was."""
    from pipeline.aws import inventory, teardown

    config = loaded(arguments)
    client = aws_client(config.aws.region)
    items = inventory.find(client, config)
    if not items:
        print("There is nothing to remove.", file=out)
        return False
    for item in items:
        print(line_of(item, config.prices), file=out)
    kept = "and all data" if arguments.delete_data else "but not the data in the bucket (--delete-data)"
    if not confirmed(out, f"Remove all of this, {kept}?", sure=arguments.yes):
        print("Nothing was removed.", file=out)
        return False
    for line in teardown.remove(client, config, items, delete_data=arguments.delete_data):
        print(line, file=out, flush=True)
    return True


def line_of(item: "Item", prices: "PricesConfig") -> str:
    """A thing that was made, and what it costs to leave it on."""
    known = item.per_month is not None
    price = f"{item.per_month:.2f} {prices.currency} a month" if known else "price unknown"
    return f"  {item.kind:<22} {item.name}  {price}  {item.note}".rstrip()


def torn_down(home: Path, out: TextIO, *, sure: bool) -> bool:
    """Whether there was something to remove, and it was."""
    if not (home / "state.db").is_file():
        print(f"There is nothing to remove: {home} holds no state.", file=out)
        return False
    target = LocalTarget(None, home)
    names = [found["EndpointName"] for found in control.endpoints(target)]
    endpoints = "1 endpoint" if len(names) == 1 else f"{len(names)} endpoints"
    print(f"Ends {endpoints} and removes {home} with all models and data.", file=out)
    if not confirmed(out, sure=sure):
        print("Nothing was removed.", file=out)
        return False
    end_executions(target)
    end_transform_jobs(target)
    for name in names:
        target.client("sagemaker").delete_endpoint(EndpointName=name)
    target.state.close()
    remove_home(home.resolve())
    print("Removed.", file=out)
    return True


def end_executions(target: LocalTarget) -> None:
    """Stop what runs, and wait for it."""
    for document in target.state.executions():
        arn = document["PipelineExecutionArn"]
        if control.describe(target, arn)["PipelineExecutionStatus"] in control.ACTIVE:
            with contextlib.suppress(ServiceError):  # it has ended meanwhile, or is being stopped already
                control.stop(target, arn)
            control.watch(target, arn, lambda steps: None)


def end_transform_jobs(target: LocalTarget) -> None:
    """Stop those that belong to no execution, and wait for them."""
    client = target.client("sagemaker")
    for status in TRANSFORM_ACTIVE:
        for job in client.list_transform_jobs(StatusEquals=status)["TransformJobSummaries"]:
            name = job["TransformJobName"]
            with contextlib.suppress(ClientError):  # it has ended meanwhile, or is being stopped already
                client.stop_transform_job(TransformJobName=name)
            while client.describe_transform_job(TransformJobName=name)["TransformJobStatus"] in TRANSFORM_ACTIVE:
                time.sleep(POLL_SECONDS[target.name])


def remove_home(home: Path) -> None:
    """What the local target made below a folder, and the folder if nothing else is in it."""
    for name in LOCAL_FOLDERS:
        shutil.rmtree(home / name, ignore_errors=True)
    for file in home.glob("state.*"):
        file.unlink()
    with contextlib.suppress(OSError):
        home.rmdir()
