"""The steps of a definition as a flat list, each with the branches that it stands in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.definition.expressions import Reference, expressions, references
from pipeline.errors import PipelineError

BRANCHES = ("IfSteps", "ElseSteps")
Branch = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PlacedStep:
    """A step and its branches, outermost first, each a Condition's name with IfSteps or ElseSteps."""

    name: str
    type: str
    definition: dict[str, Any]
    branch: Branch = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The Arguments, those of a Condition without its branches; empty when they are no object."""
        arguments = self.definition.get("Arguments")
        hidden = BRANCHES if self.type == "Condition" else ()
        members = arguments.items() if isinstance(arguments, dict) else ()
        return {key: value for key, value in members if key not in hidden}

    def objects(self, member: str) -> list[dict[str, Any]]:
        """The objects of a member that is a list, such as RetryPolicies."""
        return objects(self.definition.get(member))

    def expressions(self) -> Iterator[dict[str, Any]]:
        """The outermost expressions of the step itself."""
        return expressions({**self.definition, "Arguments": self.arguments, "DependsOn": None})

    def references(self) -> Iterator[Reference]:
        """What its well-formed expressions refer to."""
        for expression in self.expressions():
            try:
                yield from references(expression)
            except PipelineError:
                continue

    def dependencies(self) -> list[str]:
        """The names in DependsOn."""
        entries = self.definition.get("DependsOn")
        found = entries if isinstance(entries, list) else []
        names = [entry.get("Step") if isinstance(entry, dict) else entry for entry in found]
        return [name for name in names if isinstance(name, str)]

    def sees(self, other: "PlacedStep") -> bool:
        """Whether the other step runs whenever this one does: it stands in the same branch or around it."""
        return self.branch[: len(other.branch)] == other.branch


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; none when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def placed_steps(steps: Any, branch: Branch = ()) -> Iterator[PlacedStep]:
    """Every step of a list and of the branches below it; what is no object is left out."""
    for step in objects(steps):
        placed = PlacedStep(str(step.get("Name", "(unnamed)")), str(step.get("Type")), step, branch)
        yield placed
        arguments = step.get("Arguments")
        if placed.type == "Condition" and isinstance(arguments, dict):
            for key in BRANCHES:
                yield from placed_steps(arguments.get(key), (*branch, (placed.name, key)))
