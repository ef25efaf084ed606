"""Charts as inline SVG, drawn by pygal. Colours come from the style sheet, so that they suit the theme.

Every chart is drawn about as large as it is shown, the width of a phone's screen: its texts are as large as the page's.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

import pygal
from markupsafe import Markup
from pygal.style import Style
from pygal.util import compute_scale

from watch.report.page import environment, number_text

WIDTH, HEIGHT = 360, 220
COLOURS = 8
SHOWN_POINTS = 300  # a line; more cannot be told apart at this size
LONGEST_TEXT = 40  # characters of a legend's entry
LOG_FROM_RATIO = 100.0  # between the largest and the smallest value
LARGEST = 1e150  # beyond which differences and ratios overflow; what lies there is drawn at the edge
FONT = Style(label_font_size=11, major_label_font_size=11, title_font_size=11)  # pygal leaves room for these sizes
Point = tuple[float, float | None]
Series = tuple[str, Sequence[Point], float]  # class of the style sheet, points, radius of dots in px: 0 is a line


@dataclass(frozen=True)
class Line:
    """One series; None in `y` is a value that is no number, as the loss of a training that diverged."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "line"  # or "dots"
    titles: Sequence[str] = ()  # of dots: what is said about each when pointed at


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


def chart(wanted: Chart) -> Markup:
    """Return the figure; one that has nothing to show says so."""
    known = [y for line in wanted.lines for y in line.y if y is not None]
    macros = environment().get_template("watch/report/macros.html").module
    svg = Markup(drawn(wanted, known)) if known else ""
    return Markup(macros.chart_figure(wanted, legend(wanted), svg))  # type: ignore[attr-defined]


