"""A definition, read once: its parameters, its steps as one flat list, and the graph of who waits for whom.

A step waits for the steps that its expressions read and for those of its `DependsOn`; a step of a branch also waits for
its Condition. A Condition waits for what its conditions read, not for what its branches read. The list in a definition
is in no particular order. `STEP_TYPES` is the table of step types; those that run locally have a coroutine in
`pipeline.local.jobs.executors`. Sources: StepTypeEnum of the SDK, SageMaker's service model, "Caching pipeline steps".
"""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, NoReturn

from pipeline.definition.expressions import quoted, readable
from pipeline.errors import DefinitionError
from pipeline.suggestion import did_you_mean

Branch = tuple[tuple[str, str], ...]  # outermost first: a Condition's name with IfSteps or ElseSteps
BRANCHES = ("IfSteps", "ElseSteps")
MAX_LEVELS = 700  # of JSON in a definition, 3 of them a Condition; Python's own reader and writer end at 1,000 calls
MAX_STEP_LEVELS = 200  # within a step, its branches aside
LARGEST = 2**63  # of a whole number
LARGEST_SELECTION = 50  # SelectedStepList in SageMaker's service model


@dataclass(frozen=True)
class StepType:
    """One step type."""

    name: str
    resource: str = ""  # what it creates: its Arguments become `Create<resource>`, `Describe<resource>` its properties
    is_named_by_service: bool = True  # Pipelines fills in `<resource>Name`
    more_reads: tuple[str, ...] = ()  # operations whose responses are its properties too
    properties: str | None = None  # what can be read of a type without such operations
    log_group: str | None = None  # in CloudWatch Logs: /aws/sagemaker/<log_group>
    cache_key: tuple[str, ...] | None = None  # members of Arguments in the step's cache key; None: never cached

    @property
    def creates(self) -> str | None:
        """The operation that its Arguments become."""
        return f"Create{self.resource}" if self.resource else None

    @property
    def name_member(self) -> str | None:
        """The member of that request which Pipelines fills in itself."""
        return f"{self.resource}Name" if self.resource and self.is_named_by_service else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The operations whose responses are its properties."""
        return (f"Describe{self.resource}", *self.more_reads) if self.resource else ()

    @property
    def job_kind(self) -> str | None:
        """TrainingJob, ProcessingJob, ...: the resource, if it is a job."""
        return self.resource if self.resource.endswith("Job") else None

    @property
    def metadata(self) -> str:
        """The member of the step's Metadata that holds its ARN: TrainingJob, TuningJob, Model, ..."""
        return f"{self.name}Job" if self.job_kind else self.name

    @property
    def arn_kind(self) -> str:
        """What an ARN calls the resource: training-job."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.resource).lower()


OTHER_TYPES = """
    Fail AutoML ClarifyCheck QualityCheck EMR EMRServerless InferenceComponent Lineage Job Cleanup ForEach
