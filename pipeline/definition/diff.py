"""What an update changes of a pipeline, for a person: by parameter and step, old -> new.

Steps are compared by name, also inside branches; items of a list by the name that they carry, and the words of a
command line by their option. So an inserted item is one line, not a change of everything behind it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

BRANCHES = ("IfSteps", "ElseSteps")
NAME_KEYS = ("Name", "ChannelName", "InputName", "OutputName", "ContainerHostname")
LONGEST = 40  # characters of a value that is shown
CONTEXT = 12  # characters before the first difference of long values


def differences(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each difference between DescribePipeline's answer and an UpdatePipeline request."""
    old, new = json.loads(deployed["PipelineDefinition"]), json.loads(wanted["PipelineDefinition"])
    parallel = "ParallelismConfiguration"
    lines = [
        *changed(deployed.get("PipelineDescription"), wanted["PipelineDescription"], "description"),
        *changed(deployed.get("RoleArn"), wanted["RoleArn"], "role"),
        *changed(steps_at_once(deployed.get(parallel)), steps_at_once(wanted[parallel]), "steps at the same time"),
        *parameter_lines(old.get("Parameters", []), new.get("Parameters", [])),
        *step_lines(by_name(old["Steps"]), by_name(new["Steps"])),
        *changed(rest(old), rest(new), "definition"),
    ]
    return lines if lines or old == new else ["definition: the order of its parts"]


def steps_at_once(parallelism: Mapping[str, Any] | None) -> Any:
    """MaxParallelExecutionSteps; None where the pipeline does not say."""
    return (parallelism or {}).get("MaxParallelExecutionSteps")


def rest(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What is neither parameter nor step; empty members say nothing."""
    return {key: value for key, value in definition.items() if key not in ("Parameters", "Steps") and value}


def parameter_lines(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of the declared parameters."""
    before, after = ({item["Name"]: item for item in items} for items in (old, new))
    for name in before | after:
        if name not in before:
            default = f", default {text(after[name]['DefaultValue'])}" if "DefaultValue" in after[name] else ""
            yield f"parameter {name} added ({after[name]['Type']}{default})"
        elif name not in after:
            yield f"parameter {name} removed"
        else:
            yield from changed(before[name], after[name], f"parameter {name}:")


def by_name(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every step, those of branches too, which the condition then only names."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        arguments = dict(step.get("Arguments", {}))
        inner: dict[str, dict[str, Any]] = {}
        for branch in BRANCHES:
            if branch in arguments:
                inner |= by_name(arguments[branch])
                arguments[branch] = [item["Name"] for item in arguments[branch]]
        found[step["Name"]] = {**step, "Arguments": arguments}
        found |= inner
    return found


def step_lines(old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Of the steps."""
    for name in {**old, **new}:
        if name not in old:
            yield f"step {name} added ({new[name]['Type']})"
        elif name not in new:
            yield f"step {name} removed"
        else:
            yield from changed(flat(old[name]), flat(new[name]), f"step {name}:")


def flat(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step with its arguments beside its other members: nearly every difference is in them."""
    return {**{key: value for key, value in step.items() if key != "Arguments"}, **step["Arguments"]}


def changed(old: Any, new: Any, path: str) -> Iterator[str]:
    """The differences of two values, each with the path to it."""
    if old == new:
        return
    before, after = members(old), members(new)
    if before is None or after is None:
        yield f"{path} {pair(old, new)}" if path.endswith(":") else f"{path}: {pair(old, new)}"
        return
    for key in {**before, **after}:
        inner = f"{path} {key}" if path.endswith(":") else f"{path}.{key}"
        if key not in before:
            yield f"{inner} added: {shortened(text(after[key]))}"
        elif key not in after:
            yield f"{inner} removed"
        else:
            yield from changed(before[key], after[key], inner)


def members(value: Any) -> dict[str, Any] | None:
    """What a value consists of, by name; None for a value that is shown as a whole."""
    if isinstance(value, dict):
        return None if is_expression(value) else value
    if not isinstance(value, list):
        return None
    for key in NAME_KEYS:
        if value and all(isinstance(item, dict) and key in item for item in value):
            return {str(item[key]): item for item in value}
    if any(isinstance(item, dict) and not is_expression(item) for item in value):
        return {str(number): item for number, item in enumerate(value)}
    return options(value)


def options(words: Sequence[Any]) -> dict[str, Any] | None:
    """A command line by its options; None if it is not one of options only."""
    found: dict[str, list[Any]] = {}
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            found[word] = []
        elif not found:
            return None
        else:
            found[next(reversed(found))].append(word)
    return {option: values[0] if len(values) == 1 else values for option, values in found.items()} or None


def is_expression(value: Mapping[str, Any]) -> bool:
    """Whether it stands for a value that is known at run time only: Get, or a Std function."""
    return len(value) == 1 and next(iter(value)).startswith(("Get", "Std:"))


def pair(old: Any, new: Any) -> str:
    """Old -> new; of long texts the part that differs."""
    before, after = text(old), text(new)
    if before == after:  # of two types
        before, after = json.dumps(old), json.dumps(new)
    start = 0
    if max(len(before), len(after)) > LONGEST:
        alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(before, after, strict=False)))
        start = max(0, alike - CONTEXT)
    return f"{shortened(before, start)} -> {shortened(after, start)}"


def shortened(written: str, start: int = 0) -> str:
    """At most so much of a text, from a place on."""
    end = start + LONGEST
    return f"{'…' if start else ''}{written[start:end]}{'…' if len(written) > end else ''}"


def text(value: Any) -> str:
    """A value as a person would write it; what is known at run time only is in braces."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, dict) and is_expression(value):
        ((function, inner),) = value.items()
        joined = function == "Std:Join"
        return str(inner["On"]).join(map(text, inner["Values"])) if joined else f"{{{text(inner)}}}"
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return ", ".join(map(text, value)) or "nothing"
    return json.dumps(value, ensure_ascii=False)
