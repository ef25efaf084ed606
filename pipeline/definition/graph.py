"""The steps of a definition as a graph: who waits for whom, checked as a whole before anything runs.

A step waits for the steps that its expressions read and for those of its `DependsOn`; a step of a branch also waits for
its Condition. A Condition waits for what its conditions read, not for what its branches read. The list in a definition
is in no particular order, and nothing but this module looks at it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipeline.definition.conditions import condition_faults
from pipeline.definition.expressions import EXECUTION_VARIABLES, Reference, expressions, references
from pipeline.definition.paths import listing
from pipeline.definition.step_types import STEP_TYPES
from pipeline.errors import DefinitionError, PipelineError
from pipeline.suggestion import did_you_mean

TRIGGERS = ("Completed", "Failed", "Stopped", "Any")  # of DependsOn; Completed: the step has succeeded
_STEP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_BRANCHES = {"IfSteps": True, "ElseSteps": False}


@dataclass(frozen=True)
class Step:
    """One step of the definition, with the steps that must end before it."""

    name: str
    type: str
    definition: dict[str, Any]  # as in the pipeline definition
    dependencies: tuple[str, ...]
    condition: str | None = None  # the Condition whose branch it stands in
    outcome: bool | None = None  # the outcome of that Condition for which it runs
    triggers: tuple[tuple[str, str], ...] = ()  # DependsOn: (name, one of TRIGGERS); all others must have succeeded


@dataclass(frozen=True)
class Graph:
    """All steps, those of branches included; every step stands after its dependencies."""

    steps: dict[str, Step]

    def downstream(self, names: Iterable[str]) -> set[str]:
        """The named steps and all that wait for them, directly or not."""
        blocked = set(names)
        for step in self.steps.values():
            if not blocked.isdisjoint(step.dependencies):
                blocked.add(step.name)
        return blocked

    def not_taken(self, condition: str, outcome: bool) -> set[str]:
        """The steps that can no longer run once a Condition has come out this way."""
        branch = (step.name for step in self.steps.values() if step.condition == condition and step.outcome != outcome)
        return self.downstream(branch)


def read_graph(definition: Mapping[str, Any]) -> Graph:
    """The graph of a definition's `Steps`; a `DefinitionError` lists every problem at once."""
    entries = list(_entries(definition.get("Steps")))
    problems = [fault for entry in entries for fault in _form_faults(entry)] + _duplicates(entries)
    if problems:  # names and arguments cannot be relied on
        raise DefinitionError(problems)
    names = _Names({entry.name: entry for entry in entries}, definition)
    steps = {}
    for entry in entries:
        problems += _content_faults(entry)
        reads = _reads(entry, problems)
        problems += [fault for reference in reads for fault in names.faults(entry, reference)]
        problems += [fault for name, _ in _depends_on(entry) for fault in names.dependency_faults(entry, name)]
        steps[entry.name] = entry.step(reads)
    if problems:
        raise DefinitionError(problems)
    return Graph({name: steps[name] for name in _order(steps)})


@dataclass(frozen=True)
class _Entry:
    """A member of a step list, not yet known to be well formed."""

    definition: Any
    condition: str | None
    outcome: bool | None

    @property
    def name(self) -> str:
        return str(self.definition.get("Name")) if isinstance(self.definition, dict) else ""

    @property
    def type(self) -> str:
        return str(self.definition.get("Type")) if isinstance(self.definition, dict) else ""

    @property
    def arguments(self) -> Any:
        return self.definition.get("Arguments", {})

    def step(self, reads: list[Reference]) -> Step:
        dependencies = [self.condition] if self.condition else []
        dependencies += [reference.name for reference in reads if reference.root == "Steps"]
        dependencies += [name for name, _ in _depends_on(self)]
        return Step(
            self.name,
            self.type,
            self.definition,
            tuple(dict.fromkeys(dependencies)),
            self.condition,
            self.outcome,
            tuple(_depends_on(self)),
        )


def _entries(steps: Any, condition: str | None = None, outcome: bool | None = None) -> Iterator[_Entry]:
    """Every member of a step list and of the branches below it."""
    if not isinstance(steps, list):
        where = f"Step '{condition}' needs lists as IfSteps and ElseSteps" if condition else "Steps must be a list"
        raise DefinitionError([f"{where}, but got {type(steps).__name__}."])
    for definition in steps:
        entry = _Entry(definition, condition, outcome)
        yield entry
        if entry.type == "Condition" and isinstance(entry.arguments, dict):
            for key, branch in _BRANCHES.items():
                yield from _entries(entry.arguments.get(key, []), entry.name, branch)


def _form_faults(entry: _Entry) -> Iterator[str]:
    """Why a step cannot be read at all."""
    if not isinstance(entry.definition, dict):
        yield f"A step must be an object with Name, Type and Arguments, but got {entry.definition!r}."
        return
    if not _STEP_NAME.match(entry.name):
        yield f"Step name {entry.name!r} is not 1 to 64 letters, digits, '-' and '_'."
    if not isinstance(entry.arguments, dict):
        yield f"Step '{entry.name}' needs an object as Arguments, but got {entry.arguments!r}."
    for name, _ in _depends_on(entry):
        if not isinstance(name, str):
            yield f"Step '{entry.name}' has {name!r} as a step in DependsOn, which is not a name."


