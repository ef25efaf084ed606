"""The commands of run_pipeline.py: each takes the parsed arguments and returns the exit status.

0 succeeded, 1 the pipeline failed or a request was refused, 2 bad usage or configuration (raised as UsageError).
A command's module is imported when it is called: none waits for what only another one needs.
"""

import errno
import importlib
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.aws.errors import explain
from pipeline.cli.invocation import Arguments
from pipeline.errors import PipelineError, ServiceError, UsageError

REFUSED_BY_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
COMMANDS = {
    "run": "run_commands.run",
    "definition": "definition_commands.definition",
    "validate": "definition_commands.validate",
    "upsert": "run_commands.upsert",
    "start": "run_commands.start",
    "status": "execution_commands.show_status",
    "stop": "execution_commands.stop",
    "retry": "execution_commands.retry",
    "report": "report_command.report",
    "audit": "audit_command.audit",
    "models": "model_commands.models",
    "approve": "model_commands.approve",
    "reject": "model_commands.reject",
    "invoke": "endpoint_commands.invoke",
    "transform": "transform_command.transform",
    "drift": "drift_command.drift",
    "endpoints": "endpoint_commands.endpoints",
    "teardown": "teardown_commands.tear_down",
    "infra": "account_commands.handle_infra",
    "images": "account_commands.handle_images",
    "schedule": "schedule_commands.handle_schedule",
    "cost": "cost_command.estimate",
    "weights": "weights_commands.handle_weights",
}


def call(arguments: Arguments) -> int:
    """Run the command; its exit status.

    Raises:
        PipelineError: a sentence for the user, also for whatever AWS refuses or does not answer.
    """
    module, _, function = COMMANDS[arguments.command].partition(".")
    try:
        status: int = getattr(importlib.import_module(f"pipeline.cli.{module}"), function)(arguments)
    except (ClientError, BotoCoreError) as problem:
        raise ServiceError(explain(problem)) from problem
    except OSError as problem:
        if problem.errno not in REFUSED_BY_THE_SYSTEM:
            raise
        raise refusal(problem, Path(arguments.home)) from problem
    return status


def refusal(problem: OSError, home: Path) -> PipelineError:
    """What the operating system refused, as a sentence."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        from pipeline.local.store.state import DiskFull

        return DiskFull(Path(problem.filename).parent if problem.filename else home)
    return UsageError(f"{problem.filename or home} cannot be used ({problem.strerror}); choose another, by --home.")
