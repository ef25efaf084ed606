"""`python -m watch`: judges, follows and reports runs from the command line.

Exit status: 0, 1 where a rule of --fail-on has found something (or a command that `run` started failed), 2 for what
cannot be done as it was asked.
"""

import argparse
import difflib
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from watch.read.profile import ProfileReader
from watch.read.records import read_file
from watch.read.run import mapping, read_json
from watch.read.source import STATUS, Source, SourceError, find

WIDTH = 80
SERIES = "rules/series.json"
FOLLOW_SECONDS = 2.0
QUIET, FOUND = "NoIssuesFound", "IssuesFound"
REQUEST_KEYS = ("debugruleconfigurations", "profilerruleconfigurations")  # of CreateTrainingJob, in any spelling


class UsageError(ValueError):
    """What was asked for cannot be done: one sentence."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = parser().parse_args(words)
    np.seterr(all="ignore")  # infinite values and NaN are what rules look for
    try:
        return int(arguments.command(arguments))
    except (UsageError, SourceError) as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m watch", description="A debugger for trainings.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], int], does: str) -> Callable[..., argparse.Action]:
        made = commands.add_parser(function.__name__, help=does, description=f"{does[0].upper()}{does[1:]}.")
        made.set_defaults(command=function)
        return made.add_argument

    add = command(run, "run a command with an observer beside it")
    add("--out", type=Path, metavar="DIR", help="the run's folder (watch/<time>)")
    add("words", nargs="+", metavar="-- COMMAND", help="such as: -- python train.py")
    add = command(judge, "judge what a run has saved: smdebug's tensors, SageMaker's profile")
    add("folder", type=Path, help="a run's folder, whoever wrote it; it may still be written")
    add("--profiler", action="store_true", help="judge the machine and the steps' times as well")
    add("--rules", type=Path, metavar="FILE", help="rules of a CreateTrainingJob, JSON or YAML")
    add("--rules-folder", type=Path, metavar="DIR", help="Python files with rules of your own")
    add("--semantics", choices=("watch", "aws"), help="how rules judge (aws with --rules, else watch)")
    add("--fail-on", metavar="RULE,...", default="", help="exit with 1 if one of them has found something")
    add("--follow", action="store_true", help="go on until the run has ended")
    add("--out", type=Path, metavar="DIR", help="where verdicts and report go (watch/judged-<name>)")
    add("--json", action="store_true", help="one JSON document on standard output")
    add = command(report, "write the report of a run that has been judged")
    add("folder", type=Path)
    add("--out", type=Path, metavar="DIR", help="where it goes (<folder>/report)")
    add = command(compare, "show two runs side by side, and how far apart their tensors are")
    add("folders", nargs=2, type=Path, metavar="FOLDER")
    add("--out", type=Path, metavar="DIR", default=Path("watch"), help="where compare.html goes (watch)")
    add = command(export, "hand a run's curves and verdicts to TensorBoard or MLflow")
    add("folder", type=Path)
    add("--tensorboard", type=Path, metavar="DIR", help="write an event file there")
    add("--mlflow", metavar="URI", help="record a run on this tracking server")
    return top


def run(arguments: argparse.Namespace) -> int:
    """Run a command with an observer beside it; its exit status."""
    from watch.collect.observation import run_observed

    return run_observed(arguments.words, arguments.out)


def report(arguments: argparse.Namespace) -> int:
    """Write a run's report."""
    from watch.report.report import write_report

    folder = find(arguments.folder).folder
    print(write_report(folder, arguments.out or folder / "report"))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Write the page of two runs."""
    from watch.report.compare import compare as write_comparison

    first, second = arguments.folders
    print(write_comparison(first, second, arguments.out))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write an event file, or record a run in MLflow."""
    from watch.report.export import to_mlflow, to_tensorboard

    folder = find(arguments.folder).folder
    if not (arguments.tensorboard or arguments.mlflow):
        raise UsageError("Say where the run goes: --tensorboard DIR or --mlflow URI.")
    if arguments.tensorboard:
        print(to_tensorboard(folder, arguments.tensorboard))
    if arguments.mlflow:
        try:
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise UsageError("--mlflow needs the package mlflow: pip install mlflow.") from error
        try:
            print(to_mlflow(folder, arguments.mlflow))
        except MlflowException as error:
            raise UsageError(f"{arguments.mlflow} took nothing: {str(error).partition('. ')[0]}.") from error
    return 0


