"""`status`, `stop` and `retry`: an execution while it runs and afterwards."""

import json
import signal
import sys

from pipeline.cli.console import Progress, print_summary
from pipeline.cli.invocation import Arguments, chosen_target, command, loaded
from pipeline.errors import ServiceError
from pipeline.service import control
from pipeline.service.status import status
from pipeline.service.targets import Target
from pipeline.service.training_report import keep_report

REUSE = {
    "bytes": "Reused steps were found unchanged by the bytes of their inputs; AWS compares the URIs only, as --cache "
    "as-on-aws does.",
    "as-on-aws": "Reused steps were found unchanged by the URIs of their inputs, as on AWS, whatever the bytes there.",
}


def show_status(arguments: Arguments) -> int:
    """An execution as it is now, or until it ends."""
    target, arn = found_execution(arguments)
    if arguments.watch:
        control.watch(target, arn, Progress(target, sys.stderr if arguments.json else sys.stdout).look)
    return show(arguments, target, arn)


def stop(arguments: Arguments) -> int:
    """Stop an execution."""
    target, arn = found_execution(arguments)
    control.stop(target, arn)
    control.watch(target, arn, lambda steps: None)
    return show(arguments, target, arn) and 0


def retry(arguments: Arguments) -> int:
    """Go on from the failed step."""
    target, arn = found_execution(arguments, tied=True)
    if arguments.replace_classes:
        control.allow_other_classes(target, arn)
    control.retry(target, arn)
    return follow(arguments, target, arn)


def found_execution(arguments: Arguments, *, tied: bool = False) -> tuple[Target, str]:
    """The execution that the command line names, or the newest."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, tied=tied, reads_only=True)
    return target, control.execution_arn(target, arguments.pipeline or config.pipeline.name, arguments.execution)


def follow(arguments: Arguments, target: Target, arn: str) -> int:
    """Show progress until the end, then the summary; Ctrl-C and SIGTERM stop the execution."""
    watched(arguments, target, arn)
    return show(arguments, target, arn)


def watched(arguments: Arguments, target: Target, arn: str) -> bool:
    """Show progress until the end; whether it came by itself, not by Ctrl-C or SIGTERM."""
    progress = Progress(target, sys.stderr if arguments.json else sys.stdout)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        control.watch(target, arn, progress.look)
    except KeyboardInterrupt:
        print("\nStopping ...", file=sys.stderr)
        try:
            control.stop(target, arn)
        except ServiceError as problem:
            print(problem, file=sys.stderr)
        control.watch(target, arn, progress.look)
        return False
    return True


def show(arguments: Arguments, target: Target, arn: str) -> int:
    """Print the execution's document or summary."""
    keep_report(target, arn)
    document = status(target, arn)
    if document["endpoint"] and document["endpoint"]["status"] in ("Creating", "Updating") and target.name == "local":
        control.wait_for_endpoint(target, document["endpoint"]["name"])
        document = status(target, arn)
    if arguments.json:
        print(json.dumps(document))
    else:
        print_summary(
            document,
            lambda *words: command(arguments, *words),
            reuse=REUSE.get(getattr(arguments, "cache", "bytes"), "") if target.name == "local" else "",
            own=getattr(arguments, "own", False),
            usual_endpoint=getattr(arguments, "usual_endpoint", None),
            last_lines=target.last_lines,
        )
    return 0 if document["status"] in ("Succeeded", "Executing") else 1
