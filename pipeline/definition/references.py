"""What the steps of a definition refer to, and whether it exists, as far as the definition alone tells."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pipeline.definition.expressions import EXECUTION_VARIABLES, ROOTS, Reference, references
from pipeline.definition.paths import listing
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Definition, Step
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean


def reference_faults(definition: Definition, step: Step) -> Iterator[str]:
    """Everything that the step refers to in vain; the step's name is the subject of each sentence."""
    for expression in step.expressions:
        try:
            found = references(expression)
        except PipelineError as error:
            yield f"has an expression that cannot be read: {error}"
            continue
        for reference in found:
            yield from missing_faults(definition, reference)
        if "Get" in expression and found[0].property_file is not None:
            yield f"reads {expression['Get']}, which only Std:JsonGet can read."
    for name in [name for name, _ in step.triggers if isinstance(name, str)]:
        target = definition.steps.get(name)
        if target is None:
            hint = did_you_mean(name, definition.steps)
            yield f"depends on '{name}', but no step has that name.{hint}"
        elif target.type == "Fail":
            yield f"depends on '{name}', but nothing runs after a Fail step."


def missing_faults(definition: Definition, reference: Reference) -> Iterator[str]:
    """Why there is nothing to read, as far as the definition alone tells."""
    experiment = definition.content.get("PipelineExperimentConfig")
    names: dict[str, Collection[str]] = {
        "Parameters": definition.parameters,
        "Steps": definition.steps,
        "Execution": EXECUTION_VARIABLES,
        "PipelineExperimentConfig": experiment if isinstance(experiment, Mapping) else {},
    }
    known = names[reference.root]
    reads = f"reads {reference.text}"
    if reference.name not in known:
        hint = did_you_mean(reference.name, known)
        yield f"reads {reference.root}.{reference.name}, but no {ROOTS[reference.root]} has that name.{hint}"
    elif reference.root == "Steps":
        target = definition.steps[reference.name]
        fault = unread_fault(target, reference)
        if fault:
            yield f"{reads}, but {fault}"


def unread_fault(target: Step, reference: Reference) -> str | None:
    """Why a step has nothing of that kind; None where it has, or only the service's model will tell."""
    step_type = STEP_TYPES.get(target.type)
    if reference.property_file is not None:
        files = [str(file.get("PropertyFileName")) for file in target.objects("PropertyFiles")]
        return missing_name("property files", reference.property_file, files)
    if target.type == "Fail":
        return "a Fail step has no properties."
    if not reference.path:
        return "names none of the step's properties."
    if step_type is None or not step_type.properties:
        return None
    (member,) = step_type.properties
    if member == "Outcome":
        return None if reference.path == ("Outcome",) else f"a {target.type} step has only Outcome."
    if reference.path[0] != member or len(reference.path) != 2:
        return f"a {target.type} step has only OutputParameters['name']."
    return missing_name("OutputParameters", str(reference.path[1]), list(outputs_of(target)))


def missing_name(noun: str, name: str, names: list[str]) -> str | None:
    """Why a name is none of those that a step declares."""
    if name in names:
        return None
    return f"its {noun} are {listing(names) if names else 'none'}.{did_you_mean(name, names)}"


def outputs_of(step: Step) -> dict[str, Any]:
    """Name -> type of the outputs that a Lambda or Callback step declares."""
    return {str(output.get("OutputName")): output.get("OutputType") for output in step.objects("OutputParameters")}
