"""The section of report.html that sets the new model beside the one in service."""

from dataclasses import dataclass
from html import escape
from typing import Any

from classifier.evaluation.comparison import Comparison
from classifier.reports.page import percent, section

SHOWN_CLASSES = 10  # at most, those whose F1 differs most
SMALLEST_SHOWN = 0.0005  # a smaller difference reads as none with three decimals
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Figure:
    """One row: how a figure is called and written, and whether more of it is better."""

    title: str
    name: str
    is_share: bool
    is_better_when_higher: bool = True


FIGURES = (
    Figure("Accuracy", "accuracy", is_share=True),
    Figure("Macro F1", "macro_f1", is_share=False),
    Figure("Top-5 accuracy", "top_5_accuracy", is_share=True),
    Figure("Log loss", "loss", is_share=False, is_better_when_higher=False),
)


def comparison_section(metrics: dict[str, Any], comparison: Comparison) -> str:
    """Both models on the same test images: the verdict, the figures, and the classes that differ most."""
    title = "Compared with the model in service"
    if comparison.metrics is None:
        return section(title, f"<p>There is none to compare with: {escape(comparison.reason)}.</p>")
    figures = _figures(metrics, comparison.metrics)
    classes = _classes(metrics["per_class"], comparison.metrics["per_class"])
    return section(title, f'<p class="verdict">{_verdict(comparison)}</p><div class="versus">{figures}{classes}</div>')


def _verdict(comparison: Comparison) -> str:
    name = f"<b>{escape(comparison.name)}</b>"
    if comparison.is_same_model:
        return f"This is {name}, the model in service itself: it replaces nothing."
    difference = comparison.improvement
    more = f"{100 * comparison.margin:g} points more were" if comparison.margin else "as much was"
    asked = f"at least {more} asked for"
    met = "and" if difference >= comparison.margin else "but"
    if not difference:
        return f"This model is exactly as accurate as {name}, {met} {asked}."
    direction = "more" if difference > 0 else "less"
    return f"This model is <b>{100 * abs(difference):.1f} points {direction} accurate</b> than {name}, {met} {asked}."


def _figures(new: dict[str, Any], old: dict[str, Any]) -> str:
    rows = "".join(_figure_row(figure, new[figure.name]["value"], old[figure.name]["value"]) for figure in FIGURES)
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("", "This model", "In service", "Difference"))
    return f"<table><caption>The whole split</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _figure_row(figure: Figure, new: float, old: float) -> str:
    written = percent if figure.is_share else "{:.3f}".format
    gained = (new - old) if figure.is_better_when_higher else (old - new)
    difference = _signed(100 * (new - old), 1) + " points" if figure.is_share else _signed(new - old, 3)
    return (
        f'<tr><th scope="row">{figure.title}</th><td><b>{written(new)}</b></td><td>{written(old)}</td>'
        f'<td class="{_kind(gained)}">{difference}</td></tr>'
    )


def _classes(new: dict[str, Any], old: dict[str, Any]) -> str:
    differences = {name: new[name]["f1"] - old[name]["f1"] for name in new}
    differing = [name for name in differences if abs(differences[name]) >= SMALLEST_SHOWN]
    differing.sort(key=lambda name: (-abs(differences[name]), name))
    if not differing:
        return '<p class="alike">Both models are equally good at every class.</p>'
    shown = differing[:SHOWN_CLASSES]
    widest = abs(differences[shown[0]])
    rows = "".join(_class_row(name, new[name], old[name], widest) for name in shown)
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Class", "This model", "In service", "Difference"))
    most = f" most ({len(shown)} of {len(differing)})" if len(shown) < len(differing) else ""
    caption = f"F1 of the classes that differ{most}"
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _class_row(name: str, new: dict[str, float], old: dict[str, float], widest: float) -> str:
    difference = new["f1"] - old["f1"]
    reach = 50 * difference / widest  # percent of the bar's width, from its middle
    start, end = sorted((50.0, 50 + reach))
    images = f"{new['support']:,} test images"
    return (
        f'<tr><th scope="row" title="{escape(name)}, {images}">{escape(name)}</th><td><b>{new["f1"]:.3f}</b></td>'
        f'<td>{old["f1"]:.3f}</td><td class="{_kind(difference)} change">'
        f'<span style="--start:{start:.1f}%;--end:{end:.1f}%"></span>{_signed(difference, 3)}</td></tr>'
    )


def _kind(gained: float) -> str:
    """The CSS class of a difference: good, bad or alike."""
    return "alike" if abs(gained) < SMALLEST_SHOWN else "better" if gained > 0 else "worse"


def _signed(value: float, decimals: int) -> str:
    """With its sign, and none for what rounds to 0."""
    text = f"{abs(value):.{decimals}f}"
    sign = "" if not float(text) else "+" if value > 0 else MINUS
    return sign + text
