"""The sections on learning: loss, accuracy and learning rate by epoch, and magnitudes of gradients and weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from watch.read.run import Epoch, Record, series_of
from watch.read.values import mapping
from watch.report.charts import Chart, Line, chart
from watch.report.page import counted, number_text, percent

SHOWN_TENSORS = 8
MODES = {"TRAIN": "training", "EVAL": "validation"}
MAGNITUDES = {
    "gradients": ("Gradients", "how strongly a step wants to change them"),
    "weights": ("Weights", "how large they are"),
    "biases": ("Biases", "how large they are"),
}


def learning(record: Record) -> dict[str, Any]:
    """Curves over epochs, and over saved steps."""
    curves = [_loss(record), _accuracy(record), _learning_rate(record)] if record.epochs else []
    curves += _step_losses(record.series)
    return {
        "learning_words": _in_words(record) if record.epochs else "No epoch was completed.",
        "learning_charts": [chart(curve) for curve in curves if curve],
    }


def _in_words(record: Record) -> str:
    best = record.best
    epochs = counted(len(record.epochs), "epoch")
    if best is None:
        return f"{epochs.capitalize()} trained. Which one was kept is not known."
    figures = [
        f"validation accuracy {percent(best.validation_accuracy)} (selected on)"
        if best.validation_accuracy is not None
        else "",
        f"validation loss {number_text(best.validation_loss)}" if best.validation_loss is not None else "",
    ]
    said = " and ".join(filter(None, figures))
    lost = any(epoch.train_loss is None or epoch.validation_loss is None for epoch in record.epochs)
    diverged = " The loss was not a number in some epochs: the training diverged." if lost else ""
    began = record.fine_tuning_from
    stages = f" From epoch {began} on the backbone learned, too: losses before do not compare." if began else ""
    kept = f"the weights of epoch {best.epoch} were kept{f', with {said}' if said else ''}"
    return f"{epochs} trained; {kept}.{stages}{diverged}"


def _loss(record: Record) -> Chart:
    return _by_epoch(record, "Loss", "loss (cross-entropy)", {"train": "train_loss", "validation": "validation_loss"})


def _accuracy(record: Record) -> Chart:
    names = {"train": "train_accuracy", "validation": "validation_accuracy"}
    return _by_epoch(record, "Accuracy", "accuracy (%)", names, factor=100.0)


def _learning_rate(record: Record) -> Chart | None:
    if all(epoch.lr is None for epoch in record.epochs):
        return None
    x = [float(epoch.epoch) for epoch in record.epochs]
    line = Line("learning rate", x, [epoch.lr for epoch in record.epochs])
    return Chart("Learning rate", "epoch", "learning rate", [line], whole_x=True, marks=_marks(record))


def _by_epoch(record: Record, title: str, y_label: str, names: Mapping[str, str], *, factor: float = 1.0) -> Chart:
    x = [float(epoch.epoch) for epoch in record.epochs]
    lines = [
        Line(name, x, [_scaled(epoch, member, factor) for epoch in record.epochs]) for name, member in names.items()
    ]
    best, ring = record.best, None
    if best and (y := _scaled(best, names["validation"], factor)) is not None:
        ring = (float(best.epoch), y, f"kept epoch, {best.epoch}")
    return Chart(title, "epoch", y_label, lines, best=ring, whole_x=True, marks=_marks(record))


def _marks(record: Record) -> Mapping[str, float]:
    """Where fine-tuning begins, between two epochs."""
    began = record.fine_tuning_from
    return {"fine-tuning begins": began - 0.5} if began else {}


def _scaled(epoch: Epoch, member: str, factor: float) -> float | None:
    value: float | None = getattr(epoch, member)
    return None if value is None else factor * value


def _step_losses(series: Mapping[str, Any]) -> list[Chart]:
    """The losses that the debugger saved, step by step; each mode counts steps of its own, so each has its own axis."""
    charts = []
    for mode, entry in mapping(series.get("losses")).items():
        name = MODES.get(str(mode), str(mode))
        line = Line(name, *series_of(entry, "value"))
        if len(line.x) > 1:
            charts.append(
                Chart(f"Loss by saved {name} step", f"{name} step", "loss (cross-entropy)", [line], whole_x=True)
            )
    return charts


def magnitudes(record: Record) -> list[str]:
    """Charts of gradients, weights and biases over time."""
    charts = [_magnitudes(record.series.get(name), *words) for name, words in MAGNITUDES.items()]
    return [chart(found) for found in charts if found]


def _magnitudes(value: Any, title: str, note: str) -> Chart | None:
    if not isinstance(value, dict) or not value:
        return None
    lines = [Line(name, *series_of(entry, "abs_mean")) for name, entry in value.items()]
    lines = [line for line in lines if line.x]
    shown = spread(lines, SHOWN_TENSORS)
    if len(shown) < len(lines):
        note += f"; {len(shown)} of {len(lines)} layers, first to last, all are in debugger.json"
    return Chart(title, "step", "mean of absolute values", shown, whole_x=True, note=note)


def spread(lines: Iterable[Line], limit: int) -> list[Line]:
    """At most `limit` of them, evenly spread from the first to the last."""
    found = list(lines)
    if len(found) <= limit:
        return found
    return [found[round(number * (len(found) - 1) / (limit - 1))] for number in range(limit)]
