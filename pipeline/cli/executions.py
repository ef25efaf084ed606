"""`status`, `stop`, `retry`, and what `run` shows: an execution while it runs, what came of it, what to do next."""

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.cli.call import CacheMode, Call
from pipeline.cli.output import WIDTH, print_json, print_table, printable, say, with_places, wrapped
from pipeline.cli.progress import FROM_EARLIER, Progress, hyperparameters_text
from pipeline.errors import ServiceError
from pipeline.service import executions
from pipeline.service.comparison import accuracy_text
from pipeline.service.executions import pipeline_of, recent, users_places
from pipeline.service.models import wait_for_endpoint
from pipeline.service.reports import keep_report
from pipeline.service.status import status as status_document
from pipeline.service.targets import Target

SHOWN_OTHERS, LAST_LINES = 4, 10
REUSE = {
    "bytes": "Reused steps were found unchanged by the bytes of their inputs; AWS compares the URIs and, of this "
    "project's data, the listing, as --cache as-on-aws does.",
    "as-on-aws": "Reused steps were found unchanged by the URIs of their inputs and, of this project's data, by the "
    "listing, as on AWS, whatever the bytes there.",
}
LABEL_WIDTH = 14
OF_THE_CODE = re.compile(r"AlgorithmError|ClientError")  # reasons of a failure that the same again would meet again
OF_THE_MACHINE = re.compile(r"(?i)no space left|disk .*full|connection|timed? ?out|killed from outside")
OWN_EXCEPTION = re.compile(r"(classifier[.\w]*|deploy|describe_inputs)\.\w+: ")  # ends a function's traceback
TRACEBACK = ("Traceback ", 'File "')
Document = Mapping[str, Any]  # what `status --json` prints


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
            say("\nStopping ...")
            try:
                executions.stop(target, arn)
            except ServiceError as problem:
                say(problem)
            executions.watch(target, arn, progress.show)
            return False
    return True


def show(call: Call, target: Target, arn: str, *, others: str = "") -> int:
    """Print the execution's document or summary; return 1 if it failed or was stopped."""
    executions.describe(target, arn)  # of one that is not there it says so
    if problem := keep_report(target, arn):
        say(problem)
    document = status_document(target, arn)
    endpoint = document["endpoint"]
    if endpoint and endpoint["status"] in ("Creating", "Updating") and target.name == "local":
        wait_for_endpoint(target, endpoint["name"])
        document = status_document(target, arn)
    if call.as_json:
        print_json(document)
    else:
        print_results(document, REUSE.get(call.cache, "") if target.name == "local" else "", others)
        failed = [step for step in document["steps"] if step["status"] == "Failed"]
        steps = {step["StepName"]: step for step in executions.steps(target, arn)} if failed else {}
        for step in failed:
            lines = target.last_lines(step["log"], LAST_LINES) if step["log"] else []
            places = users_places(target, pipeline_of(arn), steps[step["name"]])
            print_failure(step, lines, places, is_own=call.is_own)
        print("\nNext")
        usual_endpoint = call.config.deploy.endpoint_name if call.is_own else None
        wanted = list(next_commands(document, call.command, usual_endpoint=usual_endpoint, is_own=call.is_own))
        if target.name == "local":
            wanted.append((call.command("studio"), "open the page: look, compare, start again"))
        for text, why in wanted:
            print(f"  {text}\n      {why}")
    return 0 if document["status"] in ("Succeeded", "Executing") else 1


def print_results(document: Document, reuse: str, others: str) -> None:
    """Print the table of steps, what made a reused one unchanged, what came of it, and which other ones there are."""
    print()
    rows = []
    for step in document["steps"]:
        earlier = FROM_EARLIER if step["source_execution"] else ""
        note = "reused" if step["cache_hit"] else earlier or step["outcome"] or ""
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f}"
        rows.append((step["name"], step["type"], step["status"], seconds, note))
    print_table(("Step", "Type", "Status", "Seconds", "Note"), rows)
    if reuse and any(step["cache_hit"] for step in document["steps"]):
        print("\n".join(["", *wrapped(reuse)]))
    first = ("Execution", f"{document['status']}  {document['execution_arn'].rpartition('/')[2]}")
    print()
    for label, text in [first, *facts(document), *([("Others", others)] if others else [])]:
        print(f"{label:<{LABEL_WIDTH}} {text}")


