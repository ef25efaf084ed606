"""A definition's graph as a picture: steps in rows below what they wait for, edges as curves, drawn from the top down.

A layered layout (Sugiyama, Tagawa and Toda 1981): rows by depth; places in a row by the mean of the neighbours; an edge
that passes rows has a lane in each, which all long edges of its source share.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from pipeline.definition.steps import Step

WIDTH, HEIGHT, GAP, ROW, LANE, MARGIN = 196, 50, 20, 92, 14, 12  # in pixels
ROW_STEPS = 6  # at most, in one row
SWEEPS, PULL = 6, 0.9  # how often places are found; how far from the middle towards its neighbours a step wants to be
Place = tuple[str, int]  # a step and a row: its own, or one that its edges pass


def draw(steps: Mapping[str, Step]) -> dict[str, Any]:
    """Return width, height, the upper left corner of each step, and its edges as SVG's paths with their labels.

    The steps are given in an order in which they can run.
    """
    rows: dict[str, int] = {}
    taken = Counter[int]()
    for name, step in steps.items():
        row = max((rows[other] + 1 for other in step.dependencies if other in rows), default=0)
        while taken[row] == ROW_STEPS:
            row += 1
        rows[name] = row
        taken[row] += 1
    ends = [(other, name) for name, step in steps.items() for other in step.dependencies if other in steps]
    chains = [[(start, row) for row in range(rows[start], rows[end])] + [(end, rows[end])] for start, end in ends]
    centres = place(rows, chains)
    left, right = min(centres.values(), default=0.0), max(centres.values(), default=0.0)
    points = {at: (x - left + WIDTH / 2 + MARGIN, float(MARGIN + ROW * at[1])) for at, x in centres.items()}
    edges = []
    for chain in chains:
        end, (x, y) = steps[chain[-1][0]], points[chain[-1]]
        label = str(end.outcome).lower() if end.condition == chain[0][0] else ""
        path = curve([points[at] for at in chain])
        edges.append({"target": end.name, "path": path, "label": label, "x": x + 6, "y": y - 12})
    return {
        "width": right - left + WIDTH + 2 * MARGIN,
        "height": ROW * max(taken, default=0) + HEIGHT + 2 * MARGIN,
        "corners": {name: (points[name, row][0] - WIDTH / 2, points[name, row][1]) for name, row in rows.items()},
        "edges": edges,
    }


def place(rows: Mapping[str, int], chains: Iterable[list[Place]]) -> dict[Place, float]:
    """Return the middle of each place in pixels, such that edges are short and cross little."""
    above, below = defaultdict[Place, set[Place]](set), defaultdict[Place, set[Place]](set)
    layers: dict[int, dict[Place, float]] = defaultdict(dict)
    for at in rows.items():
        layers[at[1]][at] = 0.0
    for upper, lower in (pair for chain in chains for pair in pairwise(chain)):
        layers[upper[1]][upper] = 0.0
        above[lower].add(upper)
        below[upper].add(lower)
    centres = {at: x for layer in layers.values() for at, x in spread(layer, rows).items()}
    for sweep in range(SWEEPS):
        for row in sorted(layers, reverse=bool(sweep % 2)):
            wanted = {}
            for at in layers[row]:
                near = (above, below)[sweep % 2][at] if sweep < SWEEPS - 2 else above[at] | below[at]
                wanted[at] = PULL * sum(centres[each] for each in near) / len(near) if near else centres[at]
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


def curve(points: list[tuple[float, float]]) -> str:
    """Return the path from the lower edge of the first point's row to the upper edge of the last one's."""
    path = f"M{points[0][0]:.1f} {points[0][1] + HEIGHT:.1f}"
    for (x, y), (next_x, end) in pairwise(points):
        middle = (y + HEIGHT + end) / 2
        path += f" V{y + HEIGHT:.1f} C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {end:.1f}"
    return path
