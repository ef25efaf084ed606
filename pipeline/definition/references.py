"""What the steps of a definition refer to: whether it exists, whether it can be read there, and its type."""

from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipeline.definition.expressions import EXECUTION_VARIABLES, Reference, references
from pipeline.definition.placed_step import PlacedStep, objects, placed_steps
from pipeline.definition.properties import property_type
from pipeline.definition.service_model import STEP_MODELS, UnknownProperty
from pipeline.definition.shape_check import CONTAINERS, KINDS
from pipeline.definition.shapes import DEFAULT_TYPES
from pipeline.errors import PipelineError
from pipeline.suggestion import did_you_mean

NOUNS = {"Parameters": "parameter", "Steps": "step", "Execution": "execution variable"}


class Names:
    """The parameters and steps of a definition, by name."""

    def __init__(self, definition: dict[str, Any]) -> None:
        self.all_parameters = objects(definition.get("Parameters"))
        self.parameters = {str(item.get("Name")): item for item in self.all_parameters}
        self.all_steps = list(placed_steps(definition.get("Steps")))
        self.steps = {step.name: step for step in reversed(self.all_steps)}  # of two with one name, the first
        self.known: dict[str, Collection[str]] = {
            "Parameters": self.parameters,
            "Steps": self.steps,
            "Execution": EXECUTION_VARIABLES,
        }

    def faults(self, step: PlacedStep) -> Iterator[str]:
        """Everything that the step refers to in vain; the step's name is the subject of each sentence."""
        for expression in step.expressions():
            try:
                found = references(expression)
            except PipelineError as error:
                yield f"has an expression that cannot be read: {error}"
                continue
            is_operand = "Get" not in expression or step.type not in STEP_MODELS
            for reference in found:
                yield from self.reference_faults(step, reference, is_operand=is_operand)
            if "Get" in expression and found[0].property_file is not None:
                yield f"reads {expression['Get']}, which only Std:JsonGet can read."
        for name in step.dependencies():
            yield from self.dependency_faults(step, name)

    def reference_faults(self, step: PlacedStep, reference: Reference, *, is_operand: bool) -> Iterator[str]:
        """Why the step cannot read this; an operand must be a single value."""
        known = self.known.get(reference.root)
        if known is None:
            return
        if reference.name not in known:
            reads = f"reads {reference.root}.{reference.name}"
            yield f"{reads}, but no {NOUNS[reference.root]} has that name.{did_you_mean(reference.name, known)}"
        elif reference.root == "Steps":
            target = self.steps[reference.name]
            yield from visibility_faults(step, target, verb="reads")
            yield from property_faults(target, reference, is_operand=is_operand)

    def dependency_faults(self, step: PlacedStep, name: str) -> Iterator[str]:
        """Why the step cannot depend on another."""
        target = self.steps.get(name)
        if target is None:
            hint = did_you_mean(name, self.steps)
            yield f"depends on '{name}', but no step has that name.{hint}"
        elif target.type == "Fail":
            yield f"depends on '{name}', but nothing runs after a Fail step."
        else:
            yield from visibility_faults(step, target, verb="depends on")

    def cycles(self) -> Iterator[str]:
        """The circles in which steps wait for each other, each from its first step on."""
        waits = {step.name: self.waits_for(step) for step in self.all_steps}
        order = list(waits)
        while True:
            try:
                TopologicalSorter(waits).prepare()
            except CycleError as error:
                names = error.args[1][:0:-1]
                start = names.index(min(names, key=order.index))
                names = [*names[start:], *names[:start], names[start]]
                waits[names[0]].remove(names[1])
                circle = " waits for ".join(f"'{name}'" for name in names)
                yield f"Steps wait for each other in a circle: {circle}."
            else:
                return

    def waits_for(self, step: PlacedStep) -> list[str]:
        """The steps that must end before it; those that it cannot see are left out."""
        names = [step.branch[-1][0]] if step.branch else []
        names += [reference.name for reference in step.references() if reference.root == "Steps"]
        names += step.dependencies()
        return [name for name in dict.fromkeys(names) if name in self.steps and step.sees(self.steps[name])]

    def type_of(self, expression: Any) -> str | None:
        """The type of an expression's value, as shapes name types; None where only the run will tell."""
        if "Std:Join" in expression:
            return "string"
        reference = what_get_reads(expression)
        if reference is None or reference.name not in self.known.get(reference.root, ()):
            return None
        if reference.root == "Parameters":
            return DEFAULT_TYPES.get(str(self.parameters[reference.name].get("Type")))
        if reference.root == "Execution":
            return "string"
        try:
            return property_type(self.steps[reference.name], reference)
        except UnknownProperty:
            return None

    def default_of(self, expression: Any) -> tuple[str, Any] | None:
        """The parameter that an expression reads, with its default."""
        reference = what_get_reads(expression)
        if reference is None or reference.root != "Parameters":
            return None
        parameter = self.parameters.get(reference.name, {})
        return (reference.name, parameter["DefaultValue"]) if "DefaultValue" in parameter else None


def what_get_reads(expression: Any) -> Reference | None:
    """What a well-formed `Get` refers to."""
    try:
        return references(expression)[0] if "Get" in expression else None
    except PipelineError:
        return None


def property_faults(target: PlacedStep, reference: Reference, *, is_operand: bool) -> Iterator[str]:
    """Why the other step has no such property, or none that is a single value where one is needed."""
    reads = f"reads {reference.text}"
    try:
        found = property_type(target, reference)
    except UnknownProperty as error:
        yield f"{reads}, but {error}"
        return
    if is_operand and found in CONTAINERS:
        yield f"{reads}, which is {KINDS[str(found)]}, but a single value is needed."


def visibility_faults(step: PlacedStep, target: PlacedStep, *, verb: str) -> Iterator[str]:
    """A step of another branch may not run at all."""
    if not step.sees(target):
        condition, branch = target.branch[-1]
        yield (
            f"{verb} '{target.name}', which runs only in {branch} of '{condition}'; "
            "only steps of the same branch can rely on it."
        )
