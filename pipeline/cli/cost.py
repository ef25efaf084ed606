"""`cost`: what a run and the standing endpoint take on AWS, by the durations of the newest executions, and cost."""

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.aws import cost as listed
from pipeline.aws.cost import HOURS_PER_MONTH, USES, Instances, Prices
from pipeline.aws.errors import explain
from pipeline.cli.call import Call
from pipeline.cli.output import print_json, say
from pipeline.compile.placement import local_placement

HOUR_SECONDS = 3600
PRICE_PAGE = "https://aws.amazon.com/sagemaker/pricing/"


def cost(call: Call) -> int:
    from pipeline.service.staging import compile_project

    project, config, prices = call.open_project(), call.config, Prices()
    kept = call.home / "definitions" if call.home.is_dir() else None
    definition = json.loads(compile_project(project, local_placement(), kept).definition)  # costs the same anywhere
    clients, steps = call.open_clients(reads_only=True), list(listed.instances(definition))
    measured, executions = dict[str, float](), list[str]()
    try:
        measured, executions = listed.measure(clients, config.pipeline.name, [step.step for step in steps])
        if call.target == "aws":
            types = {config.deploy.instance_type, *(step.instance_type for step in steps)}
            prices = listed.list_prices(clients, config.aws.region, types)
    except (BotoCoreError, ClientError) as error:
        say(f"Without what AWS knows of it: {explain(error)}")
    rows = [step_cost(step, measured.get(step.step), prices) for step in steps]
    amounts, price = [row["amount"] for row in rows], prices.get((USES["Endpoint"], config.deploy.instance_type))
    hours, most = (count * HOURS_PER_MONTH for count in listed.endpoint_instances(config))
    document = {
        "estimate": True,
        "currency": "USD" if prices else None,
        "measured_on": call.target if measured else None,
        "measured_executions": executions,
        "steps": rows,
        "run_instance_hours": sum(row["instance_hours"] for row in rows),
        "run": None if None in amounts else sum(amounts),
        "endpoint_instance_hours_per_month": hours,
        "endpoint_instance_hours_per_month_at_most": most,
        "endpoint_per_month": None if price is None else price * hours,
    }
    if call.as_json:
        return print_json(document)
    print_costs(call, document)
    print(text_of_endpoint(config.deploy.instance_type, hours, most, price=price))
    return 0


def step_cost(step: Instances, measured_seconds: float | None, prices: Prices) -> dict[str, Any]:
    """Return a row of the document; the amount in USD is None if the price is not known."""
    hours = (step.most_seconds if measured_seconds is None else measured_seconds) / HOUR_SECONDS
    price = prices.get((USES[step.step_type], step.instance_type))
    basis = "limit" if measured_seconds is None else "measured"
    amount = None if price is None else price * hours
    return {"step": step.step, "instance_type": step.instance_type, "instance_hours": hours, "amount": amount,
            "basis": basis}  # fmt: skip


def print_costs(call: Call, document: dict[str, Any]) -> None:
    """Print what a run takes, and costs."""
    if document["currency"]:
        print(f"An estimate, not a bill: AWS's prices on demand in {call.config.aws.region}, in USD.")
    else:
        print(f"An estimate in instance-hours; their prices: {PRICE_PAGE}")
        if call.target == "local":
            print("With --target aws it asks AWS for them.")
    if executions := document["measured_executions"]:
        which = f"execution {' and '.join(arn.rpartition('/')[2] for arn in executions)}"
        here = f"Durations of the local run, {which}: this machine is faster or slower than those instances."
        print(here if call.target == "local" else f"Durations as billed in {which}.")
    print("One run:")
    limited = "limit" if any(row["basis"] == "limit" for row in document["steps"]) else ""
    total = {"step": "total", "instance_type": "", "instance_hours": document["run_instance_hours"]}
    for row in [*document["steps"], {**total, "amount": document["run"], "basis": limited}]:
        at_most = " at most" if row["basis"] == "limit" else ""
        taken = f"{text_of_hours(row['instance_hours'])}{text_of_amount(row['amount'], document['currency'])}"
        print(f"  {row['step']:<20} {row['instance_type']:<15} {taken}{at_most}")
    if limited:
        print("At most: such a step has not been measured, so its max_runtime_seconds is counted in full.")


def text_of_endpoint(instance_type: str, hours: int, most: int, *, price: float | None) -> str:
    """Return what the endpoint takes and costs, in a line."""
    if not most:
        return "The endpoint is serverless: it costs by use, and nothing while it is idle."
    span = [hours] if hours == most else [hours, most]
    amount = "price unknown" if price is None else f"{' to '.join(f'{price * each:.2f}' for each in span)} USD"
    return f"The endpoint, left on: {' to '.join(map(str, span))} hours of {instance_type} a month, {amount}."


def text_of_hours(hours: float) -> str:
    """Return hours and minutes, or minutes and seconds."""
    minutes, seconds = divmod(round(hours * HOUR_SECONDS), 60)
    return f"{f'{minutes // 60}h {minutes % 60:02}m' if minutes >= 60 else f'{minutes}m {seconds:02}s':>10}"


def text_of_amount(amount: float | None, currency: str | None) -> str:
    return f"{amount:10.2f}" if amount is not None else "  price unknown" if currency else ""
