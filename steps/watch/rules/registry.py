"""Rules by class name: which there are, whether a configuration of them is right, and judges made from one.

A rule is a class at the top of a file in this folder; adding a file adds a rule. Classes are found by reading the
files, not by importing them, so that a file of smdebug rules costs smdebug's import only where it is used.
"""

import ast
import difflib
import functools
import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watch.rules.judge import Capture, Judge
from watch.rules.parameters import ParameterError, parameter_names
from watch.rules.smdebug_rule import SmdebugJudge

FOLDER = Path(__file__).resolve().parent
FRAME = {"base", "gpu_rule", "selection", "smdebug_rule"}  # files with classes that are no rules
ACTIONS = ("none", "stop")
SMDEBUG_ARGUMENTS = ("self", "base_trial", "action_str", "other_trials")
Entry = Mapping[str, Any] | None


@dataclass(frozen=True)
class Source:
    """Where a class is.

    Args:
        smdebug_parameters: Of its constructor, if it is a subclass of smdebug's Rule; else None.
        trouble: A sentence, if the file cannot even be parsed.
    """

    module: str
    file: str
    smdebug_parameters: tuple[str, ...] | None
    trouble: str | None = None


@functools.cache
def sources() -> dict[str, Source]:
    """Every rule class below this folder, by name."""
    found: dict[str, Source] = {}
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in FRAME:
            found.update(_classes(path))
    return found


def load(name: str) -> Any:
    """The class of a rule. Raises whatever importing its file raises."""
    return getattr(importlib.import_module(sources()[name].module), name)


def check(entries: Mapping[str, Entry]) -> list[str]:
    """What is wrong with the rules of a configuration: one sentence each.

    Args:
        entries: By the rule's name in reports: `rule` (the class; default: the name), `action` (none or stop), and the
            parameters of the class by their documented names.
    """
    return [sentence for name, entry in entries.items() for sentence in _check_entry(name, entry)]


def make(name: str, entry: Entry) -> Judge:
    """A judge for one entry of a configuration; where its rule cannot be made, one whose verdict is Error."""
    wrong = _check_entry(name, entry)
    settings = dict(entry) if isinstance(entry, Mapping) else {}
    rule_name, action = str(settings.pop("rule", name)), settings.pop("action", "none")
    with Capture() as capture:
        if wrong:
            return Judge(name, rule_name, None, action=action, given=settings, traceback="\n".join(wrong))
        source = sources()[rule_name]
        if source.smdebug_parameters is not None:
            return SmdebugJudge(name, rule_name, None, action=action, given=settings, module=source.module)
        return Judge(name, rule_name, load(rule_name)(**settings), action=action)
    text = "".join(traceback.format_exception(capture.error))
    return Judge(name, rule_name, None, action=action, given=settings, traceback=text)


def _check_entry(name: str, entry: Entry) -> list[str]:
    if not isinstance(entry, Mapping | None):
        return [f"Rule '{name}' must be a mapping of parameters, but got {entry!r}."]
    settings = dict(entry or {})
    rule_name, action = settings.pop("rule", name), settings.pop("action", "none")
    sentences = []
    if action not in ACTIONS:
        sentences.append(f"action must be none or stop, but got {action!r}.")
    if rule_name in sources():
        sentences += _check_parameters(rule_name, settings)
    else:
        sentences.append(f"there is no rule class {rule_name!r}.{_hint(rule_name, sorted(sources()))}")
    return [f"Rule '{name}': {sentence}" for sentence in sentences]


def _check_parameters(rule_name: str, settings: dict[str, Any]) -> list[str]:
    """Smdebug rules: names only, since their constructors cannot be called without a run."""
    source = sources()[rule_name]
    if source.trouble:
        return [source.trouble]
    if source.smdebug_parameters is not None:
        return _unknown(rule_name, settings, list(source.smdebug_parameters))
    with Capture() as capture:
        rule = load(rule_name)
        unknown = _unknown(rule_name, settings, parameter_names(rule))
        if not unknown:
            rule(**settings)
        return unknown
    if isinstance(capture.error, ParameterError):
        return capture.error.sentences
    return [f"{source.file} cannot be used ({type(capture.error).__name__}: {capture.error})."]


def _unknown(rule_name: str, settings: dict[str, Any], accepted: list[str]) -> list[str]:
    known = f"Its parameters are {', '.join(accepted)}." if accepted else "It has none."
    return [
        f"{rule_name} has no parameter {key!r}.{_hint(key, accepted) or ' ' + known}"
        for key in settings
        if key not in accepted
    ]


def _hint(word: Any, accepted: list[str]) -> str:
    close = difflib.get_close_matches(str(word), accepted, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _classes(path: Path) -> dict[str, Source]:
    """Classes at the top of a file that descend from a rule's base class, of ours or of smdebug's."""
    module, file = f"{__package__}.{path.stem}", f"steps/watch/rules/{path.name}"
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        name = "".join(word.title() for word in path.stem.split("_"))
        return {name: Source(module, file, None, f"{file}, line {error.lineno}, is not Python: {error.msg}.")}
    packages = _imported_packages(tree)
    found: dict[str, Source] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = {name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)}
            if any(packages.get(base) == "smdebug" for base in bases):
                found[node.name] = Source(module, file, _constructor_parameters(node))
            elif any(packages.get(base) == "watch" for base in bases):
                found[node.name] = Source(module, file, None)
            elif bases & found.keys():
                found[node.name] = found[next(base for base in found if base in bases)]
    return found


def _imported_packages(tree: ast.Module) -> dict[str, str]:
    """Name in the module -> the top package it comes from."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: (node.module or "").partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package = alias.name.partition(".")[0]
                found[alias.asname or package] = package
    return found


def _constructor_parameters(node: ast.ClassDef) -> tuple[str, ...]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.args, *item.args.kwonlyargs]
            return tuple(argument.arg for argument in arguments if argument.arg not in SMDEBUG_ARGUMENTS)
    return ()
