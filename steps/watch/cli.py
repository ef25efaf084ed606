"""`python -m watch`: judges, follows and reports runs from the command line.

Exit status: 0, 1 where a rule of --fail-on has found something (or a command that `run` started failed), 2 for what
cannot be done as it was asked.
"""

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from watch.files import put
from watch.read.profile import ProfileReader
from watch.read.records import read_file
from watch.read.run import mapping, read_json
from watch.read.source import SERIES, STATUS, Source, SourceError, find

FOLLOW_SECONDS = 2.0
QUIET, FOUND = "NoIssuesFound", "IssuesFound"
wrapped = partial(textwrap.wrap, width=80, subsequent_indent="  ", break_on_hyphens=False)


class UsageError(ValueError):
    """What was asked for cannot be done: one sentence."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = parser().parse_args(words)
    np.seterr(all="ignore")  # infinite values and NaN are what rules look for
    try:
        if arguments.command == "judge":
            return judge(arguments)
        if arguments.command == "run":
            from watch.collect.observation import run_observed

            return run_observed(arguments.words, arguments.out)
        print(written(arguments))
        return 0
    except OSError as problem:
        why = problem.strerror or str(problem)
        print(
            f"{problem.filename or 'A file'} cannot be written ({why}): name another place by --out.", file=sys.stderr
        )
    except (UsageError, SourceError) as problem:
        print(problem, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(prog="python -m watch", description="A debugger for trainings.")
    commands = top.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def command(name: str, does: str) -> Callable[..., argparse.Action]:
        return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.").add_argument

    add = command("run", "run a command with an observer beside it")
    add("--out", type=Path, metavar="DIR", help="the run's folder (watch/<time>)")
    add("words", nargs="+", metavar="-- COMMAND", help="such as: -- python train.py")
    add = command("judge", "judge what a run has saved: smdebug's tensors, SageMaker's profile")
    add("folder", type=Path, help="a run's folder, whoever wrote it; it may still be written")
    add("--profiler", action="store_true", help="judge the machine and the steps' times as well")
    add("--rules", type=Path, metavar="FILE", help="rules of a CreateTrainingJob, JSON or YAML")
    add("--rules-folder", type=Path, metavar="DIR", help="Python files with rules of your own")
    add("--semantics", choices=("watch", "aws"), help="how rules judge (aws with --rules, else watch)")
    add("--fail-on", metavar="RULE,...", default="", help="exit with 1 if one of them has found something")
    add("--follow", action="store_true", help="go on until the run has ended")
    add("--out", type=Path, metavar="DIR", help="where verdicts and report go (watch/judged-<name>)")
    add("--json", action="store_true", help="one JSON document on standard output")
    add = command("report", "write the report of a run that has been judged")
    add("folder", type=Path)
    add("--out", type=Path, metavar="DIR", help="where it goes (<folder>/report)")
    add("--search", type=Path, metavar="FILE", help="the trials of a tuning job, JSON")
    add = command("compare", "show two runs side by side, and how far apart their tensors are")
    add("folders", nargs=2, type=Path, metavar="FOLDER")
    add("--out", type=Path, metavar="DIR", default=Path("watch"), help="where compare.html goes (watch)")
    add = command("export", "hand a run's curves and verdicts to TensorBoard or MLflow")
    add("folder", type=Path)
    add("--tensorboard", type=Path, metavar="DIR", help="write an event file there")
    add("--mlflow", metavar="URI", help="record a run on this tracking server")
    return top


def written(arguments: argparse.Namespace) -> Path | str:
    """Do what `report`, `compare` and `export` do; return where it is found."""
    from watch.report import compare, export, report

    if arguments.command == "compare":
        first, second = arguments.folders
        return compare.compare(first, second, arguments.out)
    if arguments.command == "report":
        search, problem = read_json(arguments.search) if arguments.search else (None, None)
        if problem:
            raise UsageError(f"--search {arguments.search} {problem}; give a JSON document of the search's trials.")
        return report.write_report(arguments.folder, arguments.out, search=search)
    folder = find(arguments.folder).folder
    if bool(arguments.tensorboard) == bool(arguments.mlflow):
        raise UsageError("Say where the run goes: --tensorboard DIR or --mlflow URI.")
    if arguments.tensorboard:
        return export.to_tensorboard(folder, arguments.tensorboard)
    try:
        return export.to_mlflow(folder, arguments.mlflow)
    except ImportError as error:
        raise UsageError("--mlflow needs the package mlflow: pip install mlflow.") from error
    except Exception as error:  # of MLflow, whose exceptions are not imported without it
        raise UsageError(f"{arguments.mlflow} took nothing: {str(error).partition('. ')[0]}.") from error


def judge(arguments: argparse.Namespace) -> int:
    """Judge a run, write the verdicts and the report, print what was found."""
    from watch.report.report import write_report

    source = find(arguments.folder)
    entries, unknown = chosen_rules(arguments, source)
    wanted = [name for name in arguments.fail_on.split(",") if name]
    if strangers := [name for name in wanted if name not in entries]:
        judging = f"these judge it: {', '.join(entries)}"
        raise UsageError(f"--fail-on {', '.join(strangers)}: no such rule judges this run; {judging}.")
    out = arguments.out or Path("watch") / f"judged-{source.folder.name}"
    (out / STATUS).parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {}
    for document, series in documents(source, entries, arguments):
        for name, content in ((STATUS, document), (SERIES, series)):
            put(out / name, json.dumps(content))
        page = write_report(source.folder, out / "report", verdicts=out)
    document |= {"folder": str(arguments.folder), "unknown_rules": unknown, "report": str(page)}
    failed = [rule["name"] for rule in document["rules"] if rule["name"] in wanted and rule["status"] == FOUND]
    has_more = bool(source.profile and source.tensors and not arguments.profiler and not arguments.rules)
    lines = [json.dumps(document, indent=1)] if arguments.json else shown(document, has_more)
    print(*lines, sep="\n")
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
    profile, told = ProfileReader(source.profile) if source.profile else None, dict[str, str]()
    judges, curves = Judges(entries, source.tensors, profile, rules_folder=arguments.rules_folder), Series()
    while True:
        live = not source.finished and (arguments.follow or source.is_live())
        now = time.time()
        for saved, step in judges.new_steps(last=not live):
            curves.add(saved, step)
            now = step.time
        judges.look(time.time() if live else now, last=not live)
        if not live:
            judges.conclude(now)
        detail = next((f"Rules did not see every tensor: {sentence}." for sentence in judges.unreadable), None)
        document = judges.document("running" if live else "finished", detail)
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

    own, with_machine = arguments.rules_folder, arguments.profiler or not source.tensors
    if arguments.rules:
        entries, unknown = from_request(configurations(arguments.rules))
        if not entries and not unknown:
            raise UsageError(f"{arguments.rules} holds no DebugRuleConfigurations or ProfilerRuleConfigurations.")
    else:
        every, unknown = default_entries(own), []
        of_machine = {name for name in every if getattr(load(name, own), "kind", "tensor") == "profiler"}
        entries = {name: entry for name, entry in every.items() if with_machine or name not in of_machine}
    if arguments.semantics:
        entries = {name: {**entry, "semantics": arguments.semantics} for name, entry in entries.items()}
    if wrong := check(entries, own):
        raise UsageError(f"{arguments.rules}: {' '.join(wrong)}")
    return entries, unknown


def configurations(path: Path) -> list[dict[str, Any]]:
    """Return the rule configurations wherever they are in a file, as the API spells them or an SDK's objects."""
    try:
        content = read_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = from_yaml(path, content)
    found: list[dict[str, Any]] = []

    def take(item: dict[str, Any]) -> dict[str, Any]:
        members = {name.replace("_", "").lower(): value for name, value in item.items()}
        if "ruleconfigurationname" in members or "ruleparameters" in members:  # the SDK's objects have a name
            name = members.get("ruleconfigurationname") or members.get("name")
            found.append({"RuleConfigurationName": name, "RuleParameters": members.get("ruleparameters") or {}})
        return item

    json.loads(json.dumps(document, default=str, skipkeys=True), object_hook=take)
    return found


