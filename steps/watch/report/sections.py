"""The sections below the verdicts: curves, where the time goes, the machine, operators, own panels, the search."""

import base64
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from watch.read.profile import Floats, ProfileReader
from watch.read.run import Record, items, mapping, number, series_of, text, whole
from watch.report.charts import LOG_FROM_RATIO, Chart, Line, histogram
from watch.report.page import number_text

SHOWN_TENSORS, SHOWN_PHASES, SHOWN_CATEGORIES = 8, 7, 12
MODES = {"TRAIN": "training", "EVAL": "validation"}
TRAINING_MODES = ("TRAIN", "GLOBAL")
SHOWN_CURVES = ("loss", "accuracy", "lr")  # of the epochs; others are folded
PARAMETERS = {"gradients": "what a step wants to change", "weights": "their size", "biases": "their size"}
TIME_BINS = 240  # over the whole run
TIME_UNITS = ((3 * 3600.0, 3600.0, "hours"), (5 * 60.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
PERCENT, FROM_0 = (0.0, 100.0), (0.0,)
MACHINE: Any = (  # title, unit, ends of the axis, curves: label, quantity of the profile, how devices become one
    ("Processor", "%", PERCENT, (("mean of all cores", "CPUUtilization", np.nanmean),
     ("busiest core", "CPUUtilization", np.nanmax), ("waiting for disk", "I/OWaitPercentage", np.nanmean))),
    ("Memory", "%", PERCENT, (("used", "MemoryUsedPercent", np.nanmax),)),
    ("GPU", "%", PERCENT, (("mean of all GPUs", "GPUUtilization", np.nanmean),
     ("least busy GPU", "GPUUtilization", np.nanmin))),
    ("GPU memory", "%", PERCENT, (("fullest GPU", "GPUMemoryUtilization", np.nanmax),)),
    ("Disk", "B/s", FROM_0, (("read", "ReadThroughputInBytesPerSecond", np.nansum),
     ("written", "WriteThroughputInBytesPerSecond", np.nansum))),
    ("Network", "B/s", FROM_0, (("received", "ReceiveBytesPerSecond", np.nansum),
     ("sent", "TransmitBytesPerSecond", np.nansum))),
    ("Training process: processor", "% of a core", FROM_0, (("processor time", "ProcessCPUUtilization", np.nansum),)),
    ("Training process: memory", "B", FROM_0, (("memory", "ProcessMemoryBytes", np.nansum),)),
)  # fmt: skip
OF_SEVERAL = ("busiest core", "least busy GPU")  # which of one device are that device
PANELS, PANEL_BYTES = 24, 4 << 20  # how many are shown, and the largest


def learning(record: Record) -> tuple[int, int | None, int | None, list[Chart], list[Chart]]:
    """Return the number of epochs, the kept one, the first of a learning backbone, charts, and folded charts."""
    epochs = [mapping(entry) for entry in items(record.history.get("epochs"))]
    x = [number(epoch.get("epoch")) or float(place) for place, epoch in enumerate(epochs, start=1)]
    best, began = whole(record.history.get("best_epoch")), whole(record.history.get("fine_tuning_from_epoch"))
    marks = {"fine-tuning begins": began - 0.5} if began in x and began else {}
    figures: dict[str, list[str]] = {}
    for name in dict.fromkeys(itertools.chain(*epochs)):
        if name not in ("epoch", "seconds") and any(isinstance(epoch.get(name), int | float) for epoch in epochs):
            figures.setdefault(re.sub("^(train|validation)_", "", name), []).append(name)
    shown, folded = list[Chart](), list[Chart]()
    for stem, names in figures.items():
        factor, unit = (100.0, " (%)") if stem == "accuracy" else (1.0, "")
        columns = ([number(epoch.get(name)) for epoch in epochs] for name in names)
        scaled = ([None if y is None else factor * y for y in column] for column in columns)
        lines = [Line(name.removesuffix(f"_{stem}"), x, y) for name, y in zip(names, scaled, strict=True)]
        y = dict(zip(x, lines[-1].y, strict=True)).get(best or 0.0)
        ring = None if y is None or not best or len(lines) < 2 else (float(best), y, f"kept epoch, {best}")
        title = "learning rate" if stem == "lr" else stem.replace("_", " ")
        drawn = Chart(title.capitalize(), "epoch", title + unit, lines, best=ring, whole_x=True, marks=marks)
        (shown if stem in SHOWN_CURVES else folded).append(drawn)
    folded += losses({"loss": record})
    shown, folded = (shown, folded) if shown else (folded, [])
    return len(epochs), best if best in x else None, began if marks else None, shown, folded


def losses(runs: Mapping[str, Record]) -> Iterator[Chart]:
    """Yield the losses that were saved, one chart a mode with a line of each run."""
    for mode, name in MODES.items():
        saved = {
            run: series_of(mapping(record.series.get("losses")).get(mode), "value") for run, record in runs.items()
        }
        if any(len(x) > 1 for x, _ in saved.values()):
            lines = [Line(run, *points) for run, points in saved.items()]
            yield Chart(f"Loss by saved {name} step", f"{name} step", "loss", lines, whole_x=True)


def magnitudes(record: Record) -> Iterator[Chart]:
    """Yield charts of gradients, weights and biases by step: of many layers some, from the first to the last."""
    for collection, note in PARAMETERS.items():
        entries = mapping(record.series.get(collection)).items()
        lines = [line for name, entry in entries if (line := Line(name, *series_of(entry, "abs_mean"))).x]
        if len(lines) > SHOWN_TENSORS:
            note += f"; {SHOWN_TENSORS} of {len(lines)} layers, first to last, all are in debugger.json"
            lines = [lines[place] for place in np.linspace(0, len(lines) - 1, SHOWN_TENSORS).round().astype(int)]
        if lines:
            yield Chart(collection.capitalize(), "step", "mean of absolute values", lines, whole_x=True, note=note)


def durations(profile: ProfileReader, modes: Sequence[str] = TRAINING_MODES) -> list[float]:
    """Return the seconds of every step in the trace; that of a long training holds every second, fourth ... one."""
    return [seconds for mode, found in profile.timed_steps().items() if mode in modes for seconds in found[1].tolist()]


def step_times(profile: ProfileReader) -> dict[str, Any]:
    """Return how many training steps there were, in the trace and in all, and their durations in seconds."""
    found = durations(profile)
    median, p95, longest = np.percentile(found, [50, 95, 100]).tolist() if found else (None, None, None)
    count = sum(count for mode, (count, _) in profile.step_totals().items() if mode in TRAINING_MODES)
    seconds = {"median_seconds": median, "p95_seconds": p95, "longest_seconds": longest}
    return {"count": count, "traced": len(found), **seconds}


def phases(profile: ProfileReader) -> dict[str, float]:
    """Return total seconds by phase, the longest first; the time of steps that no phase covers is `Other`."""
    steps = sum(seconds for _, seconds in profile.step_totals().values())
    ordered = {
        re.sub(r"[_ ]+|(?<=[a-z])(?=[A-Z])", " ", name).strip().capitalize(): seconds
        for name, seconds in sorted(profile.phases().items(), key=lambda item: -item[1])
    }
    shown = dict(itertools.islice(ordered.items(), SHOWN_PHASES))
    rest = sum(ordered.values()) - sum(shown.values()) + max(0.0, steps - sum(ordered.values()))
    small = rest <= 0.001 * (sum(ordered.values()) + steps)
    return shown if small else {**shown, "Other": shown.get("Other", 0.0) + rest}


def duration_charts(profile: ProfileReader) -> Iterator[Chart]:
    """Yield how many training steps took how long, and each step's duration; each mode counts steps of its own."""
    for modes, name in ((TRAINING_MODES, "training"), (("EVAL",), "validation")):
        found = [seconds * 1e3 for seconds in durations(profile, modes)]
        if found and name == "training":
            outline, title = histogram("steps", found), "Duration of training steps"
            yield Chart(title, "duration (ms)", "steps", [outline], y_limits=FROM_0, log_y=False)
        if found:
            line, label = Line(name, [float(n + 1) for n in range(len(found))], found), f"{name} step in the trace"
            yield Chart(f"Duration of each {name} step", label, "duration (ms)", [line], whole_x=True)


def utilisation(profile: ProfileReader) -> Iterator[dict[str, Any]]:
    """Yield the figures of each quantity over the run, all its devices together; of several nodes for each node."""
    for title, unit, _, curves in MACHINE:
        for label, quantity, _ in (curve for curve in curves if curve[0] not in OF_SEVERAL):
            by_node: dict[str, list[Floats]] = {}
            for device, (_, values) in profile.samples(quantity).items():
                by_node.setdefault(device.rpartition("/")[0], []).append(values)
            for node, devices in sorted(by_node.items()):
                values = np.concatenate(devices)
                shares = dict(zip(("p50", "p95", "p99"), np.percentile(values, [50, 95, 99]).tolist(), strict=True))
                name = title if label.startswith(("mean", "fullest")) or len(curves) == 1 else f"{title}: {label}"
                about = {"name": name, "node": node, "quantity": quantity, "devices": len(devices), "unit": unit}
                yield {**about, "figures": {"mean": float(values.mean()), **shares, "max": float(values.max())}}


def machine_charts(profile: ProfileReader) -> Iterator[Chart]:
    """Yield each resource over time: the devices' means, in each of equal parts of it, made one."""
    samples = {name: list(profile.samples(name).values()) for *_, curves in MACHINE for _, name, _ in curves}
    ends = [end for devices in samples.values() for times, _ in devices for end in (times[0], times[-1])] or [0.0]
    edges = np.linspace(min(ends), max(ends) + 1e-3, TIME_BINS + 1)
    unit_seconds, unit_name = next((size, name) for least, size, name in TIME_UNITS if np.ptp(ends) >= least)
    for title, unit, limits, curves in MACHINE:
        found: dict[str, tuple[list[float], list[float]]] = {}
        for label, quantity, combine in curves:
            devices = samples[quantity]
            if len(devices) > 1 or (devices and label not in OF_SEVERAL):
                sums = np.array([np.histogram(at, edges, weights=values)[0] for at, values in devices])
                counts = np.array([np.histogram(at, edges)[0] for at, _ in devices])
                known = counts.any(axis=0)
                means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)[:, known]
                seconds = edges[:-1][known] - edges[0]
                found[label] = (seconds / unit_seconds).tolist(), combine(means, axis=0).tolist()
        if found:
            size, multiple = multiple_of(unit, max(max(y) for _, y in found.values()))
            lines = [Line(label, x, [value / size for value in y]) for label, (x, y) in found.items()]
            x_label = f"time since the start ({unit_name})"
            yield Chart(title, x_label, multiple, lines, y_limits=limits, log_y=False)


def multiple_of(unit: str, largest: float) -> tuple[float, str]:
    """Return the multiple of a byte in which the largest value is at least 1, and its name; of other units 1."""
    if not unit.startswith("B"):
        return 1.0, unit
    size, name = next((found for found in BYTE_UNITS if largest >= found[0]), BYTE_UNITS[-1])
    return size, unit.replace("B", name)


def operators(document: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Return name, calls and own seconds of the operators of the processor or the GPU, the heaviest first."""
    member = "self_cpu_us" if text(document.get("device"), "cpu") == "cpu" else "self_device_us"
    found = [
        (text(entry.get("name"), "?"), int(number(entry.get("calls")) or 0), (number(entry.get(member)) or 0) / 1e6)
        for entry in map(mapping, items(document.get("operators")))
    ]
    return sorted(found, key=lambda operator: -operator[2])


def panels(paths: Sequence[Path]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the pages and pictures that the training script wrote into panels/, and the names of those left out."""
    shown: dict[str, dict[str, str]] = {}
    for path in paths:
        if len(shown) < PANELS and not path.is_symlink() and path.stat().st_size <= PANEL_BYTES:
            content = path.read_bytes()
            png = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            kind, value = ("png", png) if path.suffix == ".png" else ("html", content.decode(errors="replace"))
            shown[text(path.name)] = {kind: value}
    return shown, [text(path.name) for path in paths if text(path.name) not in shown]


def search(document: Any) -> dict[str, Any] | None:
    """Return the trials of a search, best first, and plots of the objective; None without trials."""
    found, trials = mapping(document), list[dict[str, Any]]()
    for place, entry in enumerate(map(mapping, items(found.get("trials"))), start=1):
        values = {str(name): str(value) for name, value in mapping(entry.get("hyperparameters")).items()}
        trials.append({
            "place": place, "name": text(entry.get("name")), "status": text(entry.get("status")), "values": values,
            "objective": number(entry.get("objective")), "seconds": number(entry.get("seconds")),
            "winner": entry.get("winner") is True,
        })  # fmt: skip
    if not trials:
        return None
    metric, lowest = text(found.get("objective_metric")) or "objective", found.get("objective_type") == "Minimize"
    names = sorted({name for one in trials for name in one["values"]})
    trials.sort(
        key=lambda one: (not one["winner"], one["objective"] is None, (one["objective"] or 0) * (-1, 1)[lowest])
    )
    found = {"strategy": text(found.get("strategy")) or "unknown strategy", "metric": metric, "lowest": lowest}
    return {**found, "names": names, "trials": trials, "charts": [objective_by(name, trials, metric) for name in names]}


def objective_by(name: str, trials: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """Return the objective over one hyperparameter: by name where it is words, or a few numbers again and again."""
    measured = [one for one in trials if one["objective"] is not None and name in one["values"]]
    values = {found: as_number(found) for one in measured if (found := one["values"][name])}
    categories = sorted(values)[:SHOWN_CATEGORIES] if None in values.values() else []
    if not categories and len(values) <= 5 and 2 * len(values) <= len(measured):
        categories = sorted(values, key=lambda found: values[found] or 0.0)
    if categories:
        values = {found: float(place) for place, found in enumerate(categories)}
    dots = [(at, one) for one in measured if (at := values.get(one["values"][name])) is not None]
    x, objectives = [at for at, _ in dots], [one["objective"] for _, one in dots]
    said = (", ".join(f"{key} {rounded(value)}" for key, value in one["values"].items()) for _, one in dots)
    titles = [f"{words}: {metric} {number_text(y)}" for words, y in zip(said, objectives, strict=True)]
    return Chart(
        name, name, metric, [Line("trials", x, objectives, "dots", titles)],
        best=next(((at, one["objective"], "winner") for at, one in dots if one["winner"]), None),
        log_y=False,
        log_x=not categories and bool(x) and min(x) > 0 and max(x) / min(x) >= LOG_FROM_RATIO / 2,
        whole_x=not categories and all(value.is_integer() for value in x),
        categories=categories,
    )  # fmt: skip


def rounded(value: str) -> str:
    """Write a hyperparameter's value; of a number four digits say enough."""
    found = as_number(value)
    return value if found is None else number_text(found).replace(",", "")


def as_number(value: str) -> float | None:
    try:
        return number(float(value))
    except ValueError:
        return None
