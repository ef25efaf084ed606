"""Charts as inline SVG, drawn by pygal. Colours come from the style sheet, so that they suit the theme.

Every chart is drawn on paper of the same size, about the width of a phone's screen, and is shown at about that size:
texts are as large as the page's own, wherever it is read.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import pygal
from markupsafe import Markup
from pygal.style import Style

from classifier.reports.page import environment, number_text

WIDTH, HEIGHT = 360, 220
COLOURS = 8
SHOWN_POINTS = 300  # a line; more cannot be told apart on this paper
LONGEST_TEXT = 40  # characters of a legend's entry
LOG_FROM_RATIO = 100.0  # between the largest and the smallest value
LARGEST = 1e150  # beyond which differences and ratios overflow; what lies there is drawn at the edge
NICE_STEPS = (1, 2, 5, 10, 20, 50, 100)
LOGARITHMIC = " – logarithmic"
FONT = Style(label_font_size=11, major_label_font_size=11, title_font_size=11)  # pygal leaves room for these sizes
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One series; None in `y` is a value that is no number, as the loss of a training that diverged."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "line"  # or "dots"
    titles: Sequence[str] = ()  # of dots: what is said about each when pointed at

    def points(self) -> list[Point]:
        """Value pairs in the order of x."""
        return sorted(zip(self.x, self.y, strict=False), key=lambda point: point[0])


@dataclass(frozen=True)
class Chart:
    """What a chart shows. Labels name the quantity and its unit."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)  # places on the x axis worth a vertical line
    best: tuple[float, float, str] | None = None  # a point worth a ring, and its name
    y_limits: Sequence[float] = ()  # values that the axis must reach, as 0 and 100 of a percentage
    log_y: bool | None = None  # None: by the values
    log_x: bool = False
    whole_x: bool = False
    categories: Sequence[str] = ()  # names of x = 0, 1, 2 ...
    note: str = ""


@dataclass(frozen=True)
class Drawn:
    """One series of pygal's: its points, and the class that the style sheet knows it by."""

    css_class: str
    points: Sequence[Point]
    dots_px: float = 0  # radius; 0: a line
    titles: Sequence[str] = ()


def chart(wanted: Chart) -> Markup:
    """A figure; one that has nothing to show says so."""
    known = [y for line in wanted.lines for y in line.y if y is not None]
    macros = environment().get_template("reports/macros.html").module
    svg = Markup(drawn(wanted, known)) if known else ""
    return Markup(macros.chart_figure(wanted, legend(wanted), svg))  # type: ignore[attr-defined]


def drawn(wanted: Chart, known: Sequence[float]) -> str:
    """The chart as SVG. Pygal's own logarithms are of both axes at once, so it is given logarithms instead."""
    reached = [clamped(value) for value in (*known, *wanted.y_limits, *wanted.thresholds.values())]
    low, high = min(reached), max(reached)
    log_y = low > 0 and (wanted.log_y if wanted.log_y is not None else high / low >= LOG_FROM_RATIO)
    x_at, y_at = (math.log10 if log else float for log in (wanted.log_x, log_y))
    xs = [x_at(x) for line in wanted.lines for x in line.x] + [x_at(x) for x in wanted.marks.values()]
    across = (-0.5, len(wanted.categories) - 0.5) if wanted.categories else spaced(min(xs), max(xs))
    bottom, top = spaced(y_at(low), y_at(high), fixed=() if log_y else wanted.y_limits)
    paper = pygal.XY(
        style=FONT, css=(), js=(), no_prefix=True, disable_xml_declaration=True, width=WIDTH, height=HEIGHT, margin=4,
        show_legend=False, show_dots=False, allow_interruptions=True, truncate_label=-1, max_scale=6,
        x_title=wanted.x_label + (LOGARITHMIC if wanted.log_x else ""), xrange=across, range=(bottom, top),
        x_value_formatter=lambda x: number_text(10**x if wanted.log_x else x),
        value_formatter=lambda y: number_text(10**y if log_y else y),
    )  # fmt: skip
    if wanted.categories:
        room = max(3, 50 // len(wanted.categories))  # characters
        paper.x_labels = [{"value": n, "label": shortened(name, room)} for n, name in enumerate(wanted.categories)]
    elif wanted.whole_x:
        paper.x_labels = whole_ticks(min(xs), max(xs))
    if log_y:
        paper.y_labels = decades(bottom, top)
    series = list(series_of(wanted, [10**x if wanted.log_x else x for x in across], (low, high)))
    for one in series:
        points = [(x_at(x), None if y is None else y_at(min(max(y, low), high))) for x, y in one.points]
        titles = itertools.chain(one.titles, itertools.repeat(""))
        values = [{"value": point, "label": title} for point, title in zip(points, titles, strict=False)]
        paper.add("", values, show_dots=one.dots_px > 0, stroke=one.dots_px == 0, dots_size=one.dots_px)
    return tidied(paper, [one.css_class for one in series], spoken(wanted, known))


def series_of(wanted: Chart, across: Sequence[float], up: Sequence[float]) -> Iterator[Drawn]:
    """Lines and dots, then what is drawn over them."""
    for number, line in enumerate(wanted.lines):
        colour = f"c{number % COLOURS}"
        if line.kind == "dots":
            yield Drawn(f"dots {colour}", list(zip(line.x, line.y, strict=False)), 4, line.titles)
            continue
        points = thinned(line.points(), SHOWN_POINTS)
        yield Drawn(f"line {colour}", points)
        alone = [point for point, one, other in neighbours(points) if one is None and other is None]
        yield Drawn(f"dots {colour}", alone, 3)
        yield Drawn("lost", [(x, up[0]) for x, y in points if y is None], 3)
    for value in wanted.thresholds.values():
        yield Drawn("threshold", [(x, value) for x in across])
    for x in wanted.marks.values():
        yield Drawn("mark", [(x, y) for y in up])
    if wanted.best:
        yield Drawn("best", [wanted.best[:2]], 6.5)


def neighbours(points: Sequence[Point]) -> Iterator[tuple[Point, float | None, float | None]]:
    """Each known point with the values beside it; one without any is no line and would not be seen."""
    values = [None, *(y for _, y in points), None]
    for number, point in enumerate(points):
        if point[1] is not None:
            yield point, values[number], values[number + 2]


def tidied(paper: pygal.XY, css_classes: Sequence[str], label: str) -> str:
    """Pygal's SVG without its style, script and date, with our classes, and with titles instead of descriptions."""
    svg = paper.render_tree()
    for child in [child for child in svg if not isinstance(child.tag, str) or child.tag in ("defs", "title")]:
        svg.remove(child)
    svg.attrib.update({"role": "img", "aria-label": label})
    for name in ("id", "xmlns"):
        svg.attrib.pop(name, None)
    for element in svg.iter():
        found = element.get("class", "").split()
        if "series" in found:
            number = int(next(name for name in found if name.startswith("serie-")).removeprefix("serie-"))
            element.set("class", f"series {css_classes[number]}")
        if "dots" in found:
            said = next((text.text for text in element if text.get("class") == "label"), None)
            for text in [text for text in element if text.tag == "desc"]:
                element.remove(text)
            if said:
                ElementTree.SubElement(element[0], "title").text = said
    return ElementTree.tostring(svg, encoding="unicode")


def spaced(low: float, high: float, *, fixed: Sequence[float] = ()) -> tuple[float, float]:
    """The ends of an axis: a little beyond the values, except where an end is fixed."""
    room = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    return low if low in fixed else low - room, high if high in fixed else high + room


def whole_ticks(low: float, high: float) -> list[int]:
    """A few round whole numbers, as epochs and steps are."""
    rough = (high - low) / 4
    power = 10 ** max(0, math.floor(math.log10(rough)) - 1) if rough >= 1 else 1
    step = next((step * power for step in NICE_STEPS if step * power >= rough), power)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step)) or [round(low)]


