"""`cost`: what a run and the standing endpoint cost on AWS, from the durations of the newest executions."""

import json
from pathlib import Path

from pipeline.aws import cost
from pipeline.aws.stack import Client
from pipeline.cli.invocation import Arguments, loaded
from pipeline.config.config import Config
from pipeline.service.aws_target import aws_client
from pipeline.service.local_target import LocalTarget


def estimate(arguments: Arguments) -> int:
    """The command."""
    config = loaded(arguments)
    measured = cost.measured(client_of(arguments, config), config.pipeline.name, cost.limits(config).keys())
    run, endpoint = cost.run_cost(config, measured.seconds), cost.endpoint_cost(config)
    if not arguments.json:
        print("\n".join(cost.lines(run, endpoint, measured, on_this_machine=arguments.target == "local")))
        return 0
    steps = [{"step": step.step, "amount": step.amount, "basis": step.basis} for step in run.steps]
    document = {
        "estimate": True,
        "currency": run.currency,
        "prices_date": run.prices_of,
        "measured_on": arguments.target if measured.seconds else None,
        "measured_executions": list(measured.executions),
        "steps": steps,
        "run": run.total,
        "endpoint_per_month": endpoint.per_month,
    }
    print(json.dumps(document))
    return 0


def client_of(arguments: Arguments, config: Config) -> Client:
    """Clients of the target; a home that does not exist is not made."""
    if arguments.target == "aws":
        return aws_client(config.aws.region)
    return LocalTarget(config, Path(arguments.home), reads_only=True).client