""".split()  # noqa: SIM905
STEP_TYPES = {step_type.name: step_type for step_type in (
    StepType(
        "Processing", "ProcessingJob", log_group="ProcessingJobs",
        cache_key=("AppSpecification", "Environment", "ProcessingInputs"),
    ),
    StepType(
        "Training", "TrainingJob", log_group="TrainingJobs",
        cache_key=("AlgorithmSpecification", "CheckpointConfig", "DebugHookConfig", "DebugRuleConfigurations",
                   "Environment", "HyperParameters", "InputDataConfig"),
    ),
    StepType(
        "Tuning", "HyperParameterTuningJob", log_group="TrainingJobs",
        more_reads=("ListTrainingJobsForHyperParameterTuningJob",),
        cache_key=("HyperParameterTuningJobConfig", "TrainingJobDefinition"),
    ),
    StepType(
        "Transform", "TransformJob", log_group="TransformJobs",
        cache_key=("DataProcessing", "Environment", "ModelName", "TransformInput"),
    ),
    StepType("Model", "Model"),
    StepType("RegisterModel", "ModelPackage"),
    StepType("EndpointConfig", "EndpointConfig", is_named_by_service=False),
    StepType("Endpoint", "Endpoint", is_named_by_service=False),
    StepType("Lambda", properties="OutputParameters", cache_key=()),
    StepType("Callback", properties="OutputParameters"),
    StepType("Condition", properties="Outcome"),
    *map(StepType, OTHER_TYPES),
)}  # fmt: skip
BY_METADATA = {step_type.metadata: step_type for step_type in STEP_TYPES.values()}


def load_definition(text: str | bytes) -> dict[str, Any]:
    """Read a definition's text; a DefinitionError with a sentence that follows its name: why it is none."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        for depth, layer in enumerate(_layers(content)):
            if depth == MAX_LEVELS:
                raise RecursionError
            for value in layer:
                if isinstance(value, str):
                    value.encode()  # half of a surrogate pair has no bytes, which is a ValueError
                    if "\0" in value:
                        raise ValueError(f"{quoted(value)} holds a NUL character")
                elif isinstance(value, int | float) and not -LARGEST <= value < LARGEST:
                    raise ValueError("a number is larger than 64 bits can hold")
    except RecursionError as problem:
        too_deep = f"is nested too deeply: it may have {MAX_LEVELS} levels of lists and objects."
        raise DefinitionError([too_deep]) from problem
    except ValueError as problem:
        raise DefinitionError([f"is not JSON: {problem}."]) from problem
    if not isinstance(content, dict) or not isinstance(content.get("Steps"), list):
        raise DefinitionError(["is not a pipeline definition: it has no list 'Steps'."])
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _layers(value: Any) -> Iterator[list[Any]]:
    """Yield all values in a JSON value, keys too, those of one depth at a time."""
    layer = [value]
    while layer:
        yield layer
        insides = [(*each, *each.values()) if isinstance(each, dict) else each for each in layer]
        layer = [inner for each in insides if isinstance(each, tuple | list) for inner in each]


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every member in a JSON value, at any depth."""
    for item in itertools.chain.from_iterable(_layers(value)):
        if isinstance(item, dict):
            yield from item.items()


def at(value: Any, path: str) -> Any:
    """Return the member at a dotted path; None where there is none."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def items(value: Any, path: str) -> list[Any]:
    """Return the list at a dotted path; empty where there is none."""
    found = at(value, path)
    return found if isinstance(found, list) else []


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; none when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


