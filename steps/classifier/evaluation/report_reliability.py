"""The report's reliability diagram: how often the model is right when it says how sure it is."""

from collections.abc import Iterator, Sequence
from html import escape

from classifier.evaluation.metrics import Effect
from classifier.reports.page import percent, section
from classifier.training.calibration import Bin, Reliability

PLOT_PX = 220  # side of the square
LEFT, TOP, COUNTS_PX, BOTTOM, RIGHT = 40, 8, 44, 34, 16
GAP_PX = 6  # between the square and the counts below it
WIDTH, HEIGHT = LEFT + PLOT_PX + RIGHT, TOP + PLOT_PX + GAP_PX + COUNTS_PX + BOTTOM
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability_section(found: Effect) -> str:
    """Diagrams before and after."""
    shown = [("As trained", found.uncalibrated), ("As deployed", found.calibrated)]
    diagrams = "".join(_diagram(title, reliability) for title, reliability in shown)
    return section(
        "Calibration",
        "<p>How sure the model says it is, and how often it is right then. A bar that ends on the diagonal keeps its "
        "word; one above it is right more often than it says, one below it less often. The expected calibration error "
        "is the mean distance to the diagonal, and the narrow bars count the images.</p>"
        f"<p>{_effect(found)}</p>"
        f'<div class="reliability">{diagrams}</div>',
    )


def _effect(found: Effect) -> str:
    """What the temperature is for."""
    kind = "surer" if found.temperature < 1 else "less sure"
    return escape(
        f"A temperature of {found.temperature:.3f}, fitted on the validation split, makes the network {kind} of "
        "itself; which class comes first does not change."
    )


def _diagram(title: str, found: Reliability) -> str:
    spoken = f"{title}: expected calibration error {percent(found.error)}"
    drawn = "".join([_frame(), *_bars(found.bins), _diagonal(), *_counts(found.bins)])
    return (
        f'<figure class="diagram"><figcaption><b>{escape(title)}</b>: expected calibration error '
        f'{percent(found.error)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(spoken)}">{drawn}</svg></figure>'
    )


def _across(share: float) -> float:
    return LEFT + share * PLOT_PX


def _up(share: float) -> float:
    return TOP + (1 - share) * PLOT_PX


def _frame() -> str:
    """The square, its scales and their names."""
    parts = [f'<rect class="plot" x="{LEFT}" y="{TOP}" width="{PLOT_PX}" height="{PLOT_PX}"/>']
    base = HEIGHT - BOTTOM
    for tick in TICKS:
        parts.append(f'<path class="grid" d="M{LEFT} {_up(tick):g}h{PLOT_PX}"/>')
        parts.append(f'<text class="end" x="{LEFT - 5}" y="{_up(tick) + 4:g}">{100 * tick:.0f}</text>')
        parts.append(f'<text class="middle" x="{_across(tick):g}" y="{base + 13}">{100 * tick:.0f}</text>')
    middle = TOP + PLOT_PX / 2
    parts.append(f'<text class="middle" x="{LEFT + PLOT_PX / 2:g}" y="{HEIGHT - 5}">score, %</text>')
    parts.append(f'<text class="middle" x="10" y="{middle:g}" transform="rotate(-90 10 {middle:g})">right, %</text>')
    return "".join(parts)


def _diagonal() -> str:
    return f'<path class="diagonal" d="M{_across(0):g} {_up(0):g}L{_across(1):g} {_up(1):g}"/>'


def _bars(bins: Sequence[Bin]) -> Iterator[str]:
    """The accuracy of each bin, and its distance to the mean score."""
    width = PLOT_PX / len(bins)
    for number, part in enumerate(bins):
        if not part.images:
            continue
        x, top, said = LEFT + number * width + 1, _up(part.accuracy), _up(part.confidence)
        images = "image" if part.images == 1 else "images"
        title = f"{part.images} {images} scored {percent(part.confidence)} on average; {percent(part.accuracy)} right"
        yield (
            f'<g><title>{escape(title)}</title><rect class="right-share" x="{x:.1f}" y="{top:.1f}" '
            f'width="{width - 2:.1f}" height="{_up(0) - top:.1f}"/><rect class="distance" x="{x:.1f}" '
            f'y="{min(top, said):.1f}" width="{width - 2:.1f}" height="{abs(top - said):.1f}"/></g>'
        )


def _counts(bins: Sequence[Bin]) -> Iterator[str]:
    """How many images each bin has, beneath."""
    width, base = PLOT_PX / len(bins), HEIGHT - BOTTOM
    most = max(part.images for part in bins) or 1
    for number, part in enumerate(bins):
        height = COUNTS_PX * part.images / most
        yield (
            f'<rect class="count" x="{LEFT + number * width + width / 4:.1f}" y="{base - height:.1f}" '
            f'width="{width / 2:.1f}" height="{height:.1f}"/>'
        )
