"""Charts of the reports: round ticks, gaps where a value is no number, and no point lost that matters."""

import json
import math
import re
from typing import Any

import pytest

from classifier.training.hyperparameters import hyperparameter_facts
from watch.report.charts import Chart, Line, chart, histogram, shortened, thinned, told_apart
from watch.report.page import SPACE, counted, duration_text, number_text


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


@pytest.mark.parametrize(
    ("value", "words"),
    [("0.0034100000000000003", "0.00341"), (32, "32"), ("all", "all"), (True, "True"), (1e-5, "1e-05")],
)
def test_hyperparameters_are_named_in_words_and_have_six_digits_at_most(value: Any, words: str) -> None:
    assert hyperparameter_facts({"finetune_lr": value}) == {"Fine-tuning learning rate": words}


def ticks(axis: str, **settings: Any) -> list[str]:
    """The texts along an axis of a chart with one line."""
    y = settings.pop("y")
    drawn = chart(Chart("t", "x", "y", [Line("a", settings.pop("x", range(len(y))), y)], **settings))
    part = re.search(rf'<g class="axis {axis}">.*?</g>', drawn)
    assert part
    return re.findall(r"<text[^>]*>(.*?)</text>", part[0])


@pytest.mark.parametrize(
    ("values", "limits", "texts"),
    [
        ([0.12, 0.96], (), ["0.2", "0.4", "0.6", "0.8", "1"]),
        ([3, 97], (0, 100), ["0", "20", "40", "60", "80", "100"]),
        ([1e-6, 1e-2], (), ["1e-6", "1e-5", "1e-4", "0.001", "0.01"]),
        ([1e-12, 1], (), ["1e-12", "1e-9", "1e-6", "0.001", "1"]),
        ([1, 150], (), ["1", "10", "100"]),
        ([5, 5], (), None),
        ([0], (), None),
        ([1e200, 1e308], (), None),
        ([-1e308, 1e308], (), None),
        ([5e-324, 1.0], (), None),
    ],
)
def test_ticks_are_few_and_round(values: list[float], limits: tuple[float, ...], texts: list[str] | None) -> None:
    found = ticks("y", y=values, y_limits=limits)
    assert texts is None or found == texts
    assert 1 <= len(found) <= 8


@pytest.mark.parametrize(
    ("last", "texts"),
    [
        (1, ["1"]), (3, ["1", "2", "3"]), (20, ["5", "10", "15", "20"]), (399, ["0", "100", "200", "300", "400"]),
        (12345, ["0", "5,000", "10,000"]),
    ],
)  # fmt: skip
def test_epochs_and_steps_have_whole_ticks_only(last: int, texts: list[str]) -> None:
    x = sorted({1, last})
    assert ticks("x", x=x, y=[1.0] * len(x), whole_x=True) == texts


def test_every_point_lies_within_the_plot() -> None:
    lines = [Line("a", [0, 1, 2], [1e-9, 5.0, 1e9]), Line("b", [2, 1], [3, 4], "dots", ["<one>", "two"])]
    thresholds = {"limit": 1e12, "none": -1.0}
    drawn = chart(Chart("t", "x", "y", lines, thresholds=thresholds, marks={"fired": 1.0}, best=(2, 3, "w")))
    plot = re.search(r'<rect class="plot" width="([0-9.]+)" height="([0-9.]+)"', drawn)
    assert plot
    series = "".join(re.findall(r' d="(.*?)"', drawn.partition('class="series"')[2]))
    places = re.findall(r"(-?[0-9.]+) (-?[0-9.]+)", series) + re.findall(r'cx="(.*?)" cy="(.*?)"', drawn)
    assert len(places) > 8
    for across, height in places:
        assert 0 <= float(across) <= float(plot[1])
        assert 0 <= float(height) <= float(plot[2])
    assert "<title>&lt;one&gt;</title>" in drawn


def test_a_hole_parts_the_line_and_is_marked() -> None:
    drawn = chart(Chart("t", "x", "y", [Line("a", range(6), [1, 2, None, 3, None, 4])]))
    assert drawn.count('<circle class="dot lost"') == 2
    assert drawn.count('<circle class="dot c0"') == 2, "a single value beside a hole is a dot"
    assert "not a number" in drawn


def test_the_script_is_given_what_is_drawn_and_no_more() -> None:
    wanted = Chart("t", "x", "y", [Line('<a">', [1, 2, 3], [3, None, 1 / 3])])
    drawn = chart(wanted)
    assert drawn == chart(wanted)
    assert not re.search(r"<script|<style|https?:|<!--", drawn)
    x, y = re.findall(r'data-x="(.*?)" data-y="(.*?)" data-name="&lt;a&#34;&gt;"', drawn)[0]
    assert (json.loads(x), json.loads(y)) == ([1, 2, 3], [3, None, 0.33333])


def test_a_histogram_counts_every_value_and_stands_on_the_axis() -> None:
    line = histogram("steps", [1.0, 1.0, 2.0, 9.0], bins=8)
    assert (line.y[0], line.y[-1], sum(line.y)) == (0, 0, 2 * 4)
    assert 'class="area c0"' in chart(Chart("t", "x", "y", [line], y_limits=(0,)))


def test_a_logarithmic_x_axis_keeps_the_distances_of_factors() -> None:
    drawn = chart(Chart("t", "lr", "y", [Line("a", [1e-4, 1e-3, 1e-2], [1, 2, 3], "dots")], log_x=True))
    first, middle, last = (float(x) for x in re.findall(r'cx="(.*?)"', drawn))
    assert middle - first == pytest.approx(last - middle)
    assert "lr – logarithmic" in drawn


def test_a_long_series_keeps_its_spikes_and_its_holes() -> None:
    points = [(float(n), math.sin(n / 50)) for n in range(10_000)]
    points[1234], points[7000] = (1234.0, 99.0), (7000.0, None)
    kept = thinned(points, 300)
    assert len(kept) <= 310
    assert (1234.0, 99.0) in kept
    assert (7000.0, None) in kept
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_long_names_that_begin_alike_are_told_apart() -> None:
    names = [f"backbone.blocks.{number}.attention.weight" for number in (3, 12)]
    assert told_apart(names, 20) == ["…3.attention.weight", "…12.attention.weight"]
    assert told_apart(names, 10) == ["…3.attent…", "…12.atten…"]
    assert told_apart(["a.b", "a.c"], 10) == ["a.b", "a.c"]
    assert told_apart(["x" * 30, "y"], 10) == ["x" * 9 + "…", "y"]
    assert told_apart([], 10) == []


def test_a_long_text_keeps_its_end_and_counts_have_their_plural() -> None:
    assert [counted(1, "rule"), counted(2, "rule"), counted(0, "GPU")] == ["1 rule", "2 rules", "0 GPUs"]
    assert shortened("blocks.3.attention.weight", 12) == "…tion.weight"
    assert shortened("weight", 12) == "weight"