@dataclass(frozen=True)
class Step:
    """One step, and the branches that it stands in."""

    name: str
    type: str
    definition: dict[str, Any]  # as it is written
    branch: Branch = ()

    @property
    def condition(self) -> str | None:
        """The Condition whose branch the step stands in."""
        return self.branch[-1][0] if self.branch else None

    @property
    def outcome(self) -> bool:
        """The outcome of that Condition for which the step runs."""
        return bool(self.branch) and self.branch[-1][1] == BRANCHES[0]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The Arguments, those of a Condition without its branches; empty when they are no object."""
        arguments = self.definition.get("Arguments")
        hidden = BRANCHES if self.type == "Condition" else ()
        members = arguments.items() if isinstance(arguments, dict) else ()
        return {key: value for key, value in members if key not in hidden}

    @property
    def own(self) -> dict[str, Any]:
        """The definition without its branches and without DependsOn."""
        return {**self.definition, "Arguments": self.arguments, "DependsOn": None}

    def objects(self, member: str) -> list[dict[str, Any]]:
        """The objects of a member that is a list, such as RetryPolicies."""
        return objects(self.definition.get(member))

    @property
    def declared_outputs(self) -> dict[str, Any]:
        """The outputs that a Lambda or Callback step declares, with their types."""
        return {str(output.get("OutputName")): output.get("OutputType") for output in self.objects("OutputParameters")}

    @property
    def triggers(self) -> list[tuple[Any, Any]]:
        """(step name, trigger) of every member of DependsOn: a name, or {"Step": name, "Trigger": trigger}."""
        entries = self.definition.get("DependsOn") or []
        listed = entries if isinstance(entries, list) else [entries]
        pairs = [entry if isinstance(entry, dict) else {"Step": entry} for entry in listed]
        return [(pair.get("Step"), pair.get("Trigger", "Completed")) for pair in pairs]

    @cached_property
    def reads(self) -> list[str]:
        """The steps whose properties and files its expressions read."""
        return [reference.name for reference in readable(self.own) if reference.root == "Steps"]

    @cached_property
    def dependencies(self) -> tuple[str, ...]:
        """The steps that must end before it; what cannot be read is left out."""
        condition = [self.condition] if self.condition else []
        explicit = [name for name, _ in self.triggers if isinstance(name, str)]
        return tuple(dict.fromkeys([*condition, *self.reads, *explicit]))


class Definition:
    """What a definition holds, by name; sentences in `malformed` and `too_deep` say what could not be read."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.malformed: list[str] = []
        parameters, experiment = content.get("Parameters"), content.get("PipelineExperimentConfig")
        self.experiment: dict[str, Any] = experiment if isinstance(experiment, dict) else {}
        self.all_parameters = objects(parameters)
        named = [item for item in self.all_parameters if isinstance(item.get("Name"), str)]
        if not isinstance(parameters, list | None) or len(named) < len(parameters or []):
            self.malformed.append("Parameters must be a list of objects with Name and Type.")
        self.parameters = {str(item.get("Name")): item for item in self.all_parameters}
        self.all_steps = list(self._steps(content.get("Steps"), "The definition: Steps", ()))
        self.steps: dict[str, Step] = {}  # of two with one name, the first
        for step in self.all_steps:
            self.steps.setdefault(step.name, step)
        parts = [("The definition", {key: value for key, value in content.items() if key != "Steps"})]
        parts += [(f"Step '{each.name}'", each.own) for each in self.all_steps]
        self.too_deep = [
            f"{name} is nested too deeply: it may have {MAX_STEP_LEVELS} levels."
            for name, value in parts
            if sum(1 for _ in _layers(value)) > MAX_STEP_LEVELS
        ]

    def _steps(self, steps: Any, where: str, branch: Branch) -> Iterator[Step]:
        """Yield every step, those of a branch after their Condition."""
        if not isinstance(steps, list):
            self.malformed.append(f"{where} must be a list, but got {quoted(steps)}.")
            return
        for definition in steps:
            if not isinstance(definition, dict):
                wanted = "A step must be an object with Name, Type and Arguments"
                self.malformed.append(f"{wanted}, but got {quoted(definition)}.")
                continue
            step = Step(str(definition.get("Name", "(unnamed)")), str(definition.get("Type")), definition, branch)
            yield step
            for key in BRANCHES if step.type == "Condition" else ():
                if (inner := at(definition, f"Arguments.{key}")) is not None:
                    yield from self._steps(inner, f"Step '{step.name}': {key}", (*branch, (step.name, key)))

    def cycles(self) -> Iterator[str]:
        """Yield the circles in which steps wait for each other, each from its first step on."""
        waits = {step.name: [n for n in step.dependencies if n in self.steps] for step in self.all_steps}
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


@dataclass(frozen=True)
class Graph:
    """All steps, those of branches included, each after its dependencies."""

    steps: dict[str, Step]

    def downstream(self, names: Iterable[str]) -> set[str]:
        """Return the named steps and all that wait for them, directly or not."""
        blocked = set(names)
        for step in self.steps.values():
            if not blocked.isdisjoint(step.dependencies):
                blocked.add(step.name)
        return blocked

    def values_needed(self, selected: Collection[str]) -> set[str]:
        """Return the steps that are not selected (SelectiveExecutionConfig), but read by selected ones."""
        return {read for name in selected for read in self.steps[name].reads} - set(selected)

    def selection_problems(self, selected: Sequence[str]) -> Iterator[str]:
        """Yield why these steps cannot be selected together."""
        if not 1 <= len(selected) <= LARGEST_SELECTION:
            yield f"1 to {LARGEST_SELECTION} steps can be selected, but got {len(selected)}."
        if unknown := [name for name in selected if name not in self.steps]:
            known = ", ".join(self.steps)
            for name in unknown:
                yield f"No step has the name {name!r}; the steps are {known}.{did_you_mean(name, self.steps)}"
            return
        after, before = self.downstream(selected), set(selected)
        for step in reversed(self.steps.values()):
            if step.name in before:
                before.update(step.dependencies)
        if between := [name for name in self.steps if name in after & before and name not in selected]:
            yield f"Every step on a path between two selected ones must be selected too; missing: {', '.join(between)}."


def read_graph(content: Mapping[str, Any]) -> Graph:
    """Return the graph of a definition; a DefinitionError with every problem that stands in the way of it."""
    definition = Definition(content)
    if problems := definition.too_deep or [*definition.malformed, *definition.cycles()]:
        raise DefinitionError(problems)
    waits = {step.name: step.dependencies for step in definition.all_steps}
    order = TopologicalSorter(waits).static_order()
    return Graph({name: definition.steps[name] for name in order if name in definition.steps})
