"""`cost`: what a run and the standing endpoint cost on AWS, by the durations of the newest executions."""

import json

from pipeline.aws import cost as prices
from pipeline.aws.cost import EndpointCost, StepCost
from pipeline.cli.call import Call
from pipeline.cli.output import print_json
from pipeline.compile.placement import local_placement
from pipeline.config.config import Config


def cost(call: Call) -> int:
    from pipeline.service.staging import compile_project

    project, config = call.open_project(), call.config
    placement = local_placement()  # no price depends on where it runs
    kept = call.home / "definitions" if call.home.is_dir() else None
    definition = json.loads(compile_project(project, placement, kept).definition)
    clients = call.open_clients(reads_only=True)
    measured, executions = prices.measure(clients, config.pipeline.name, prices.limits(definition))
    run, endpoint = prices.run_cost(config, definition, measured), prices.endpoint_cost(config)
    if not call.as_json:
        print_costs(call, run, endpoint, executions)
        return 0
    return print_json(
        {
            "estimate": True,
            "currency": config.prices.currency,
            "prices_date": config.prices.date,
            "measured_on": call.target if measured else None,
            "measured_executions": executions,
            "steps": [{"step": step.step, "amount": step.amount, "basis": step.basis} for step in run],
            "run": sum(step.amount for step in run),
            "endpoint_per_month": endpoint.per_month,
        }
    )


def print_costs(call: Call, run: list[StepCost], endpoint: EndpointCost, executions: list[str]) -> None:
    """Print both estimates."""
    prices = call.config.prices
    print(f"An estimate, not a bill: prices of {prices.date} in {prices.currency}, on demand, from pipeline.yaml.")
    print("That table is a starting point: check it against AWS's price pages and edit it.")
    if executions:
        which = f"execution {' and '.join(arn.rpartition('/')[2] for arn in executions)}"
        here = f"Durations of the local run, {which}: this machine is faster or slower than those instances."
        print(here if call.target == "local" else f"Durations as billed in {which}.")
    print("One run:")
    rows = [(step.step, step.instance_type, text_of_seconds(step.instance_seconds), step.amount, step.basis)
            for step in run]  # fmt: skip
    total = sum(step.amount for step in run)
    limited = "limit" if any(step.basis == "limit" for step in run) else ""
    for name, instance_type, taken, amount, basis in [*rows, ("total", "", "", total, limited)]:
        at_most = " at most" if basis == "limit" else ""
        print(f"  {name:<20} {instance_type:<15} {taken:>10} {amount:10.2f}{at_most}")
    print(text_of_endpoint(endpoint, call.config))
    if limited:
        print("At most: such a step has not been measured, so its max_runtime_seconds is counted in full.")


def text_of_endpoint(endpoint: EndpointCost, config: Config) -> str:
    """Return what the endpoint costs, in a line."""
    if not endpoint.max_instances:
        return "The endpoint is serverless: it costs by use, and nothing while it is idle."
    count, month = str(endpoint.min_instances), f"{endpoint.per_month:.2f}"
    if endpoint.max_instances != endpoint.min_instances:
        count, month = f"{count} to {endpoint.max_instances}", f"{month} to {endpoint.per_month_at_most:.2f}"
    return f"The endpoint, left on ({count} x {config.deploy.instance_type}): {month} a month."


def text_of_seconds(seconds: float) -> str:
    """Return hours and minutes, or minutes and seconds."""
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {round(seconds) % 60:02}s"