def drawn(wanted: Chart, known: Sequence[float]) -> str:
    """Return the SVG. Pygal's own logarithms are of both axes at once, so it is given logarithms instead."""
    reached = [min(max(y, -LARGEST), LARGEST) for y in (*known, *wanted.y_limits, *wanted.thresholds.values())]
    low, high = min(reached), max(reached)
    log_y = low > 0 and (wanted.log_y if wanted.log_y is not None else high / low >= LOG_FROM_RATIO)
    x_at, y_at = (math.log10 if log else float for log in (wanted.log_x, log_y))
    xs = [x_at(x) for x in itertools.chain(*(line.x for line in wanted.lines), wanted.marks.values())]
    across = (-0.5, len(wanted.categories) - 0.5) if wanted.categories else spaced(min(xs), max(xs))
    bottom, top = spaced(y_at(low), y_at(high), fixed=() if log_y else wanted.y_limits)
    paper = pygal.XY(
        style=FONT, css=(), js=(), no_prefix=True, disable_xml_declaration=True, width=WIDTH, height=HEIGHT, margin=4,
        show_legend=False, show_dots=False, allow_interruptions=True, truncate_label=-1, max_scale=6,
        x_title=wanted.x_label + (" – logarithmic" if wanted.log_x else ""), xrange=across, range=(bottom, top),
        x_value_formatter=lambda x: number_text(10**x if wanted.log_x else x),
        value_formatter=lambda y: number_text(10**y if log_y else y),
    )  # fmt: skip
    if wanted.categories:
        room = max(3, 50 // len(wanted.categories))  # characters
        paper.x_labels = [{"value": n, "label": shortened(name, room)} for n, name in enumerate(wanted.categories)]
    elif wanted.whole_x:
        paper.x_labels = compute_scale(min(xs), max(xs), False, 0, 2, 6)  # at most six steps of at least 10**0
    if log_y:
        paper.y_labels = decades(bottom, top)
    titles = {f"dots c{n % COLOURS}": line.titles for n, line in enumerate(wanted.lines)}
    series = series_of(wanted, [10**x if wanted.log_x else x for x in across], (low, high))
    for css_class, points, dots_px in series:
        places = [(x_at(x), None if y is None else y_at(min(max(y, low), high))) for x, y in points]
        said = itertools.chain(titles.get(css_class, ()), itertools.repeat(""))
        values = [{"value": place, "label": title} for place, title in zip(places, said, strict=False)]
        paper.add("", values, show_dots=dots_px > 0, stroke=dots_px == 0, dots_size=dots_px)
    spoken = f"{wanted.title}: {wanted.y_label} over {wanted.x_label}, between "
    spoken += f"{number_text(min(known))} and {number_text(max(known))}"
    return tidied(paper, [css_class for css_class, _, _ in series], spoken)


def series_of(wanted: Chart, across: Sequence[float], up: Sequence[float]) -> list[Series]:
    """Return lines and dots, then what is drawn over them."""
    found: list[Series] = []
    for number, line in enumerate(wanted.lines):
        colour = f"c{number % COLOURS}"
        points = list(zip(line.x, line.y, strict=False))
        if line.kind == "dots":
            found.append((f"dots {colour}", points, 4))
            continue
        points = thinned(sorted(points, key=lambda point: point[0]), SHOWN_POINTS)
        holes = [True, *(y is None for _, y in points), True]
        alone = [point for n, point in enumerate(points) if holes[n : n + 3] == [True, False, True]]
        lost: list[Point] = [(x, up[0]) for x, y in points if y is None]
        found += [(f"line {colour}", points, 0), (f"dots {colour}", alone, 3), ("lost", lost, 3)]
    found += [("threshold", [(x, value) for x in across], 0) for value in wanted.thresholds.values()]
    found += [("mark", [(x, y) for y in up], 0) for x in wanted.marks.values()]
    return [*found, ("best", [wanted.best[:2]], 6.5)] if wanted.best else found


def tidied(paper: pygal.XY, css_classes: Sequence[str], label: str) -> str:
    """Return pygal's SVG without its style, script and date, with our classes, and titles instead of descriptions."""
    svg = paper.render_tree()
    for child in [child for child in svg if not isinstance(child.tag, str) or child.tag in ("defs", "title")]:
        svg.remove(child)
    svg.attrib.update({"role": "img", "aria-label": label})
    for name in ("id", "xmlns"):
        svg.attrib.pop(name, None)
    for element in svg.iter():
        names = element.get("class", "").split()
        if "series" in names:
            number = next(name for name in names if name.startswith("serie-")).removeprefix("serie-")
            element.set("class", f"series {css_classes[int(number)]}")
        if "dots" in names:
            said = next((text.text for text in element if text.get("class") == "label"), None)
            for text in element.findall("desc"):
                element.remove(text)
            if said:
                ElementTree.SubElement(element[0], "title").text = said
    return ElementTree.tostring(svg, encoding="unicode")


def spaced(low: float, high: float, *, fixed: Sequence[float] = ()) -> tuple[float, float]:
    """Return the ends of an axis: a little beyond the values, except where an end is fixed."""
    room = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    return low if low in fixed else low - room, high if high in fixed else high + room


def decades(low: float, high: float) -> list[float]:
    """Return the logarithms of at most six of 1, 10, 100 ... between two; of 2 and 5, too, where there are few."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    digits = (1,) if math.floor(high) - math.ceil(low) >= 2 else (1, 2, 5)
    found = [place for power in powers for digit in digits if low <= (place := power + math.log10(digit)) <= high]
    return found[:: -(-len(found) // 6)]


def legend(wanted: Chart) -> list[tuple[str, str]]:
    """Return class and text of each entry; a single line needs none."""
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


def thinned(points: list[Point], limit: int) -> list[Point]:
    """Return at most about `limit` points: of each stretch its lowest, its highest and what is not a number."""
    if len(points) <= limit:
        return points
    size = -(-2 * len(points) // limit)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = sorted((point for point in stretch if point[1] is not None), key=lambda point: point[1] or 0.0)
        lost = [point for point in stretch if point[1] is None]
        kept += sorted({*known[:1], *known[-1:], *lost[:1]}, key=lambda point: point[0])
    return kept


def told_apart(names: Sequence[str], limit: int) -> list[str]:
    """Return names of at most `limit` characters that still differ: of long ones the beginning that they share is left
    out, as that of `backbone.blocks.0.weight` and `backbone.blocks.1.weight`."""
    if len(names) < 2 or max(map(len, names)) <= limit:
        return [shortened(name, limit) for name in names]
    split = [name.split(".") for name in names]
    shared = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*split, strict=False))))
    rests = [("…" if shared else "") + ".".join(parts[shared:]) for parts in split]
    return [rest if len(rest) <= limit else f"{rest[: limit - 1]}…" for rest in rests]


def shortened(name: str, limit: int) -> str:
    """Return at most `limit` characters; the end of a long text tells most, as that of `head.3.weight`."""
    return name if len(name) <= limit else f"…{name[-(limit - 1) :]}"
