"""Charts as inline SVG: lines, dots and a stacked bar. Colours come from the style sheet, so that they suit the theme.

Every chart is drawn on paper of the same size, about the width of a phone's screen, and is shown at about that size:
texts are as large as the page's own, wherever it is read.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from classifier.reports.page import number_text
from classifier.reports.scales import Scale, counted_scale, fitted

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 24, 38
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = 8
SHOWN_POINTS = 300  # a line; more cannot be told apart on this paper
LONGEST_TEXT = 40  # characters of a legend's entry
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
    y_limits: Sequence[float] = ()
    log_y: bool | None = None
    log_x: bool = False
    whole_x: bool = False
    categories: Sequence[str] = ()  # names of x = 0, 1, 2 ...
    note: str = ""


def chart(wanted: Chart) -> str:
    """A figure; one that has nothing to show says so."""
    points = [point for line in wanted.lines for point in line.points()]
    known = [y for _, y in points if y is not None]
    note = f' <span class="aside">{escape(wanted.note)}</span>' if wanted.note else ""
    caption = f"<figcaption><b>{escape(wanted.title)}</b>{note}{_legend(wanted)}</figcaption>"
    if not known:
        return f'<figure class="chart">{caption}<p class="nothing">No value was recorded.</p></figure>'
    x, y = _x_scale(wanted, points), _y_scale(wanted, known)
    parts = [_axes(wanted, x, y), *_thresholds(wanted, y), *_marks(wanted, x)]
    for number, line in enumerate(wanted.lines):
        parts.append(_dots(line, number, x, y) if line.kind == "dots" else _line(line, number, x, y))
    parts += _best(wanted, x, y)
    return (
        f'<figure class="chart">{caption}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_spoken(wanted, known))}">{"".join(parts)}</svg></figure>'
    )


def _x_scale(wanted: Chart, points: Sequence[Point]) -> Scale:
    values = [x for x, _ in points] + list(wanted.marks.values())
    if wanted.categories:
        last = len(wanted.categories) - 1
        return Scale(-0.5, last + 0.5, PLOT_WIDTH, ticks=tuple(map(float, range(last + 1))))
    if wanted.whole_x:
        return counted_scale(values, PLOT_WIDTH)
    return fitted(values, PLOT_WIDTH, log=wanted.log_x)


def _y_scale(wanted: Chart, known: Sequence[float]) -> Scale:
    return fitted([*known, *wanted.thresholds.values()], PLOT_HEIGHT, log=wanted.log_y, limits=wanted.y_limits)


def _axes(wanted: Chart, x: Scale, y: Scale) -> str:
    parts = [f'<rect class="plot" x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"/>']
    for place, label in y.labels():
        height = TOP + PLOT_HEIGHT - place
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}h{PLOT_WIDTH}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 5}" y="{height + 3.5:.1f}">{escape(label)}</text>')
    for place, label in _x_labels(wanted, x):
        across = LEFT + place
        parts.append(f'<path class="grid" d="M{across:.1f} {TOP + PLOT_HEIGHT}v4"/>')
        parts.append(f'<text class="tick middle" x="{across:.1f}" y="{TOP + PLOT_HEIGHT + 15}">{escape(label)}</text>')
    scale = " – logarithmic" if y.log else ""
    x_scale = " – logarithmic" if x.log else ""
    parts.append(f'<text class="y-label" x="4" y="13">{escape(wanted.y_label + scale)}</text>')
    parts.append(
        f'<text class="x-label middle" x="{LEFT + PLOT_WIDTH / 2:g}" y="{HEIGHT - 6}">'
        f"{escape(wanted.x_label + x_scale)}</text>"
    )
    return "".join(parts)


def _x_labels(wanted: Chart, x: Scale) -> list[tuple[float, str]]:
    if not wanted.categories:
        return x.labels()
    room = max(3, 50 // len(wanted.categories))  # characters
    return [(x.at(number), shortened(name, room)) for number, name in enumerate(wanted.categories)]


def _line(line: Line, number: int, x: Scale, y: Scale) -> str:
    kept = thinned(line.points(), SHOWN_POINTS)
    parts, path = [], []
    for known, run in itertools.groupby(kept, key=lambda point: point[1] is not None):
        places = [(LEFT + x.at(across), TOP + PLOT_HEIGHT - y.at(value or 0.0)) for across, value in run]
        if not known:
            parts += [f'<path class="lost" d="M{a:.1f} {TOP + PLOT_HEIGHT}v-9"/>' for a, _ in places]
        elif len(places) == 1:
            a, b = places[0]
            parts.append(f'<circle class="dot c{number % COLOURS}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>')
        else:
            path.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places))
    if path:
        parts.insert(0, f'<path class="line c{number % COLOURS}" d="{"".join(path)}"/>')
    return "".join(parts)


def _dots(line: Line, number: int, x: Scale, y: Scale) -> str:
    parts = []
    for (a, b), title in itertools.zip_longest(zip(line.x, line.y, strict=False), line.titles[: len(line.x)]):
        if b is not None:
            parts.append(
                f'<circle class="dot c{number % COLOURS}" cx="{LEFT + x.at(a):.1f}" '
                f'cy="{TOP + PLOT_HEIGHT - y.at(b):.1f}" r="4"><title>{escape(title or "")}</title></circle>'
            )
    return "".join(parts)


def _thresholds(wanted: Chart, y: Scale) -> Iterator[str]:
    for value in wanted.thresholds.values():
        if not y.log or value > 0:
            yield f'<path class="threshold" d="M{LEFT} {TOP + PLOT_HEIGHT - y.at(value):.1f}h{PLOT_WIDTH}"/>'


def _marks(wanted: Chart, x: Scale) -> Iterator[str]:
    for value in wanted.marks.values():
        yield f'<path class="mark" d="M{LEFT + x.at(value):.1f} {TOP}v{PLOT_HEIGHT}"/>'


def _best(wanted: Chart, x: Scale, y: Scale) -> Iterator[str]:
    if wanted.best:
        across, height = LEFT + x.at(wanted.best[0]), TOP + PLOT_HEIGHT - y.at(wanted.best[1])
        yield f'<circle class="best" cx="{across:.1f}" cy="{height:.1f}" r="6.5"/>'


def _legend(wanted: Chart) -> str:
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
    found = "".join(
        f'<span class="key {kind}"><i></i>{escape(shortened(name, LONGEST_TEXT))}</span>' for kind, name in entries
    )
    return f'<span class="legend">{found}</span>' if found else ""


def _spoken(wanted: Chart, known: Sequence[float]) -> str:
    """For readers that do not see."""
    return (
        f"{wanted.title}: {wanted.y_label} over {wanted.x_label}, between {number_text(min(known))} and "
        f"{number_text(max(known))}"
    )


def stacked_bar(parts: Mapping[str, float], texts: Mapping[str, str]) -> str:
    """One bar of 100 %, and a legend with the text of each part, the largest first as given."""
    total = sum(parts.values()) or 1.0
    shown = [(f"c{number % COLOURS}", name, value) for number, (name, value) in enumerate(parts.items())]
    bars = "".join(
        f'<span class="{colour}" style="flex-grow:{value / total:.4f}" '
        f'title="{escape(f"{name}: {texts[name]}")}"></span>'
        for colour, name, value in shown
    )
    keys = "".join(
        f'<li class="key {colour}"><i></i><b>{escape(name)}</b> {escape(texts[name])}</li>' for colour, name, _ in shown
    )
    return f'<div class="stack" role="img" aria-label="shares of a step">{bars}</div><ul class="parts">{keys}</ul>'


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
