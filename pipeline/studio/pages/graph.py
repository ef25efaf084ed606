"""A definition's graph as a picture: steps in rows below what they wait for, edges as curves, drawn from the top down.

A layered layout (Sugiyama, Tagawa and Toda 1981): rows by depth; places in a row by the mean of the neighbours; an edge
that passes rows has a lane in each, which all long edges of its source share.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.definition.steps import Step

WIDTH, HEIGHT, GAP, ROW, LANE, MARGIN = 196, 50, 20, 92, 14, 12  # in pixels
ROW_STEPS = 6  # at most, in one row
SWEEPS = 6
PULL = 0.9  # of the way from the middle to its neighbours: where a step wants to be
Place = tuple[str, int]  # a step and a row: its own, or one that its edges pass


@dataclass(frozen=True)
class Edge:
    """A dependency: a path in SVG's words, and where its label stands."""

    source: str
    target: str
    path: str
    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """A picture's size, the upper left corner of each step, and the edges."""

    width: float
    height: float
    corners: Mapping[str, tuple[float, float]]
    edges: list[Edge]


def draw(steps: Mapping[str, Step]) -> Drawing:
    """Return the picture of steps that are given in an order in which they can run."""
    rows = rows_of(steps)
    chains = {
        (source, name): [(source, row) for row in range(rows[source], rows[name])] + [(name, rows[name])]
        for name, step in steps.items()
        for source in step.dependencies
        if source in steps
    }
    centres = place(rows, chains.values())
    left = min((x - WIDTH / 2 for (name, row), x in centres.items() if row == rows[name]), default=0) - MARGIN
    left = min([left, *(x - LANE for x in centres.values())])
    right = max((x + WIDTH / 2 for x in centres.values()), default=0) + MARGIN
    tops = {row: MARGIN + ROW * row for row in range(max(rows.values(), default=0) + 1)}
    corners = {name: (centres[name, row] - left - WIDTH / 2, tops[row]) for name, row in rows.items()}
    edges = []
    for (source, name), chain in chains.items():
        points = [(centres[at] - left, tops[at[1]]) for at in chain]
        step = steps[name]
        label = str(step.outcome).lower() if step.condition == source else ""
        edges.append(Edge(source, name, curve(points), label, points[-1][0] + 6, points[-1][1] - 12))
    return Drawing(right - left, MARGIN * 2 + ROW * len(tops) - (ROW - HEIGHT), corners, edges)


def rows_of(steps: Mapping[str, Step]) -> dict[str, int]:
    """Return the row of each step: the first below what it waits for that has room."""
    rows: dict[str, int] = {}
    taken = Counter[int]()
    for name, step in steps.items():
        row = max((rows[other] + 1 for other in step.dependencies if other in rows), default=0)
        while taken[row] == ROW_STEPS:
            row += 1
        rows[name] = row
        taken[row] += 1
    return rows


def place(rows: Mapping[str, int], chains: Iterable[list[Place]]) -> dict[Place, float]:
    """Return the middle of each place, from left to right in pixels, such that edges are short and cross little."""
    near: tuple[dict[Place, set[Place]], dict[Place, set[Place]]] = defaultdict(set), defaultdict(set)
    layers: dict[int, dict[Place, None]] = defaultdict(dict)
    for at in rows.items():
        layers[at[1]][at] = None
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            layers[upper[1]][upper] = None
            near[0][lower].add(upper)
            near[1][upper].add(lower)
    centres: dict[Place, float] = {}
    for layer in layers.values():
        centres |= spread(dict.fromkeys(layer, 0.0), rows)
    for sweep in range(SWEEPS):
        for row in sorted(layers, reverse=bool(sweep % 2)):
            wanted = {}
            for at in layers[row]:
                others = near[sweep % 2][at] if sweep < SWEEPS - 2 else near[0][at] | near[1][at]
                wanted[at] = PULL * sum(centres[each] for each in others) / len(others) if others else centres[at]
            centres |= spread(wanted, rows)
    return centres


def spread(wanted: Mapping[Place, float], rows: Mapping[str, int]) -> dict[Place, float]:
    """Return places of one row near where they want to be, none upon another."""
    found: dict[Place, float] = {}
    end = float("-inf")
    for at in sorted(wanted, key=lambda each: wanted[each]):
        room = WIDTH + GAP if rows[at[0]] == at[1] else LANE
        found[at] = max(wanted[at], end + room / 2)
        end = found[at] + room / 2
    shift = sum(wanted[at] - x for at, x in found.items()) / len(found)
    return {at: x + shift for at, x in found.items()}


def curve(points: Sequence[tuple[float, float]]) -> str:
    """Return the path from the lower edge of the first point's row to the upper edge of the last one's."""
    path = f"M{points[0][0]:.1f} {points[0][1] + HEIGHT:.1f}"
    for number, ((x, y), (next_x, next_y)) in enumerate(itertools.pairwise(points)):
        start, end = y + HEIGHT, next_y
        middle = (start + end) / 2
        path += f" C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}"
        if number < len(points) - 2:
            path += f" V{end + HEIGHT:.1f}"
    return path
