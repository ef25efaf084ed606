"""debugger.html and debugger.json: how a training went, what the rules found, and what the machine did meanwhile.

    python training_report.py --output-dir /opt/ml/output/data --report-dir report [--search search.json]

The training job writes it at its end; `run_pipeline.py report` writes it again with the search. It is made of files
alone, and each of them may be missing or damaged: the report then says so. Nothing slow is imported.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from classifier.job.failures import ArgumentParser, StepError, run, say
from watch.files import whole_file
from watch.read.profile_figures import Profile
from watch.read.run import Record, read_record
from watch.read.values import items, plain, read_json, text
from watch.report.curves import learning, magnitudes
from watch.report.headline import headline, outcome, trained
from watch.report.machine import machine
from watch.report.operators import operators
from watch.report.page import render
from watch.report.rules import rules
from watch.report.search import Search, read_search, shown_search
from watch.report.time import phases_of_a_step, quantile, time, training_durations, training_steps

HTML_NAME, JSON_NAME = "debugger.html", "debugger.json"


def main() -> None:
    arguments = parse_arguments()
    output_dir = Path(arguments.output_dir)
    if not output_dir.is_dir():
        raise StepError(f"--output-dir {output_dir} is no directory; give the one that the training job wrote.")
    search = None
    if arguments.search:
        document, problem = read_json(Path(arguments.search))
        if problem:
            raise StepError(f"--search {arguments.search} {problem}; give a JSON document of the search's trials.")
        search = read_search(document)
    say(str(write_report(output_dir, Path(arguments.report_dir), search=search)))


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="the training job's output data")
    parser.add_argument("--report-dir", required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--search", metavar="FILE", help="the tuning job's trials (JSON)")
    return parser.parse_args()


def write_report(output_dir: Path, report_dir: Path, *, search: Search | None = None) -> Path:
    """Read what the training left, write both files.

    Args:
        output_dir: holds history.json, rules/ and profile/; any of them may be missing or damaged.
        report_dir: made if need be; debugger.html and debugger.json appear whole or not at all.
        search: the trials that the hyperparameters come from.

    Returns:
        The path of debugger.html.

    Raises:
        OSError: the report cannot be written.
    """
    record = read_record(output_dir)
    report_dir.mkdir(parents=True, exist_ok=True)
    _write(report_dir / HTML_NAME, html(record, search))
    _write(report_dir / JSON_NAME, json.dumps(document_of(record, search), allow_nan=False) + "\n")
    return report_dir / HTML_NAME


def html(record: Record, search: Search | None) -> str:
    """The whole page."""
    return render(
        "watch/report/report.html",
        title=f"Training report: {outcome(record)}",
        **headline(record),
        **rules(record),
        **learning(record),
        magnitudes=magnitudes(record),
        **time(record),
        **machine(record),
        **operators(record),
        search=shown_search(search),
        **trained(record),
    )


def document_of(record: Record, search: Search | None) -> dict[str, Any]:
    """The same as JSON; what is not known is null or empty."""
    history = record.history
    document = {
        "schema_version": 1,
        **{name: history.get(name) for name in ("job_name", "outcome", "reason", "ended_early", "started", "ended")},
        "headline": outcome(record),
        "warnings": items(history.get("warnings")),
        "seconds": record.seconds,
        **{name: history.get(name) for name in ("backbone", "hyperparameters", "classes", "counts", "best_epoch")},
        "steps_per_epoch": history.get("steps_per_epoch"),
        "fine_tuning_from_epoch": record.fine_tuning_from,
        "epochs": [vars(epoch) for epoch in record.epochs],
        "rules": [{**vars(rule), "fired": [vars(firing) for firing in rule.fired]} for rule in record.rules],
        "observer": record.observer,
        "series": record.series,
        "profile": _profile(record.profile),
        "operators": record.operators,
        "search": search.to_dict() if search else None,
        "missing": list(record.missing),
    }
    return dict(plain(document))


def _profile(profile: Profile) -> dict[str, Any]:
    """Times in seconds; utilisation in the unit of each quantity's name."""
    durations = training_durations(profile)
    return {
        "phases_seconds": phases_of_a_step(profile),
        "steps": {
            "count": training_steps(profile),
            "median_seconds": statistics.median(durations) if durations else None,
            "p95_seconds": quantile(durations, 0.95) if durations else None,
            "longest_seconds": max(durations, default=None),
        },
        "utilisation": {
            name: {
                "devices": len(found),
                "mean": statistics.fmean(value for samples in found.values() for value in samples.values),
                "max": max(value for samples in found.values() for value in samples.values),
            }
            for name, found in profile.samples.items()
        },
    }


def _write(path: Path, content: str) -> None:
    with whole_file(path, "wb") as file:
        file.write(text(content).encode())


if __name__ == "__main__":
    sys.exit(run(main))
