"""Charts of the reports: round ticks, gaps where a value is no number, and no point lost that matters."""

import json
import math
import re
from typing import Any

import pytest

from classifier.training.hyperparameters import hyperparameter_facts
from watch.report.charts import Chart, Line, chart, histogram, thinned, told_apart
from watch.report.page import SPACE, counted, duration_text, number_text


def test_figures_of_any_size_are_short_and_in_the_unit_that_fits() -> None:
    values = (0, -2.5, 0.1 + 0.2, 8.27e-5, 999.96, 1234.5, -3.21e30, 1e-300)
    assert " ".join(map(number_text, values)) == "0 -2.5 0.3 8.27e-5 1000 1,234 -3.21e30 1e-300"
    seconds = [duration_text(value).replace(SPACE, " ") for value in (2e-6, 0.0025, 1.5, 125, 3599.6, 7260)]
    assert seconds == ["2 µs", "2.5 ms", "1.5 s", "2 min 5 s", "60 min 0 s", "2 h 1 min"]
    assert [counted(1, "rule"), counted(2, "rule")] == ["1 rule", "2 rules"]
    assert hyperparameter_facts({"finetune_lr": "0.0034100000000000003"}) == {"Fine-tuning learning rate": "0.00341"}


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
        ([1e-12, 1], (), ["1e-12", "1e-9", "1e-6", "0.001", "1"]),
        *(([low, high], (), None) for low, high in ((5, 5), (0, 0), (-1e308, 1e308), (5e-324, 1.0))),
    ],
)
def test_ticks_are_few_and_round(values: list[float], limits: tuple[float, ...], texts: list[str] | None) -> None:
    found = ticks("y", y=values, y_limits=limits)
    assert texts is None or found == texts
    assert 1 <= len(found) <= 8


def test_epochs_and_steps_have_whole_ticks_and_a_logarithmic_axis_the_distances_of_factors() -> None:
    assert ticks("x", x=[1, 3], y=[1.0, 1.0], whole_x=True) == ["1", "2", "3"]
    assert ticks("x", x=[1], y=[1.0], whole_x=True) == ["1"]
    drawn = chart(Chart("t", "lr", "y", [Line("a", [1e-4, 1e-3, 1e-2], [1, 2, 3], "dots")], log_x=True))
    first, middle, last = (float(x) for x in re.findall(r'cx="(.*?)"', drawn))
    assert middle - first == pytest.approx(last - middle, abs=0.2)


def test_every_point_lies_within_the_plot() -> None:
    lines = [Line("a", [0, 1, 2], [1e-9, 5.0, 1e9]), Line("b", [2, 1], [3, 4], "dots", ["<one>", "two"])]
    thresholds = {"limit": 1e12, "none": -1.0}
    drawn = chart(Chart("t", "x", "y", lines, thresholds=thresholds, marks={"fired": 1.0}, best=(2, 3, "w")))
    plot = re.search(r'<rect class="plot" width="([0-9.]+)" height="([0-9.]+)"', drawn)
    assert plot
    series = "".join(re.findall(r' d="(.*?)"', drawn.partition('class="series"')[2]))
    places = re.findall(r"(-?[0-9.]+) (-?[0-9.]+)", series) + re.findall(r'cx="(.*?)" cy="(.*?)"', drawn)
    assert len(places) > 8
    assert all(0 <= float(x) <= float(plot[1]) and 0 <= float(y) <= float(plot[2]) for x, y in places)
    assert "<title>&lt;one&gt;</title>" in drawn


def test_a_hole_parts_the_line_and_the_script_is_given_what_is_drawn() -> None:
    drawn = chart(Chart("t", "x", "y", [Line('<a">', range(6), [1, 2, None, 1 / 3, None, 4])]))
    assert drawn.count('<circle class="dot lost"') == 2
    assert drawn.count('<circle class="dot c0"') == 2, "a single value beside a hole is a dot"
    x, y = re.findall(r'data-x="(.*?)" data-y="(.*?)" data-name="&lt;a&#34;&gt;"', drawn)[0]
    assert (json.loads(x), json.loads(y)) == ([*range(6)], [1, 2, None, 0.33333, None, 4])
    line = histogram("steps", [1.0, 1.0, 2.0, 9.0], bins=8)
    assert (line.y[0], line.y[-1], sum(y or 0 for y in line.y)) == (0, 0, 2 * 4)


def test_a_long_series_keeps_its_spikes_and_its_holes_and_long_names_what_tells_them_apart() -> None:
    points = [(float(n), math.sin(n / 50)) for n in range(10_000)]
    kept = thinned([*points[:1234], (1234.0, 99.0), *points[1235:7000], (7000.0, None), *points[7001:]], 300)
    assert len(kept) <= 310
    assert {(1234.0, 99.0), (7000.0, None)} <= {*kept}
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    names = [f"backbone.blocks.{number}.attention.weight" for number in (3, 12)]
    assert told_apart(names, 20) == ["…3.attention.weight", "…12.attention.weight"]
    assert told_apart(["x" * 30, "y"], 10) == ["x" * 9 + "…", "y"]
