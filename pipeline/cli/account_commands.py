"""`infra` and `images`: what surrounds the pipeline in an AWS account."""

import json
import sys
from collections.abc import Callable
from typing import Any

from pipeline.cli.confirmation import confirmed
from pipeline.cli.invocation import Arguments, loaded
from pipeline.config.config import Config
from pipeline.errors import UsageError
from pipeline.service.aws_target import aws_client

Client = Callable[[str], Any]


def handle_infra(arguments: Arguments) -> int:
    """Make or change the stack: shows what changes, asks, waits."""
    from pipeline.aws import infra, stack
    from pipeline.aws.stack_parameters import stack_name

    config, client = account(arguments)
    out = sys.stderr if arguments.json else sys.stdout
    proposal = infra.propose(client, config)
    if proposal is None:
        print(f"Stack {stack_name(config)}: nothing to change.", file=out)
    else:
        for change in proposal.changes:
            print(f"  {change}", file=out)
        if not confirmed(out, f"Change stack {stack_name(config)} in {config.aws.region}?", sure=arguments.yes):
            stack.discard(client("cloudformation"), proposal)
            print("Nothing was changed.", file=out)
            return 0
        for line in infra.apply(client, config, proposal):
            print(line, file=out, flush=True)
    if infra.ensure_model_group(client, config):
        print(f"model package group {config.registry.model_package_group} made", file=out)
    if arguments.json:
        print(json.dumps({"stack": stack_name(config), "outputs": stack.outputs(client, stack_name(config))}))
    return 0


def handle_images(arguments: Arguments) -> int:
    """Build the images, or push them to the stack's repositories."""
    from pipeline.aws import images, stack
    from pipeline.aws.stack_parameters import stack_name

    config, client = account(arguments)
    answers: list[dict[str, Any]] = []
    for name in images.NAMES:
        if arguments.action == "build":
            answers.append({"image": images.build(name, base_image=arguments.base_image, pip_args=arguments.pip_args)})
            continue
        repository = stack.outputs(client, stack_name(config))[f"{name.title()}RepositoryUri"]
        uri, pushed = images.push(name, repository, client("ecr"))
        answers.append({"image": uri, "pushed": pushed})
    if arguments.json:
        print(json.dumps(answers))
    else:
        for answer in answers:
            print(f"{answer['image']}{'' if answer.get('pushed', True) else '  (there already)'}")
    return 0


def account(arguments: Arguments) -> tuple[Config, Client]:
    """The configuration and the account's clients.

    Raises:
        UsageError: the command was given the local target.
    """
    if arguments.target != "aws":
        raise UsageError(f"{arguments.command} is about an AWS account; this machine needs none of it: --target aws.")
    config = loaded(arguments)
    return config, aws_client(config.aws.region)
