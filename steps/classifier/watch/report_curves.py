"""The sections on learning: loss, accuracy and learning rate by epoch, and magnitudes of gradients and weights."""

from collections.abc import Iterable, Mapping
from typing import Any

from classifier.reports.charts import Chart, Line, chart
from classifier.reports.page import counted, number_text, percent, section
from classifier.watch.training_record import Epoch, Record, series_of

SHOWN_TENSORS = 8
MODES = {"TRAIN": "train", "EVAL": "validation"}
MAGNITUDES = {
    "gradients": ("Gradients", "how strongly a step wants to change them"),
    "weights": ("Weights", "how large they are"),
    "biases": ("Biases", "how large they are"),
}


def learning_section(record: Record) -> str:
    """Curves over epochs, or over steps where there are no epochs."""
    if not record.epochs:
        charts = _step_losses(record.series)
        body = f'<div class="charts">{charts}</div>' if charts else "<p>No epoch was completed.</p>"
        return section("Learning", body, "learning")
    curves = [_loss(record), _accuracy(record), _learning_rate(record), _step_losses(record.series)]
    return section(
        "Learning", f'<p>{_in_words(record)}</p><div class="charts">{"".join(filter(None, curves))}</div>', "learning"
    )


def _in_words(record: Record) -> str:
    best = record.best
    epochs = counted(len(record.epochs), "epoch")
    if best is None:
        return f"{epochs.capitalize()} trained. Which one was kept is not known."
    figures = [
        f"validation accuracy {percent(best.validation_accuracy)}" if best.validation_accuracy is not None else "",
        f"validation loss {number_text(best.validation_loss)}" if best.validation_loss is not None else "",
    ]
    said = " and ".join(filter(None, figures))
    lost = any(epoch.train_loss is None or epoch.validation_loss is None for epoch in record.epochs)
    diverged = " The loss was not a number in some epochs: the training diverged." if lost else ""
    began = record.fine_tuning_from
    stages = f" From epoch {began} on the backbone learned, too: losses before do not compare." if began else ""
    kept = f"the weights of epoch {best.epoch} were kept{f', with {said}' if said else ''}"
    return f"{epochs} trained; {kept}.{stages}{diverged}"


def _loss(record: Record) -> str:
    return _by_epoch(record, "Loss", "loss (cross-entropy)", {"train": "train_loss", "validation": "validation_loss"})


def _accuracy(record: Record) -> str:
    names = {"train": "train_accuracy", "validation": "validation_accuracy"}
    return _by_epoch(record, "Accuracy", "accuracy (%)", names, factor=100.0)


def _learning_rate(record: Record) -> str:
    if all(epoch.lr is None for epoch in record.epochs):
        return ""
    x = [float(epoch.epoch) for epoch in record.epochs]
    line = Line("learning rate", x, [epoch.lr for epoch in record.epochs])
    return chart(Chart("Learning rate", "epoch", "learning rate", [line], whole_x=True, marks=_marks(record)))


def _by_epoch(record: Record, title: str, y_label: str, names: Mapping[str, str], *, factor: float = 1.0) -> str:
    x = [float(epoch.epoch) for epoch in record.epochs]
    lines = [
        Line(name, x, [_scaled(epoch, member, factor) for epoch in record.epochs]) for name, member in names.items()
    ]
    best, ring = record.best, None
    if best and (y := _scaled(best, names["validation"], factor)) is not None:
        ring = (float(best.epoch), y, f"kept epoch, {best.epoch}")
    return chart(Chart(title, "epoch", y_label, lines, best=ring, whole_x=True, marks=_marks(record)))


def _marks(record: Record) -> Mapping[str, float]:
    """Where fine-tuning begins, between two epochs."""
    began = record.fine_tuning_from
    return {"fine-tuning begins": began - 0.5} if began else {}


def _scaled(epoch: Epoch, member: str, factor: float) -> float | None:
    value: float | None = getattr(epoch, member)
    return None if value is None else factor * value


def _step_losses(series: Mapping[str, Any]) -> str:
    """The losses that the debugger saved, step by step."""
    found = series.get("losses")
    if not isinstance(found, dict):
        return ""
    lines = [Line(MODES.get(str(mode), str(mode)), *series_of(entry, "value")) for mode, entry in found.items()]
    lines = [line for line in lines if len(line.x) > 1]
    if not lines:
        return ""
    return chart(Chart("Loss by saved step", "step", "loss (cross-entropy)", lines, whole_x=True))


def magnitudes_section(record: Record) -> str:
    """Gradients, weights and biases over time."""
    charts = [_magnitudes(record.series.get(name), *words) for name, words in MAGNITUDES.items()]
    shown = "".join(filter(None, charts))
    if not shown:
        return section("Gradients and weights", "<p>No magnitudes were recorded.</p>", "magnitudes")
    return section(
        "Gradients and weights",
        "<p>The mean of the absolute values of each layer at each saved step. Gradients that sink to almost nothing, "
        "and values that shoot up, are the two things to look for.</p>"
        f'<div class="charts">{shown}</div>',
        "magnitudes",
    )


def _magnitudes(value: Any, title: str, note: str) -> str:
    if not isinstance(value, dict) or not value:
        return ""
    lines = [Line(name, *series_of(entry, "abs_mean")) for name, entry in value.items()]
    lines = [line for line in lines if line.x]
    shown = spread(lines, SHOWN_TENSORS)
    if len(shown) < len(lines):
        note += f"; {len(shown)} of {len(lines)} layers, first to last, all are in debugger.json"
    return chart(Chart(title, "step", "mean of absolute values", shown, whole_x=True, note=note))


def spread(lines: Iterable[Line], limit: int) -> list[Line]:
    """At most `limit` of them, evenly spread from the first to the last."""
    found = list(lines)
    if len(found) <= limit:
        return found
    return [found[round(number * (len(found) - 1) / (limit - 1))] for number in range(limit)]