def facts(document: Document) -> list[tuple[str, str]]:
    """Return label and text of each result."""
    rows = []
    if "test_accuracy" in document["metrics"]:
        rows.append(("Test accuracy", accuracy_text(document["metrics"], document["parameters"])))
    if warning := document.get("comparison_warning"):
        rows += labelled("Comparison", f"Warning: {warning}")
    if document["best_hyperparameters"]:
        rows.append(("Winner", hyperparameters_text(document["best_hyperparameters"])))
    if document["rules"]:
        rows += labelled("Rules", rules_text(document["rules"]))
    if document["model_package_arn"]:
        version = document["model_package_arn"].partition("/")[2]
        rows.append(("Model", f"{version}  {document['model_approval_status']}"))
    if document["endpoint"]:
        rows.append(("Endpoint", f"{document['endpoint']['name']}  {document['endpoint']['status']}"))
        rows += [("", text) for text in (document["endpoint"]["url"], document["endpoint"]["note"]) if text]
    messages = [step["outputs"]["message"] for step in document["steps"] if "endpoint_name" in step["outputs"]]
    for message in [document["nothing_new"]] if document["nothing_new"] else messages[-1:]:
        rows += labelled("Deployment", message)
    places = {place: name.title() for name, place in reversed(document["reports"].items()) if place}
    return [*rows, *((name, place) for place, name in reversed(places.items()))]


def labelled(label: str, text: str) -> list[tuple[str, str]]:
    """Return the lines of a long text, of which the first has the label."""
    lines = wrapped(text, WIDTH - LABEL_WIDTH - 1)
    return list(zip((label, *[""] * len(lines)), lines, strict=False))


def rules_text(rules: Mapping[str, str]) -> str:
    """Return how many rules watched the training, and which of them found a problem or failed."""
    problems = [name for name, status in rules.items() if status == "IssuesFound"]
    failed = [name for name, status in rules.items() if status == "Error"]
    parts = [
        f"{len(rules)} watched the training",
        "found a problem: " + ", ".join(problems) if problems else "no problem found",
    ]
    return "; ".join([*parts, *(["failed: " + ", ".join(failed)] if failed else [])])


def print_failure(step: Document, lines: Sequence[str], places: Mapping[str, str], *, is_own: bool = False) -> None:
    """Print why a step failed, and the end of its log unless the reason is a whole sentence of the product's own.

    `places` are the folders of the step's job by what the user calls them.
    """
    reason = printable(with_places(step["failure_reason"] or "without a reason", places))
    print("\n".join(["", *wrapped(f"{step['name']} failed: {reason}")]))
    if not step["log"]:
        return
    lines = [printable(with_places(line, places)) for line in lines]
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    of_function = OWN_EXCEPTION.match(last)
    in_own_words = is_own and not any(line.lstrip().startswith(TRACEBACK) for line in lines)
    is_told = (of_function or in_own_words) and (last[of_function.end() :] if of_function else last) in reason
    fresh = [] if is_told else [line for line in lines if line.strip() not in reason]
    print(f"The last lines of its log, {step['log']}:" if fresh else f"Its log: {step['log']}")
    for line in fresh:
        print(f"  {line}")


def next_commands(
    document: Document, command: Callable[..., str], *, usual_endpoint: str | None, is_own: bool
) -> Iterator[tuple[str, str]]:
    """Return the commands that make sense now, and why; most of them know this project's own pipeline only."""
    endpoint = document["endpoint"]
    if endpoint and is_own:
        other = [] if endpoint["name"] == usual_endpoint else ["--endpoint", endpoint["name"]]
        yield command("invoke", document["example_image"] or "IMAGE", *other), "classify an image"
    if document["model_approval_status"] == "PendingManualApproval" and is_own:
        yield command("approve"), "approve and deploy the model"
    if (document["reports"]["debugger"] or "").startswith("s3://"):
        name = document["execution_arn"].rpartition("/")[2]
        yield command("report", name), "how the training went: rules, curves, profile, search"
    has_fail_step = any(step["type"] == "Fail" for step in document["steps"])
    if document["status"] in ("Failed", "Stopped") and not has_fail_step:
        reasons = " ".join(step["failure_reason"] or "" for step in document["steps"] if step["status"] == "Failed")
        if "--replace-classes" in reasons:
            yield command("retry", "--replace-classes"), "put this model of other classes in the endpoint's"
        elif is_own and OF_THE_CODE.search(reasons) and not OF_THE_MACHINE.search(reasons):
            yield command("run"), "once that is corrected; what has succeeded is reused"
        else:
            yield command("retry"), "go on " + ("from the failed step" if reasons else "where it was stopped")
    if "InputDataUri" in document["parameters"] and is_own:
        yield command("run", "--data", "FOLDER"), "your own images: one folder a class"
    yield command("status"), "this summary again"
    if is_own:
        yield command("teardown"), "end the endpoint and remove what was made"