def judge(arguments: argparse.Namespace) -> int:
    """Judge a run, write the verdicts and the report, print what was found."""
    from watch.report.report import write_report

    source = find(arguments.folder)
    entries, unknown = chosen_rules(arguments, source)
    wanted = [name for name in arguments.fail_on.split(",") if name]
    for name in wanted:
        if name not in entries:
            close = difflib.get_close_matches(name, entries, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" These judge here: {', '.join(entries)}."
            raise UsageError(f"--fail-on {name}: no such rule judges this run.{hint}")
    out = arguments.out or Path("watch") / f"judged-{source.folder.name}"
    document: dict[str, Any] = {}
    for document, series in documents(source, entries, arguments):
        write(out / STATUS, document)
        write(out / SERIES, series)
        page = write_report(source.folder, out / "report", verdicts=out)
    document |= {"folder": str(arguments.folder), "unknown_rules": unknown, "report": str(page)}
    failed = [rule["name"] for rule in document["rules"] if rule["name"] in wanted and rule["status"] == FOUND]
    print(json.dumps(document, indent=1) if arguments.json else "\n".join(shown(document, source, arguments)))
    return 1 if failed else 0


def documents(
    source: Source, entries: Mapping[str, Any], arguments: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield rules/status.json and series.json of a run: once, or with --follow after every look until it has ended."""
    from watch.collect.observer import Series
    from watch.rules.judge import Judges

    if not source.tensors and not source.profile:  # the verdicts of the training's own observer are all there is
        status, series = (mapping(read_json(source.folder / name)[0]) for name in (STATUS, SERIES))
        yield {"rules": [], "diagnosis": [], "observer": {"state": "", "detail": None}} | status, series
        return
    profile = ProfileReader(source.profile) if source.profile else None
    judges, curves = Judges(entries, source.tensors, profile, rules_folder=arguments.rules_folder), Series()
    told: dict[str, str] = {}
    while True:
        live = not source.finished and (arguments.follow or source.is_live())
        now = time.time()
        for saved, step in judges.new_steps(last=not live):
            curves.add(saved, step)
            now = step.time
        judges.look(time.time() if live else now, last=not live)
        if not live:
            judges.conclude(now)
        unread = [f"Rules did not see every tensor: {sentence}." for sentence in judges.unreadable[:1]]
        document = judges.document("running" if live else "finished", " ".join(unread) or None)
        for rule in document["rules"] if arguments.follow and not arguments.json else ():
            if told.setdefault(rule["name"], "InProgress") != rule["status"]:
                told[rule["name"]] = rule["status"]
                print(f"{rule['name']}: {rule['status']}", flush=True)
        yield document, curves.as_json()
        if not live or not arguments.follow:
            return
        time.sleep(FOLLOW_SECONDS)


def chosen_rules(arguments: argparse.Namespace, source: Source) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the entries of the rules that are to judge, and the names of those asked for that there are not."""
    from watch.rules.registry import check, default_entries, from_request, load

    unknown: list[str] = []
    if arguments.rules:
        entries, unknown = from_request(configurations(arguments.rules))
        if not entries and not unknown:
            raise UsageError(f"{arguments.rules} holds no DebugRuleConfigurations or ProfilerRuleConfigurations.")
    else:
        kinds = {"tensor"} | ({"profiler"} if arguments.profiler or not source.tensors else set())
        loaded = {name: load(name, arguments.rules_folder) for name in default_entries(arguments.rules_folder)}
        entries = {name: {} for name, rule in loaded.items() if getattr(rule, "kind", "tensor") in kinds}
    if arguments.semantics:
        entries = {name: {**entry, "semantics": arguments.semantics} for name, entry in entries.items()}
    if wrong := check(entries, arguments.rules_folder):
        raise UsageError(f"{arguments.rules}: {' '.join(wrong)}")
    return entries, unknown


def configurations(path: Path) -> list[dict[str, Any]]:
    """Return the rule configurations of a file: a request, a definition, a list; in the API's or an SDK's spelling."""
    try:
        content = read_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = yaml_document(path, content)
    if isinstance(document, list):
        document = {REQUEST_KEYS[0]: document}
    return [spelled(item) for item in found_configurations(document)]


def yaml_document(path: Path, content: bytes) -> Any:
    """Return what a YAML file holds."""
    try:
        import yaml
    except ImportError as error:
        raise UsageError(f"{path} is not JSON, and PyYAML, which reads YAML, is not installed.") from error
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is neither JSON nor YAML.") from error


def found_configurations(document: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the configurations wherever they are in a document, as in the steps of a pipeline's definition."""
    if isinstance(document, list):
        for item in document:
            yield from found_configurations(item)
    for key, value in document.items() if isinstance(document, dict) else ():
        if plain(key) in REQUEST_KEYS and isinstance(value, list):
            yield from (item for item in value if isinstance(item, dict))
        else:
            yield from found_configurations(value)


def spelled(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return one configuration as the API spells it; the SDK's objects have a name and rule_parameters."""
    members = {plain(key): value for key, value in item.items()}
    name = members.get("ruleconfigurationname") or members.get("name")
    return {"RuleConfigurationName": name, "RuleParameters": members.get("ruleparameters") or {}}


def plain(key: Any) -> str:
    return str(key).replace("_", "").lower()


def shown(document: Mapping[str, Any], source: Source, arguments: argparse.Namespace) -> Iterator[str]:
    """Yield what is printed: the diagnosis, what was found, what was not, what could not be judged."""
    for entry in document["diagnosis"]:
        yield from wrapped(f"{entry['sentence']} {entry['advice']}", f"{entry['severity'].upper()}: ")
    found = [rule for rule in document["rules"] if rule["status"] == FOUND]
    sound = [rule for rule in document["rules"] if rule["status"] == QUIET and not rule["note"]]
    rest = [rule for rule in document["rules"] if rule not in found and rule not in sound]
    if document["diagnosis"] and found:
        yield ""
    for rule in found:
        first, *more = rule["fired"] or [{"sentence": ""}]
        worker = f" ({first['worker']})" if first.get("worker") else ""
        again = f" {len(more)} more times." if more else ""
        yield from wrapped(f"{rule['name']}{worker}: {first['sentence']}{again}")
    if not found:
        yield "No rule has found anything."
    judged = f"{len(sound)} rule{'s are' if len(sound) != 1 else ' is'} sound"
    names = f", {len(rest)} could not be judged: {', '.join(rule['name'] for rule in rest)}" if rest else ""
    yield from wrapped(f"{judged}{names}.")
    if document["unknown_rules"]:
        yield from wrapped(f"Rules that there are not here: {', '.join(document['unknown_rules'])}.")
    if document["observer"]["detail"]:
        yield from wrapped(document["observer"]["detail"])
    if document["observer"]["state"] == "running":
        yield "The run goes on: this is as of now (--follow waits for its end)."
    if source.profile and source.tensors and not arguments.profiler and not arguments.rules:
        yield "There is a profile as well: --profiler judges it."
    if document["report"]:
        yield f"Report  {document['report']}"


def wrapped(text: str, beginning: str = "") -> list[str]:
    """Return a paragraph's lines."""
    return textwrap.wrap(f"{beginning}{' '.join(text.split())}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file of JSON as a whole."""
    from watch.files import whole_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            json.dump(document, file)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}): name another place by --out.") from error
