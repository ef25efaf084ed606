"""Two executions side by side: parameters, figures and seconds, and what of definition, code and data has changed."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.definition.steps import STEP_TYPES, Definition
from pipeline.errors import PipelineError
from pipeline.service import executions
from pipeline.service.cache_reasons import changes_of, contents, is_uri, text_of_files
from pipeline.service.status import METRICS, members, output_of, read_evaluation
from pipeline.service.targets import Target

QUIET = ("NoIssuesFound", "InProgress")  # verdicts of rules
Sections = dict[str, dict[str, str]]  # what is compared of an execution


def side_by_side(left: Sections, right: Sections) -> dict[str, list[tuple[str, str | None, str | None]]]:
    """Return by section the name of each value and what either execution has."""
    names = {section: {**left.get(section, {}), **right.get(section, {})} for section in {**left, **right}}
    return {
        section: [(name, left.get(section, {}).get(name), right.get(section, {}).get(name)) for name in each]
        for section, each in names.items()
    }


def comparable(document: Mapping[str, Any]) -> Sections:
    """Return what is compared of the status document of an execution."""
    metrics = dict(document["metrics"])
    low, high = metrics.pop("test_accuracy_lower_bound", None), metrics.pop("test_accuracy_upper_bound", None)
    measured = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()}
    if low is not None and high is not None and "test_accuracy" in measured:
        measured["test_accuracy"] += f" ({low:.3f} to {high:.3f})"
    if document["model_package_arn"]:
        measured["model"] = document["model_package_arn"].partition("/")[2]
    return {
        "Outcome": {"status": document["status"]},
        "Parameters": {name: str(value) for name, value in document["parameters"].items()},
        "Hyperparameters": {name: shorten_number(value) for name, value in document["best_hyperparameters"].items()},
        "Metrics": measured,
        "Rules": {name: verdict for name, verdict in document["rules"].items() if verdict not in QUIET},
        "Seconds": {
            f"seconds of {step['name']}": "reused" if step["cache_hit"] else f"{step['seconds'] or 0:.1f}"
            for step in document["steps"]
        },
    }


def shorten_number(value: str) -> str:
    """Return a long number with fewer digits, any other text as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def accuracy_text(metrics: Mapping[str, float], parameters: Mapping[str, Any]) -> str:
    """Return the accuracy, of how many images it is, its interval and what was asked for; empty without one."""
    if metrics.get("test_accuracy") is None:
        return ""
    notes = [f"threshold {parameters['AccuracyThreshold']}"] if "AccuracyThreshold" in parameters else []
    bounds = [metrics.get(f"test_accuracy_{name}") for name in ("lower_bound", "upper_bound", "images")]
    if None not in bounds:
        low, high, images = bounds
        notes.insert(0, f"{images:,} image{'' if images == 1 else 's'}, 95 %: {low:.3f} to {high:.3f}")
    return f"{metrics['test_accuracy']:.4f}" + (f" ({'; '.join(notes)})" if notes else "")


def recalls(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the recall of each class, as far as an evaluation.json has it."""
    classes = members(members(evaluation, METRICS), "per_class")
    found = {name: members(classes, name).get("recall") for name in classes}
    return {name: float(recall) for name, recall in found.items() if isinstance(recall, int | float)}


def figures(target: Target, steps: list[dict[str, Any]]) -> Sections:
    """Return the recall of each class and how many images each split has of it, as far as an execution tells them."""
    evaluation = read_evaluation(target, output_of(target, steps, "evaluation"))
    uri, counts = output_of(target, steps, "manifest"), {}
    with suppress(PipelineError, ValueError, LookupError, TypeError, AttributeError):
        splits = json.loads(target.read(f"{uri}/manifest.json"))["counts"] if uri else {}
        counts = {f"{name}, {split}": str(count) for split, each in splits.items() for name, count in each.items()}
    by_class = {name: f"{recall:.3f}" for name, recall in recalls(evaluation).items()}
    return {"Recall by class": by_class, "Images": counts}


def job_changes(target: Target, arn: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """Return what code, arguments and inputs of jobs differ, by step; `arn` is the later execution."""
    declared = Definition(executions.definition_of(target, arn)).steps
    earlier, found = {step["StepName"]: step for step in before}, []
    for step in after:
        name = step["StepName"]
        key = STEP_TYPES[declared[name].type].cache_key if name in declared and name in earlier else None
        changes = changes_of(target, earlier[name], step, key) if key else None
        found += [f"{name}: {change}" for change in changes or ()]
    return found


def file_changes(target: Target, before: object, after: object) -> list[str]:
    """Return how many files were added, removed and changed between two prefixes of S3, and the first names."""
    if not is_uri(before) or not is_uri(after) or before == after:
        return []
    old, new = contents(target, before), contents(target, after)
    both = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    found = {"added": new.keys() - old.keys(), "removed": old.keys() - new.keys(), "changed": both}
    return [text_of_files(sorted(names), what, after) for what, names in found.items() if names]
