"""A run's curves and verdicts for other tools: TensorBoard and MLflow."""

import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from watch.files import whole_file
from watch.read.records import encode_scalar, version_record
from watch.read.run import Record, items, mapping, number, read_record, series_of
from watch.report.report import headline, write_report

UNTAKEN = re.compile(r"[^\w\-. /]")  # characters of a name that MLflow does not take
VERDICTS = {"NoIssuesFound": 0.0, "IssuesFound": 1.0}  # any other is -1


def to_tensorboard(folder: Path, out: Path) -> Path:
    """Write a run's scalars as an event file into `out`, and return its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"events.out.tfevents.{time.time():.0f}.watch"
    with whole_file(path, "wb") as file:
        file.write(version_record())
        for name, step, value in scalars(read_record(folder)):
            file.write(encode_scalar(name, value, step=step))
    return path


def to_mlflow(folder: Path, uri: str) -> str:
    """Record a run with facts, scalars, the diagnosis and the report on an MLflow server; return the run's id."""
    import mlflow

    record = read_record(folder)
    head, client = headline(record), mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("watch")
    run = client.create_run(found.experiment_id if found else client.create_experiment("watch")).info.run_id
    now = int(1000 * time.time())
    values = [mlflow.entities.Metric(UNTAKEN.sub("_", name), value, now, step) for name, step, value in scalars(record)]
    for start in range(0, len(values), 1000):  # MLflow's REST API takes no more at once
        client.log_batch(run, metrics=values[start : start + 1000])
    for name, fact in head["facts"].items():
        client.log_param(run, UNTAKEN.sub("_", name), fact[:500])
    for name, value in (("outcome", head["ended"]), ("diagnosis", head["title"])):
        client.set_tag(run, name, value)
    with tempfile.TemporaryDirectory() as scratch:
        client.log_artifacts(run, str(write_report(folder, Path(scratch)).parent), "report")
    client.set_terminated(run, "FAILED" if head["ended"] == "Failed" else "FINISHED")
    return str(run)


def scalars(record: Record) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value of what changes over a run, and each rule's verdict: 0, 1, or -1 if there is none."""
    for collection, entries in record.series.items():
        for name, entry in mapping(entries).items():
            member = "value" if collection == "losses" else "abs_mean"
            for step, value in zip(*series_of(entry, member), strict=True):
                yield f"{collection}/{name}", int(step), math.nan if value is None else value
    for place, epoch in enumerate(map(mapping, items(record.history.get("epochs"))), start=1):
        for name, value in epoch.items():
            if name != "epoch" and (known := number(value)) is not None:
                yield f"epoch/{name}", int(number(epoch.get("epoch")) or place), known
    for rule in record.rules:
        yield f"rule/{rule['name']}", 0, VERDICTS.get(rule["status"], -1.0)
