"""The end of an execution as a person reads it: its steps, what came of them, why one failed, what to do next."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.cli.output import WIDTH, print_table, printable, with_places, wrapped
from pipeline.cli.progress import FROM_EARLIER, hyperparameters_text

LABEL_WIDTH = 14
OF_THE_CODE = re.compile(r"AlgorithmError|ClientError")  # reasons of a failure that the same again would meet again
OF_THE_MACHINE = re.compile(r"(?i)no space left|disk .*full|connection|timed? ?out|killed from outside")
OWN_EXCEPTION = re.compile(r"classifier[.\w]*\.\w+: ")  # the end of a traceback of the deploy function
TRACEBACK = ("Traceback ", 'File "')
Document = Mapping[str, Any]  # what `status --json` prints


def print_steps(document: Document, reuse: str) -> None:
    """Print the table of steps, and what made a reused one unchanged."""
    print()
    rows = []
    for step in document["steps"]:
        earlier = FROM_EARLIER if step["source_execution"] else ""
        note = "reused" if step["cache_hit"] else earlier or step["outcome"] or ""
        seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f}"
        rows.append((step["name"], step["type"], step["status"], seconds, note))
    print_table(("Step", "Type", "Status", "Seconds", "Note"), rows)
    if any(step["cache_hit"] for step in document["steps"]) and reuse:
        print("\n".join(["", *wrapped(reuse)]))


def print_results(document: Document, others: str) -> None:
    """Print what came of an execution, and which other ones there are."""
    print()
    rows = [("Execution", f"{document['status']}  {document['execution_arn'].rpartition('/')[2]}")]
    for label, text in [*rows, *facts(document), *([("Others", others)] if others else [])]:
        print(f"{label:<{LABEL_WIDTH}} {text}")


def facts(document: Document) -> list[tuple[str, str]]:
    """Return label and text of each result."""
    rows = []
    if "test_accuracy" in document["metrics"]:
        rows.append(("Test accuracy", accuracy_text(document["metrics"], document["parameters"])))
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
    messages = [step["outputs"]["message"] for step in document["steps"] if "message" in step["outputs"]]
    for message in messages[-1:]:
        rows += labelled("Deployment", message)
    places = {place: name.title() for name, place in reversed(document["reports"].items()) if place}
    return [*rows, *((name, place) for place, name in reversed(places.items()))]


def labelled(label: str, text: str) -> list[tuple[str, str]]:
    """Return the lines of a long text, of which the first has the label."""
    lines = wrapped(text, WIDTH - LABEL_WIDTH - 1)
    return list(zip((label, *[""] * len(lines)), lines, strict=False))


def accuracy_text(metrics: Mapping[str, float], parameters: Mapping[str, Any]) -> str:
    """Return the accuracy, of how many images it is, its interval and what was asked for."""
    notes = [f"threshold {parameters['AccuracyThreshold']}"] if "AccuracyThreshold" in parameters else []
    if "test_accuracy_images" in metrics:
        low, high, images = (metrics[f"test_accuracy_{name}"] for name in ("lower_bound", "upper_bound", "images"))
        notes.insert(0, f"{images:,} image{'' if images == 1 else 's'}, 95 %: {low:.3f} to {high:.3f}")
    return f"{metrics['test_accuracy']:.4f}" + (f" ({'; '.join(notes)})" if notes else "")


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
            yield command("retry"), "go on from the failed step"
    if "InputDataUri" in document["parameters"] and is_own:
        yield command("run", "--data", "FOLDER"), "your own images: one folder a class"
    yield command("status"), "this summary again"
    if is_own:
        yield command("teardown"), "end the endpoint and remove what was made"
