"""Compares what an endpoint was sent with the test split that its model was evaluated on: drift.json and drift.html.

It needs no labels. That the images differ does not say that the answers are wrong, only that the test accuracy no
longer speaks for them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captured import Event, events
from drift_statistics import CLASSES, FIGURES, MAJOR, MODERATE, binned, class_counts, compared, pixel_figures
from failures import ArgumentParser, StepError, run, say
from images import ImageError, Preprocess, decode, to_pixels
from report_page import bar_cell, page, percent, section, tiles
from report_style import PAGE_STYLE

MAX_PIXELS = 100_000_000  # the endpoint, which has answered, has a limit of its own
WORST = ("none", "moderate", "major")
MEANING = {"none": "no drift", "moderate": "moderate drift", "major": "major drift"}


def main() -> None:
    arguments = parse_arguments()
    known = read_baseline(arguments.baseline)
    document = judge(arguments.captured.read_text(encoding="utf-8").split("\n"), known)
    arguments.report_dir.mkdir(parents=True, exist_ok=True)
    (arguments.report_dir / "drift.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (arguments.report_dir / "drift.html").write_text(render(document, known), encoding="utf-8")
    say(f"{document['images']} images: {MEANING[document['drift']]}")


def read_baseline(path: Path) -> dict[str, Any]:
    """baseline.json."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StepError(f"{path} is no baseline of EvaluateModel's ({error}).") from None
    return found


def judge(lines: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """drift.json.

    Raises:
        StepError: no captured event is of an image and its answer.
    """
    found = list(measured(lines, Preprocess.from_dict(known["preprocess"]), known["classes"]))
    if not found:
        raise StepError(f"No event of the {len(lines)} captured is of one image and its answer.")
    labels = np.array([event.label for event, _ in found], dtype=np.int64)
    columns = np.column_stack([[event.confidence for event, _ in found], np.concatenate([row for _, row in found])])
    results = {
        name: compared(
            np.array(known["figures"][name]["counts"]), binned(column, np.array(known["figures"][name]["bounds"]))
        )
        for name, column in zip(FIGURES, columns.T, strict=True)
    }
    counts = class_counts(labels, len(known["classes"]))
    results[CLASSES] = compared(np.array(known["predicted_counts"]), counts)
    return {
        "drift": max((result["drift"] for result in results.values()), key=WORST.index),
        "images": len(found),
        "events_passed_over": len(lines) - len(found),
        "baseline_images": known["images"],
        "mean_confidence": float(columns[:, 0].mean()),
        "statistics": results,
    }


def measured(
    lines: list[str], preprocess: Preprocess, classes: list[str]
) -> Iterator[tuple[Event, npt.NDArray[np.float64]]]:
    """Each usable event with its pixel figures (1, 3)."""
    for event in events(iter(lines), classes):
        if isinstance(event, Event):
            try:
                crop = to_pixels(decode(event.image, max_pixels=MAX_PIXELS), preprocess)
            except ImageError:
                continue
            yield event, pixel_figures(crop[np.newaxis])


def render(document: dict[str, Any], known: dict[str, Any]) -> str:
    """The page."""
    results = document["statistics"]
    figures = {
        "Captured images": f"{document['images']:,}",
        "Test images": f"{document['baseline_images']:,}",
        "Mean confidence": percent(document["mean_confidence"]),
        "Events passed over": f"{document['events_passed_over']:,}",
    }
    head = (
        "<header><h1>What the endpoint was sent, against the test split</h1>"
        f"<p>{MEANING[document['drift']].capitalize()}: the largest verdict of the statistics below. Images that "
        "differ need not be answered wrongly, but the test accuracy no longer speaks for them.</p>"
        f"{tiles(figures)}</header>"
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{result["distance"]:.3f}</td><td>{result["by_chance"]:.3f}</td>'
        f"<td>{MEANING[result['drift']]}</td></tr>"
        for name, result in results.items()
    )
    table = (
        "<p>Population stability index of each statistic: moderate from "
        f"{MODERATE:g}, major from {MAJOR:g}, and only above what chance explains for so many images (99 of 100 "
        "samples without any drift stay below).</p>"
        '<div class="facts"><table><thead><tr><th></th><th>Distance</th><th>By chance</th><th>Verdict</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    names = {name: bin_names(known["figures"][name]["bounds"], name) for name in FIGURES} | {CLASSES: known["classes"]}
    parts = [section(name.capitalize(), histogram(names[name], result)) for name, result in results.items()]
    return page(f"Drift: {MEANING[document['drift']]}", PAGE_STYLE, [head, section("Distances", table), *parts])


def bin_names(bounds: list[float], name: str) -> list[str]:
    """What a bin holds."""
    texts = [f"{bound:.3f}" if name == "confidence" else f"{bound:.1f}" for bound in bounds]
    between = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"up to {texts[0]}", *between, f"above {texts[-1]}"]


def histogram(names: list[str], result: dict[str, Any]) -> str:
    """A row for each bin: its share of the test split and of what was captured."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{bar_cell("Test split", before, percent(before))}'
        f"{bar_cell('Captured', after, percent(after))}</tr>"
        for name, before, after in zip(names, result["expected"], result["found"], strict=True)
    )
    return (
        '<table style="width:100%"><thead><tr><th></th><th>Test split</th><th>Captured</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captured", type=Path, required=True, metavar="FILE", help="captured events, a line each")
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="EvaluateModel's baseline.json")
    parser.add_argument("--report-dir", type=Path, required=True, metavar="DIR", help="for drift.json, drift.html")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main))