def _content_faults(entry: _Entry) -> Iterator[str]:
    """Why the local target cannot run a step, whatever the others are."""
    if entry.type not in STEP_TYPES:
        near = did_you_mean(entry.type, STEP_TYPES)
        yield f"Step '{entry.name}' has the type '{entry.type}', which no step has.{near}"
    elif refusal := STEP_TYPES[entry.type].refusal:
        yield f"Step '{entry.name}' is a step of type {entry.type}, which does not run locally: {refusal}."
    for name, trigger in _depends_on(entry):
        if trigger not in TRIGGERS:
            yield (
                f"Step '{entry.name}' depends on '{name}' with Trigger {trigger!r}; known are {listing(TRIGGERS)}."
                f"{did_you_mean(str(trigger), TRIGGERS)}"
            )
    if entry.type == "Condition":
        conditions = entry.arguments.get("Conditions")
        if isinstance(conditions, list):
            faults = [fault for condition in conditions for fault in condition_faults(condition)]
        else:
            faults = ["A Condition step needs a list as Conditions."]
        yield from (f"Step '{entry.name}': {fault}" for fault in faults)


def _duplicates(entries: list[_Entry]) -> list[str]:
    names = [entry.name for entry in entries]
    return [f"{names.count(name)} steps are named '{name}'." for name in dict.fromkeys(names) if names.count(name) > 1]


def _depends_on(entry: _Entry) -> list[tuple[Any, str]]:
    """(step name, trigger) of every member of DependsOn: a name, or {"Step": name, "Trigger": trigger}."""
    dependencies = entry.definition.get("DependsOn") or []
    return [
        (dependency.get("Step"), dependency.get("Trigger", "Completed"))
        if isinstance(dependency, dict)
        else (dependency, "Completed")
        for dependency in (dependencies if isinstance(dependencies, list) else [dependencies])
    ]


def _reads(entry: _Entry, problems: list[str]) -> list[Reference]:
    """What the step itself refers to; malformed expressions go to `problems`."""
    own = {key: value for key, value in entry.definition.items() if key != "DependsOn"}
    if entry.type == "Condition":
        own["Arguments"] = {key: value for key, value in entry.arguments.items() if key not in _BRANCHES}
    found: list[Reference] = []
    for expression in expressions(own):
        try:
            found += references(expression)
        except PipelineError as error:
            problems.append(f"Step '{entry.name}': {error}")
    return found


class _Names:
    """Everything that a definition gives a name to."""

    def __init__(self, entries: dict[str, _Entry], definition: Mapping[str, Any]) -> None:
        self.entries = entries
        parameters = definition.get("Parameters") or []  # `parameters.bind` says what is wrong with them
        self.known = {
            "Parameters": [str(each.get("Name")) for each in parameters if isinstance(each, Mapping)],
            "Steps": list(entries),
            "Execution": list(EXECUTION_VARIABLES),
            "PipelineExperimentConfig": list(definition.get("PipelineExperimentConfig") or {}),
        }

    def faults(self, entry: _Entry, reference: Reference) -> Iterator[str]:
        """Why a step cannot read what it refers to."""
        known = self.known[reference.root]
        if reference.name not in known:
            yield (
                f"Step '{entry.name}' reads {reference.text}, but no {_NOUNS[reference.root]} has the name "
                f"'{reference.name}'.{did_you_mean(reference.name, known)}"
            )
        elif reference.root == "Steps" and self.entries[reference.name].type == "Fail":
            yield f"Step '{entry.name}' reads {reference.text}, but a Fail step has no properties."
        elif reference.property_file is not None:
            yield from self._property_file_faults(entry, reference)

    def dependency_faults(self, entry: _Entry, name: str) -> Iterator[str]:
        """Why a step cannot depend on another."""
        if name not in self.entries:
            near = did_you_mean(name, self.entries)
            yield f"Step '{entry.name}' depends on '{name}', but no step has that name.{near}"
        elif self.entries[name].type == "Fail":
            yield f"Step '{entry.name}' depends on '{name}', but nothing runs after a Fail step."

    def _property_file_faults(self, entry: _Entry, reference: Reference) -> Iterator[str]:
        owner = self.entries[reference.name]
        files = {file.get("PropertyFileName"): file for file in owner.definition.get("PropertyFiles") or []}
        if reference.property_file not in files:
            yield (
                f"Step '{entry.name}' reads property file '{reference.property_file}' of step '{owner.name}', which "
                f"declares {listing(files) if files else 'none'}.{did_you_mean(str(reference.property_file), files)}"
            )
            return
        outputs = [str(output.get("OutputName")) for output in _outputs(owner)]
        output_name = files[reference.property_file].get("OutputName")
        if output_name not in outputs:
            yield (
                f"Property file '{reference.property_file}' of step '{owner.name}' is in output '{output_name}', but "
                f"the step's outputs are {listing(outputs) if outputs else 'none'}."
            )


_NOUNS = {
    "Parameters": "parameter",
    "Steps": "step",
    "Execution": "execution variable",
    "PipelineExperimentConfig": "field of PipelineExperimentConfig",
}


def _outputs(entry: _Entry) -> list[dict[str, Any]]:
    outputs = (entry.arguments.get("ProcessingOutputConfig") or {}).get("Outputs")
    return outputs if isinstance(outputs, list) else []


def _order(steps: dict[str, Step]) -> Iterable[str]:
    sorter = TopologicalSorter({step.name: step.dependencies for step in steps.values()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        cycle = " waits for ".join(f"'{name}'" for name in reversed(error.args[1]))
        raise DefinitionError([f"Steps wait for each other in a circle: {cycle}."]) from error
