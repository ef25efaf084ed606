"""Which steps a selective execution runs, and what it needs of an earlier one (SelectiveExecutionConfig)."""

from collections.abc import Collection, Iterator, Sequence

from pipeline.definition.steps import Graph
from pipeline.suggestion import did_you_mean

LARGEST_SELECTION = 50  # SelectedStepList in SageMaker's service model


def values_needed(graph: Graph, selected: Collection[str]) -> set[str]:
    """The steps that were not selected and whose values the selected ones read."""
    return {read for name in selected for read in graph.steps[name].reads} - set(selected)


def selection_faults(graph: Graph, selected: Sequence[str]) -> Iterator[str]:
    """Why these steps cannot be selected together, one sentence each."""
    if not 1 <= len(selected) <= LARGEST_SELECTION:
        yield f"1 to {LARGEST_SELECTION} steps can be selected, but got {len(selected)}."
    unknown = [name for name in selected if name not in graph.steps]
    for name in unknown:
        known = ", ".join(graph.steps)
        yield f"No step has the name {name!r}; the steps are {known}.{did_you_mean(name, graph.steps)}"
    if not unknown and (between := steps_between(graph, selected)):
        names = ", ".join(between)
        yield f"Every step on a path between two selected ones must be selected too; missing: {names}."


def steps_between(graph: Graph, selected: Collection[str]) -> list[str]:
    """The steps that were not selected, on a path between two that were."""
    chosen = set(selected)
    after = graph.downstream(chosen)
    before: set[str] = set()
    for step in reversed(graph.steps.values()):  # every step stands after its dependencies
        if step.name in chosen or step.name in before:
            before.update(step.dependencies)
    return [name for name in graph.steps if name in after and name in before and name not in chosen]