def from_yaml(path: Path, content: bytes) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(f"{path} is not JSON, and PyYAML, which reads YAML, is not installed.") from error
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is neither JSON nor YAML.") from error


def shown(document: Mapping[str, Any], has_more: bool) -> Iterator[str]:
    """Yield what is printed: the diagnosis, what was found, what was not, what could not be judged."""
    for entry in document["diagnosis"]:
        yield from wrapped(f"{entry['severity'].upper()}: {entry['sentence']} {entry['advice']}")
    found = [rule for rule in document["rules"] if rule["status"] == FOUND]
    sound = [rule for rule in document["rules"] if rule["status"] == QUIET and not rule["note"]]
    rest = [rule["name"] for rule in document["rules"] if rule not in found and rule not in sound]
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
    yield from wrapped(f"{judged}{f', {len(rest)} could not be judged: ' if rest else ''}{', '.join(rest)}.")
    if document["unknown_rules"]:
        yield from wrapped(f"Rules that there are not here: {', '.join(document['unknown_rules'])}.")
    yield from wrapped(document["observer"]["detail"] or "")
    if document["observer"]["state"] == "running":
        yield "The run goes on: this is as of now (--follow waits for its end)."
    if has_more:
        yield "There is a profile as well: --profiler judges it."
    yield f"Report  {document['report']}"
