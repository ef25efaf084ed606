"""Axes and charts of the reports: round ticks, gaps where a value is no number, and no point lost that matters."""

import math
import re

import pytest

from classifier.reports.charts import (
    HEIGHT,
    LEFT,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    TOP,
    WIDTH,
    Chart,
    Line,
    chart,
    shortened,
    thinned,
    told_apart,
)
from classifier.reports.page import SPACE, counted, duration_text, number_text
from classifier.reports.scales import counted_scale, fitted


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"), (0.0, "0"), (1, "1"), (-2.5, "-2.5"), (0.1 + 0.2, "0.3"), (0.00234, "0.00234"), (1e-4, "1e-4"),
        (8.27e-5, "8.27e-5"), (999.96, "1000"), (1234.5, "1,234"), (1e6, "1e6"),
        (-3.21e30, "-3.21e30"), (1e-300, "1e-300"),
    ],
)  # fmt: skip
def test_figures_of_any_size_are_short(value: float, words: str) -> None:
    assert number_text(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2e-6, "2 µs"), (0.0025, "2.5 ms"), (1.5, "1.5 s"), (119, "119 s"), (125, "2 min 5 s"), (3599.6, "60 min 0 s"),
     (7260, "2 h 1 min")],
)  # fmt: skip
def test_durations_are_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words.replace(" ", SPACE).replace(f"min{SPACE}", "min ").replace(f"h{SPACE}", "h ")


def test_counts_have_their_plural() -> None:
    assert [counted(1, "rule"), counted(2, "rule"), counted(0, "GPU")] == ["1 rule", "2 rules", "0 GPUs"]


@pytest.mark.parametrize(
    ("values", "limits", "ticks"),
    [
        ([0.12, 0.96], (), [0.25, 0.5, 0.75, 1.0]),
        ([3, 97], (0, 100), [0, 25, 50, 75, 100]),
        ([5, 5], (), [4.8, 5.0, 5.2]),
        ([0], (), [-0.5, -0.25, 0, 0.25, 0.5]),
        ([], (), [0.0, 0.5, 1.0]),
        ([1e-6, 1e-2], (), [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        ([1e-12, 1], (), [1e-12, 1e-9, 1e-6, 1e-3, 1]),
        ([1e200, 1e308], (), None),
        ([-1e308, 1e308], (), None),
        ([5e-324, 1.0], (), None),
    ],
)
def test_ticks_are_few_and_round(values: list[float], limits: tuple[float, ...], ticks: list[float] | None) -> None:
    scale = fitted(values, 100, limits=limits)
    if ticks is not None:
        assert scale.ticks == pytest.approx(ticks)
    assert 2 <= len(scale.ticks) <= 8
    for value in values:
        assert 0 <= scale.at(value) <= 100


def test_values_keep_their_order_on_every_scale() -> None:
    for scale in (fitted([1, 10], 100), fitted([0.001, 1000], 100), counted_scale([1, 20], 100)):
        places = [scale.at(value) for value in (1, 2, 5, 10)]
        assert places == sorted(set(places))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([1, 1], [1]), ([1, 3], [1, 2, 3]), ([1, 20], [5, 10, 15, 20]), ([0, 12_345], [0, 5000, 10_000])],
)
def test_epochs_and_steps_have_whole_ticks_only(values: list[float], ticks: list[float]) -> None:
    assert list(counted_scale(values, 100).ticks) == ticks


def test_a_long_series_keeps_its_spikes_and_its_holes() -> None:
    points = [(float(n), math.sin(n / 50)) for n in range(10_000)]
    points[1234], points[7000] = (1234.0, 99.0), (7000.0, None)
    kept = thinned(points, 300)
    assert len(kept) <= 310
    assert (1234.0, 99.0) in kept
    assert (7000.0, None) in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_every_point_lies_within_the_plot() -> None:
    lines = [Line("a", [0, 1, 2], [1e-9, 5.0, 1e9]), Line("b", [2, 1], [3, 4], "dots", ["<one>", "two"])]
    drawn = chart(
        Chart("t", "x", "y", lines, thresholds={"limit": 1e12, "none": -1.0}, marks={"fired": 1.0}, best=(2, 3, "w"))
    )
    places = [(float(a), float(b)) for a, b in re.findall(r"[ML](-?[0-9.]+) (-?[0-9.]+)", drawn)]
    places += [(float(a), float(b)) for a, b in re.findall(r'cx="([0-9.]+)" cy="([0-9.]+)"', drawn)]
    assert len(places) > 8
    for across, height in places:
        assert LEFT - 0.1 <= across <= LEFT + PLOT_WIDTH + 0.1 <= WIDTH
        assert TOP - 0.1 <= height <= TOP + PLOT_HEIGHT + 0.1 <= HEIGHT
    assert "&lt;one&gt;" in drawn


def test_a_hole_parts_the_line_and_is_marked() -> None:
    drawn = chart(Chart("t", "x", "y", [Line("a", range(6), [1, 2, None, 3, None, 4])]))
    [path] = re.findall(r'<path class="line c0" d="(.*?)"', drawn)
    assert path.count("M") == 1, "a single value beside a hole is a dot"
    assert drawn.count('class="lost"') == 2
    assert drawn.count('class="dot c0"') == 2
    assert "not a number" in drawn


def test_long_names_that_begin_alike_are_told_apart() -> None:
    names = [f"backbone.blocks.{number}.attention.weight" for number in (3, 12)]
    assert told_apart(names, 20) == ["…3.attention.weight", "…12.attention.weight"]
    assert told_apart(names, 10) == ["…3.attent…", "…12.atten…"]
    assert told_apart(["a.b", "a.c"], 10) == ["a.b", "a.c"]
    assert told_apart(["x" * 30, "y"], 10) == ["x" * 9 + "…", "y"]
    assert told_apart([], 10) == []


def test_a_long_text_keeps_its_end() -> None:
    assert shortened("blocks.3.attention.weight", 12) == "…tion.weight"
    assert shortened("weight", 12) == "weight"
