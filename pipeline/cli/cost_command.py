"""`cost`: what a run and the standing endpoint cost on AWS, from the durations of the newest executions."""

import json
from pathlib import Path

from pipeline.aws import cost
from pipeline.aws.cost import EndpointCost, StepCost
from pipeline.aws.stack import Client
from pipeline.cli.invocation import Arguments, opened
from pipeline.compile.placement import local_placement
from pipeline.config.config import Config
from pipeline.service.aws_target import aws_client
from pipeline.service.local_target import LocalTarget


def estimate(arguments: Arguments) -> int:
    """The command."""
    from pipeline.service.staging import compile_project

    project = opened(arguments)
    config = project.config
    placement = local_placement(config.aws.deploy_function)  # no price depends on where it runs
    home = Path(arguments.home)
    kept = home / "definitions" if home.is_dir() else None
    definition = json.loads(compile_project(project, placement, kept).definition)
    steps = cost.limits(definition)
    measured, executions = cost.measure(client_of(arguments, config), config.pipeline.name, steps)
    run, endpoint = cost.run_cost(config, definition, measured), cost.endpoint_cost(config)
    if not arguments.json:
        print("\n".join(lines(config, run, endpoint, executions, on_this_machine=arguments.target == "local")))
        return 0
    document = {
        "estimate": True,
        "currency": config.prices.currency,
        "prices_date": config.prices.date,
        "measured_on": arguments.target if measured else None,
        "measured_executions": executions,
        "steps": [{"step": step.step, "amount": step.amount, "basis": step.basis} for step in run],
        "run": sum(step.amount for step in run),
        "endpoint_per_month": endpoint.per_month,
    }
    print(json.dumps(document))
    return 0


def client_of(arguments: Arguments, config: Config) -> Client:
    """Clients of the target; a home that does not exist is not made."""
    if arguments.target == "aws":
        return aws_client(config.aws.region)
    return LocalTarget(config, Path(arguments.home), reads_only=True).client


def lines(
    config: Config, run: list[StepCost], endpoint: EndpointCost, executions: list[str], *, on_this_machine: bool
) -> list[str]:
    """Both estimates as a person reads them."""
    at_most = " at most" if any(step.basis == "limit" for step in run) else ""
    found = [
        f"An estimate, not a bill: prices of {config.prices.date} in {config.prices.currency}, on demand, from "
        "pipeline.yaml.",
        "That table is a starting point: check it against AWS's price pages and edit it.",
    ]
    if executions:
        which = f"execution {' and '.join(arn.rpartition('/')[2] for arn in executions)}"
        here = f"Durations of the local run, {which}: this machine is faster or slower than those instances."
        found.append(here if on_this_machine else f"Durations as billed in {which}.")
    found.append("One run:")
    for step in run:
        limit = " at most" if step.basis == "limit" else ""
        shown = duration(step.instance_seconds)
        found.append(f"  {step.step:<20} {step.instance_type:<15} {shown:>10} {step.amount:10.2f}{limit}")
    found.append(f"  {'total':<20} {'':<15} {'':>10} {sum(step.amount for step in run):10.2f}{at_most}")
    found.append(standing(endpoint, config.deploy.instance_type))
    if at_most:
        found.append("At most: such a step has not been measured, so its max_runtime_seconds is counted in full.")
    return found


def standing(endpoint: EndpointCost, instance_type: str) -> str:
    """What the endpoint costs, in a line."""
    if not endpoint.max_instances:
        return "The endpoint is serverless: it costs by use, and nothing while it is idle."
    count, month = str(endpoint.min_instances), f"{endpoint.per_month:.2f}"
    if endpoint.max_instances != endpoint.min_instances:
        count, month = f"{count} to {endpoint.max_instances}", f"{month} to {endpoint.per_month_at_most:.2f}"
    return f"The endpoint, left on ({count} x {instance_type}): {month} a month."


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s"