def decades(low: float, high: float) -> list[float]:
    """Logarithms of 1, 10, 100 ... between two logarithms, at most six; of 2 and 5, too, where there are hardly any."""
    whole = range(math.ceil(low), math.floor(high) + 1)
    if len(whole) > 2:
        return [float(power) for power in whole[:: -(-len(whole) // 6)]]
    powers = range(math.floor(low), math.ceil(high))
    return [found for power in powers for digit in (1, 2, 5) if low <= (found := power + math.log10(digit)) <= high]


def clamped(value: float) -> float:
    """What can be drawn."""
    return min(max(value, -LARGEST), LARGEST)


def legend(wanted: Chart) -> list[tuple[str, str]]:
    """Class and text of each entry; a single line needs none."""
    entries = []
    if len(wanted.lines) > 1:
        names = told_apart([line.name for line in wanted.lines], LONGEST_TEXT)
        entries += [(f"c{number % COLOURS}", name) for number, name in enumerate(names)]
    entries += [("threshold", f"{name} = {number_text(value)}") for name, value in wanted.thresholds.items()]
    entries += [("mark", name) for name in wanted.marks]
    if wanted.best:
        entries.append(("best", wanted.best[2]))
    if any(value is None for line in wanted.lines if line.kind == "line" for value in line.y):
        entries.append(("lost", "not a number"))
    return [(kind, shortened(name, LONGEST_TEXT)) for kind, name in entries]


def spoken(wanted: Chart, known: Sequence[float]) -> str:
    """For readers that do not see."""
    return (
        f"{wanted.title}: {wanted.y_label} over {wanted.x_label}, between {number_text(min(known))} and "
        f"{number_text(max(known))}"
    )


def thinned(points: Sequence[Point], limit: int) -> Sequence[Point]:
    """At most about `limit` points: of each stretch its lowest, its highest and what is not a number."""
    if len(points) <= limit:
        return points
    size = -(-2 * len(points) // limit)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [point for point in stretch if point[1] is not None]
        lost = [point for point in stretch if point[1] is None][:1]
        ends = {min(known, key=_height), max(known, key=_height)} if known else set()
        kept += sorted([*ends, *lost], key=lambda point: point[0])
    return kept


def _height(point: Point) -> float:
    return point[1] or 0.0


def told_apart(names: Sequence[str], limit: int) -> list[str]:
    """Names of at most `limit` characters. Of long ones what they share at the beginning is left out, as that of
    `backbone.blocks.0.weight` and `backbone.blocks.1.weight`, so that they still differ."""
    if len(names) < 2 or max(map(len, names)) <= limit:
        return [shortened(name, limit) for name in names]
    split = [name.split(".") for name in names]
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*split, strict=False))))
    rests = [("…" if shared else "") + ".".join(parts[shared:]) for parts in split]
    return [rest if len(rest) <= limit else f"{rest[: limit - 1]}…" for rest in rests]


def shortened(name: str, limit: int) -> str:
    """A text of at most `limit` characters; the end of a long one tells most, as that of `head.3.weight`."""
    return name if len(name) <= limit else f"…{name[-(limit - 1) :]}"
