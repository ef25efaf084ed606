"""Runs of the whole pipeline on this machine, as the benchmarks need them: other settings, a home of their own."""

import argparse
import copy
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "steps"))

from classifier.model.accuracy import accuracy_text  # noqa: E402

PLACED = re.compile(r"\bvalidation_accuracy=([0-9.]+)")


@dataclass(frozen=True)
class Run:
    """One execution that succeeded."""

    status: dict[str, Any]  # what `run --json` printed
    seconds: float  # of the whole command
    processor_seconds: float  # of it and all that it waited for

    @property
    def test_accuracy(self) -> float:
        return float(self.status["metrics"]["test_accuracy"])

    @property
    def validation_accuracy(self) -> float:
        """Of the final training's kept epoch."""
        return float(PLACED.findall(self.log("TrainWithDebugger"))[-1])

    def seconds_of(self, step: str) -> float:
        return float(self._step(step)["seconds"])

    def log(self, step: str) -> str:
        return Path(self._step(step)["log"]).read_text(encoding="utf-8")

    def _step(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(step for step in self.status["steps"] if step["name"] == name)
        return found


class Runs:
    """A home in which the pipeline runs, with pipeline.yaml's settings but for some.

    Args:
        folder: Is empty; holds home and configuration.
        settings: By their path, as `model.dropout`. No accuracy is too low, unless they say so.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.home = folder, folder / "home"
        self._shipped = yaml.safe_load((REPOSITORY / "pipeline.yaml").read_text(encoding="utf-8"))
        self._settings = {"evaluation.accuracy_threshold": 0.0, **settings}

    def run(self, data: Path, *parameters: str, may_fail: bool = False, **settings: Any) -> Run:
        """One execution; `tuning__seed=1` is a setting of this run alone. Ends the program if it fails and must not."""
        config = copy.deepcopy(self._shipped)
        for path, value in {**self._settings, **{k.replace("__", "."): v for k, v in settings.items()}}.items():
            section, _, key = path.partition(".")
            config.setdefault(section, {})[key] = value
        file = self.folder / "pipeline.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        words = ["run", "--data", str(data), "--config", str(file)]
        for parameter in parameters:
            words += ["--param", parameter]
        began, began_processor = time.perf_counter(), children_seconds()
        done = self._command(*words, "--json")
        seconds, processor_seconds = time.perf_counter() - began, children_seconds() - began_processor
        if done.returncode and not (may_fail and done.stdout):
            sys.exit(f"{shlex.join(map(str, done.args))} ended with status {done.returncode}:\n{done.stderr}")
        return Run(json.loads(done.stdout), seconds, processor_seconds)

    @property
    def manifest(self) -> dict[str, Any]:
        """What PrepareData wrote, at the first run."""
        content: dict[str, Any] = json.loads(self._manifest_file.read_text(encoding="utf-8"))
        return content

    @property
    def embeddings(self) -> Path:
        """Where PrepareData wrote them, at the first run."""
        return self._manifest_file.parents[1] / "embeddings"

    @property
    def images(self) -> list[dict[str, Any]]:
        """Every image's source, label and split."""
        lines = self._manifest_file.with_name("images.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def worth(self, split: str, accuracy: float) -> str:
        """An accuracy on one of the splits, with its images and its interval."""
        return accuracy_text(accuracy, sum(self.manifest["counts"][split].values()))

    def examples(self, data: Path, split: str) -> list[tuple[Path, int]]:
        """The original files of a split, with their labels."""
        return [(data / image["source"], image["label"]) for image in self.images if image["split"] == split]

    @property
    def _manifest_file(self) -> Path:
        return min((self.home / "s3").rglob("manifest/manifest.json"), key=lambda found: found.stat().st_mtime)

    def end(self) -> None:
        """Ends the endpoint's server."""
        self._command("teardown", "--yes")

    def _command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(REPOSITORY / "run_pipeline.py"), *words, "--home", str(self.home)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def children_seconds() -> float:
    """Processor time of the processes that have ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def runs(folder: Path, settings: Mapping[str, Any]) -> Iterator[Runs]:
    """A home that ends with the block."""
    found = Runs(folder, settings)
    try:
        yield found
    finally:
        found.end()


def setting(text: str) -> tuple[str, Any]:
    """SECTION.KEY=VALUE on a command line; the value is YAML."""
    path, equals, value = text.partition("=")
    if not equals or path.count(".") != 1:
        raise argparse.ArgumentTypeError(f"must be SECTION.KEY=VALUE, but got {text}")
    return path, yaml.safe_load(value)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The option --set, as `settings`."""
    parser.add_argument(
        "--set",
        dest="settings",
        type=setting,
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="another setting of pipeline.yaml; may be repeated",
    )


def check_least(parser: argparse.ArgumentParser, arguments: argparse.Namespace, **least: int) -> None:
    """Ends the program with a sentence about the first of these arguments that is given and below its least value."""
    for name, bound in least.items():
        given = getattr(arguments, name)
        if given is not None and given < bound:
            parser.error(f"argument --{name.replace('_', '-')}: must be at least {bound}, but got {given}")


def missed(reached: bool) -> str:
    """What follows an aim in a report."""
    return "" if reached else ": MISSED"
