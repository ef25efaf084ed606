"""The commands about an AWS account: what surrounds the pipeline there, what it costs, and the way back.

They take `--target aws` for granted; where a command has a meaning on this machine too, `pipeline.commands` calls here.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import botocore.exceptions

from pipeline.aws import cost, images, infra, inventory, model_group, schedule, stack
from pipeline.aws import teardown as removal
from pipeline.aws.errors import explain
from pipeline.aws.stack_parameters import stack_name
from pipeline.config import Config
from pipeline.errors import ServiceError, UsageError

Arguments = argparse.Namespace
Client = Callable[[str], Any]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Whatever AWS refuses becomes one sentence.

    Raises:
        ServiceError: with it.
    """
    try:
        yield
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as problem:
        raise ServiceError(explain(problem)) from problem


def apply_infra(arguments: Arguments, config: Config, client: Client) -> int:
    """Make or change the stack: shows what changes, asks, waits."""
    with one_sentence():
        proposal = infra.propose(client, config)
        for change in proposal.changes:
            say(arguments, f"  {change}")
        if proposal.is_empty:
            say(arguments, f"Stack {stack_name(config)}: nothing to change.")
        elif not confirmed(arguments, f"Change stack {stack_name(config)} in {config.aws.region}?"):
            infra.discard(client, proposal)
            say(arguments, "Nothing was changed.")
            return 0
        say_all(arguments, infra.apply(client, config, proposal))
        if model_group.ensure(client, config):
            say(arguments, f"model package group {config.registry.model_package_group} made")
        if arguments.json:
            print(json.dumps({"stack": stack_name(config), "outputs": stack.outputs(client, stack_name(config))}))
    return 0


def handle_images(arguments: Arguments, config: Config, client: Client) -> int:
    """Build the images, or push them to the stack's repositories."""
    answers: list[dict[str, Any]] = []
    for name in images.NAMES:
        if arguments.action == "build":
            answers.append({"image": images.build(name, base_image=arguments.base_image, pip_args=arguments.pip_args)})
            continue
        with one_sentence():
            repository = stack.outputs(client, stack_name(config))[f"{name.title()}RepositoryUri"]
            uri, pushed = images.push(name, repository, client("ecr"))
        answers.append({"image": uri, "pushed": pushed})
    if arguments.json:
        print(json.dumps(answers))
    else:
        for answer in answers:
            print(f"{answer['image']}{'' if answer.get('pushed', True) else '  (there already)'}")
    return 0


def handle_schedule(arguments: Arguments, config: Config, client: Client) -> int:
    """Show the retrain schedule, set it, or switch it off."""
    if (arguments.action == "set") != bool(arguments.expression):
        raise UsageError("schedule: expected show, off, or set EXPRESSION, such as: schedule set 'rate(7 days)'.")
    with one_sentence():
        if arguments.action == "set":
            found = schedule.set_expression(client, config, arguments.expression)
        elif arguments.action == "off":
            found = schedule.switch_off(client, config)
        else:
            found = schedule.show(client, config)
    document = {"name": found.name, "expression": found.expression, "timezone": found.timezone, "state": found.state}
    print(json.dumps(document) if arguments.json else f"{found.name}: {found}")
    return 0


def handle_cost(arguments: Arguments, config: Config, client: Client) -> int:
    """Estimate a run and the standing endpoint from the price table."""
    run, endpoint = cost.run_cost(config), cost.endpoint_cost(config)
    if arguments.json:
        steps = [{"step": step.step, "amount": step.amount, "basis": step.basis} for step in run.steps]
        print(json.dumps({"estimate": True, "steps": steps, "endpoint_per_month": endpoint.per_month}))
    else:
        print("\n".join(cost.lines(run, endpoint)))
    return 0


def remove_everything(arguments: Arguments, config: Config, client: Client) -> int:
    """List what the product made in the account, ask, remove it."""
    with one_sentence():
        found = inventory.find(client, config)
        if found.is_empty:
            say(arguments, "There is nothing to remove.")
            return 0
        for item in inventory.items(found, config.prices):
            known = item.per_month is not None
            price = f"{item.per_month:.2f} {config.prices.currency} a month" if known else "price unknown"
            say(arguments, f"  {item.kind:<22} {item.name}  {price}  {item.note}".rstrip())
        kept = "and all data" if arguments.delete_data else "but not the data in the bucket (--delete-data)"
        if not confirmed(arguments, f"Remove all of this, {kept}?"):
            say(arguments, "Nothing was removed.")
            return 0
        say_all(arguments, removal.remove(client, config, found, delete_data=arguments.delete_data))
    if arguments.json:
        print(json.dumps({"removed": True}))
    return 0


def confirmed(arguments: Arguments, question: str) -> bool:
    """--yes, or the word yes on standard input."""
    if arguments.yes:
        return True
    print(f"{question} Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == "yes"


def say(arguments: Arguments, text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr if arguments.json else sys.stdout, flush=True)


def say_all(arguments: Arguments, lines: Iterable[str]) -> None:
    """Lines as they come."""
    for line in lines:
        say(arguments, line)


ACCOUNT_COMMANDS: dict[str, Callable[[Arguments, Config, Client], int]] = {
    "infra": apply_infra,
    "images": handle_images,
    "schedule": handle_schedule,
    "cost": handle_cost,
    "teardown": remove_everything,
}
