"""`status`, `stop`, `retry`, and what `run` shows: an execution while it runs and afterwards."""

import signal
import sys

from pipeline.cli.call import CacheMode, Call
from pipeline.cli.output import print_json
from pipeline.cli.progress import Progress
from pipeline.cli.summary import next_commands, print_failure, print_results, print_steps
from pipeline.errors import ServiceError
from pipeline.service import executions
from pipeline.service.executions import pipeline_of, recent, users_places
from pipeline.service.models import wait_for_endpoint
from pipeline.service.reports import keep_report
from pipeline.service.status import status as status_document
from pipeline.service.targets import Target

SHOWN_OTHERS, LAST_LINES = 4, 10
REUSE = {
    "bytes": "Reused steps were found unchanged by the bytes of their inputs; AWS compares the URIs only, as --cache "
    "as-on-aws does.",
    "as-on-aws": "Reused steps were found unchanged by the URIs of their inputs, as on AWS, whatever the bytes there.",
    "off": "",
}


def status(call: Call, execution: str | None = None, pipeline: str | None = None, watch: bool = False) -> int:
    """Show an execution as it is now, or until it ends; without its name, the newest others as well."""
    target, arn = call.open_execution(execution, pipeline)
    if watch:
        with Progress(target, call.progress_stream, arn) as progress:
            executions.watch(target, arn, progress.show)
    listed = [] if execution or call.as_json else recent(target, call.pipeline_name, SHOWN_OTHERS + 1)
    others = [f"{each['execution']} {each['status']}" for each in listed if each["execution_arn"] != arn]
    return show(call, target, arn, others=", ".join(others[:SHOWN_OTHERS]))


def stop(call: Call, execution: str | None = None, pipeline: str | None = None) -> int:
    target, arn = call.open_execution(execution, pipeline)
    executions.stop(target, arn)
    executions.watch(target, arn, lambda steps: None)
    return show(call, target, arn) and 0


def retry(
    call: Call,
    execution: str | None = None,
    pipeline: str | None = None,
    cache: CacheMode = "bytes",
    no_cache: bool = False,
    replace_classes: bool = False,
) -> int:
    call.cache = "off" if no_cache else cache
    target, arn = call.open_execution(execution, pipeline, tied=True)
    executions.retry(target, arn, replace_classes=replace_classes)
    return follow(call, target, arn)


def follow(call: Call, target: Target, arn: str) -> int:
    """Show progress until the end, then the summary; Ctrl-C and SIGTERM stop the execution."""
    watch_to_end(call, target, arn)
    return show(call, target, arn)


def watch_to_end(call: Call, target: Target, arn: str) -> bool:
    """Show progress until the end; return whether it came by itself, not by Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Progress(target, call.progress_stream, arn) as progress:
        try:
            executions.watch(target, arn, progress.show)
        except KeyboardInterrupt:
            print("\nStopping ...", file=sys.stderr)
            try:
                executions.stop(target, arn)
            except ServiceError as problem:
                print(problem, file=sys.stderr)
            executions.watch(target, arn, progress.show)
            return False
    return True


def show(call: Call, target: Target, arn: str, *, others: str = "") -> int:
    """Print the execution's document or summary; return 1 if it failed or was stopped."""
    executions.describe(target, arn)  # of one that is not there it says so
    if problem := keep_report(target, arn):
        print(problem, file=sys.stderr)
    document = status_document(target, arn)
    if document["endpoint"] and document["endpoint"]["status"] in ("Creating", "Updating") and target.name == "local":
        wait_for_endpoint(target, document["endpoint"]["name"])
        document = status_document(target, arn)
    if call.as_json:
        print_json(document)
    else:
        print_steps(document, REUSE[call.cache] if target.name == "local" else "")
        print_results(document, others)
        steps = {step["StepName"]: step for step in executions.steps(target, arn)}
        for step in document["steps"]:
            if step["status"] == "Failed":
                lines = target.last_lines(step["log"], LAST_LINES) if step["log"] else []
                places = users_places(target, pipeline_of(arn), steps[step["name"]])
                print_failure(step, lines, places, is_own=call.is_own)
        print("\nNext")
        usual_endpoint = call.config.deploy.endpoint_name if call.is_own else None
        for text, why in next_commands(document, call.command, usual_endpoint=usual_endpoint, is_own=call.is_own):
            print(f"  {text}\n      {why}")
    return 0 if document["status"] in ("Succeeded", "Executing") else 1
