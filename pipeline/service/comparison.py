"""Two executions side by side: parameters, figures and seconds, and what of definition, code and data has changed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.definition.diff import differences
from pipeline.definition.steps import STEP_TYPES, Definition
from pipeline.errors import PipelineError
from pipeline.service import executions
from pipeline.service.cache_reasons import changes_of, contents, is_uri
from pipeline.service.status import output_of, read_evaluation
from pipeline.service.targets import Target

Row = tuple[str, str, str | None, str | None]  # section, name, and what either execution has


def compared(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Row]:
    """Return what is compared of the status documents of two executions."""
    return side_by_side(comparable(left), comparable(right))


def side_by_side(left: Mapping[tuple[str, str], str], right: Mapping[tuple[str, str], str]) -> list[Row]:
    """Return the values of both sides by section and name, in the order of their sections."""
    sections = list(dict.fromkeys(section for section, _ in [*left, *right]))
    names = sorted({**left, **right}, key=lambda place: sections.index(place[0]))
    return [(*place, left.get(place), right.get(place)) for place in names]


def comparable(document: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return what is compared of an execution, by section and name."""
    metrics = dict(document["metrics"])
    low, high = metrics.pop("test_accuracy_lower_bound", None), metrics.pop("test_accuracy_upper_bound", None)
    measured = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in metrics.items()}
    if low is not None and high is not None and "test_accuracy" in measured:
        measured["test_accuracy"] += f" ({low:.3f} to {high:.3f})"
    version = (document["model_package_arn"] or "").partition("/")[2]
    texts = {name: str(value).rpartition("/")[2] or str(value) for name, value in document["parameters"].items()}
    best = {name: shorten_number(value) for name, value in document["best_hyperparameters"].items()}
    times = {
        f"seconds of {step['name']}": "reused" if step["cache_hit"] else f"{step['seconds'] or 0:.1f}"
        for step in document["steps"]
    }
    sections = {
        "Outcome": {"status": document["status"]},
        "Parameters": texts,
        "Hyperparameters": best,
        "Metrics": {**measured, **({"model": version} if version else {})},
        "Seconds": times,
    }
    return {(section, name): value for section, found in sections.items() for name, value in found.items()}


def shorten_number(value: str) -> str:
    """Return a long number with fewer digits, any other text as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def accuracy_text(metrics: Mapping[str, float], parameters: Mapping[str, Any]) -> str:
    """Return the accuracy, of how many images it is, its interval and what was asked for; empty without one."""
    if "test_accuracy" not in metrics:
        return ""
    notes = [f"threshold {parameters['AccuracyThreshold']}"] if "AccuracyThreshold" in parameters else []
    if "test_accuracy_images" in metrics:
        low, high, images = (metrics[f"test_accuracy_{name}"] for name in ("lower_bound", "upper_bound", "images"))
        notes.insert(0, f"{images:,} image{'' if images == 1 else 's'}, 95 %: {low:.3f} to {high:.3f}")
    return f"{metrics['test_accuracy']:.4f}" + (f" ({'; '.join(notes)})" if notes else "")


def recall_by_class(target: Target, steps: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the recall of each class on the test split; empty without an evaluation that tells it."""
    evaluation = read_evaluation(target, output_of(target, steps, "evaluation"))
    found = evaluation.get("multiclass_classification_metrics", {})
    classes = found.get("per_class") if isinstance(found, dict) else None
    recalls = {name: each.get("recall") for name, each in (classes or {}).items() if isinstance(each, dict)}
    return {("Recall", name): f"{value:.3f}" for name, value in recalls.items() if isinstance(value, int | float)}


def image_counts(target: Target, steps: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Return how many images each split has of each class, of PrepareData's manifest; empty without one."""
    uri = output_of(target, steps, "manifest")
    try:
        counts = json.loads(target.read(f"{uri}/manifest.json"))["counts"] if uri else {}
        places = [(name, split, count) for split, classes in counts.items() for name, count in classes.items()]
    except (PipelineError, ValueError, LookupError, AttributeError, TypeError):
        return {}
    return {("Images", f"{name}, {split}"): str(count) for name, split, count in places}


def definition_changes(target: Target, arns: Sequence[str]) -> list[str]:
    """Return what the definition of the second execution has changed of the first one's."""
    before, after = ({"PipelineDefinition": json.dumps(executions.definition_of(target, arn))} for arn in arns)
    return differences(before, after)


def job_changes(target: Target, arn: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what code, arguments and inputs of jobs differ, by step; `arn` is the second execution."""
    declared = Definition(executions.definition_of(target, arn)).steps
    earlier = {step["StepName"]: step for step in before}
    for step in after:
        name = step["StepName"]
        key = STEP_TYPES[declared[name].type].cache_key if name in declared else None
        if key and name in earlier:
            yield from (f"{name}: {change}" for change in changes_of(target, earlier[name], step, key) or ())


def file_changes(target: Target, before: object, after: object) -> dict[str, list[str]]:
    """Return the names of the files that were added, removed and changed between two prefixes of S3."""
    if not is_uri(before) or not is_uri(after) or before == after:
        return {}
    old, new = contents(target, before), contents(target, after)
    found = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in old.keys() & new.keys() if old[name] != new[name]),
    }
    return {what: names for what, names in found.items() if names}
