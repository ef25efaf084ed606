"""What an update changes of a pipeline, for a person: by parameter and step, old -> new.

Steps are compared by name, also inside branches; items of a list by the name that they carry, and the words of a
command line by their option. So an inserted item is one line, not a change of everything behind it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from pipeline.definition.expressions import is_expression
from pipeline.definition.steps import BRANCHES, Definition, at, items, objects

NAME_KEYS = ("Name", "ChannelName", "InputName", "OutputName", "ContainerHostname")
LONGEST = 40  # characters of a value that is shown
CONTEXT = 12  # characters before the first difference of long values


def differences(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return a line for each difference between DescribePipeline's answer and an UpdatePipeline request."""
    old, new = (Definition(json.loads(each["PipelineDefinition"])) for each in (deployed, wanted))
    before, after = around(deployed, old), around(wanted, new)
    lines = [line for place in before for line in changed(before[place], after[place], place)]
    for noun, olds, news in (("parameter", old.parameters, new.parameters), ("step", flat(old), flat(new))):
        for name in {**olds, **news}:
            if name not in olds:
                default = f", default {text(news[name]['DefaultValue'])}" if "DefaultValue" in news[name] else ""
                lines.append(f"{noun} {name} added ({news[name].get('Type')}{default})")
            elif name not in news:
                lines.append(f"{noun} {name} removed")
            else:
                lines += changed(olds[name], news[name], f"{noun} {name}:")
    return lines if lines or old.content == new.content else ["definition: the order of its parts"]


def around(request: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """Return what a request has beside its parameters and steps."""
    rest = {key: value for key, value in definition.content.items() if key not in ("Parameters", "Steps") and value}
    return {
        "description": request.get("PipelineDescription"),
        "role": request.get("RoleArn"),
        "steps at the same time": at(request, "ParallelismConfiguration.MaxParallelExecutionSteps"),
        "definition": rest,
    }


def flat(definition: Definition) -> dict[str, dict[str, Any]]:
    """Return each step with its arguments as members of its own; a branch is the names of its steps."""
    found = {}
    for name, step in definition.steps.items():
        members = {key: value for key, value in step.definition.items() if key != "Arguments"}
        branches = {key: items(step.definition, f"Arguments.{key}") for key in BRANCHES if step.type == "Condition"}
        inner = {key: [each.get("Name") for each in objects(steps)] for key, steps in branches.items() if steps}
        found[name] = {**members, **step.arguments, **inner}
    return found


def changed(old: Any, new: Any, path: str) -> Iterator[str]:
    """Yield the differences of two values, each with the path to it."""
    if old == new:
        return
    before, after = members(old), members(new)
    is_whole = path.endswith(":")  # a parameter or step
    if before is None or after is None:
        yield f"{path if is_whole else f'{path}:'} {pair(old, new)}"
        return
    for key in {**before, **after}:
        inner = f"{path} {key}" if is_whole else f"{path}.{key}"
        if key not in before:
            yield f"{inner} added: {shortened(text(after[key]))}"
        elif key not in after:
            yield f"{inner} removed"
        else:
            yield from changed(before[key], after[key], inner)


def members(value: Any) -> dict[str, Any] | None:
    """Return what a value consists of, by name; None for a value that is shown as a whole."""
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
    """Return a command line by its options; None if it is not one of options only."""
    found: dict[str, list[Any]] = {}
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            found[word] = []
        elif not found:
            return None
        else:
            found[next(reversed(found))].append(word)
    return {option: values[0] if len(values) == 1 else values for option, values in found.items()} or None


def pair(old: Any, new: Any) -> str:
    """Return old -> new as text; of long texts the part that differs."""
    before, after = text(old), text(new)
    if before == after:  # of two types
        before, after = json.dumps(old), json.dumps(new)
    start = 0
    if max(len(before), len(after)) > LONGEST:
        alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(before, after, strict=False)))
        start = max(0, alike - CONTEXT)
    return f"{shortened(before, start)} -> {shortened(after, start)}"


def shortened(written: str, start: int = 0) -> str:
    """Return at most LONGEST characters of a text, from a place on."""
    end = start + LONGEST
    return f"{'…' if start else ''}{written[start:end]}{'…' if len(written) > end else ''}"


def text(value: Any) -> str:
    """Return a value as a person would write it; what is known at run time only is in braces."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value or "''"
    if is_expression(value):
        ((function, inner),) = value.items()
        if function == "Std:Join" and isinstance(inner, dict) and isinstance(inner.get("Values"), list):
            return str(inner.get("On", "")).join(map(text, inner["Values"]))
        return f"{{{text(inner)}}}"
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return ", ".join(map(text, value)) or "nothing"
    return json.dumps(value, ensure_ascii=False)
