"""Rules by class name: which there are, whether a configuration of them is right, and judges made from one.

An entry of a configuration is the rule's name in reports -> `rule` (the class; default: the name), `action` (none or
stop), `semantics` (watch or aws), and the parameters of the class by their documented names.

A rule is a class at the top of a file in this folder, of a file in a folder of the user's (`rules_folder`), or an entry
point of the group `watch.rules`. Files are read, not imported, until a rule of theirs is used: one of smdebug's kind
costs smdebug's import only then.
"""

import ast
import difflib
import functools
import importlib
import importlib.metadata
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from watch.rules import DEFAULT_RULES
from watch.rules.base import ParameterError
from watch.rules.judge import Capture, Judge, SmdebugJudge

FOLDER = Path(__file__).resolve().parent
FRAME = {"base", "judge", "registry", "diagnosis"}  # hold no rules
GROUP = "watch.rules"
CHOICES = {"action": ("none", "stop"), "semantics": ("watch", "aws")}
SMDEBUG_ARGUMENTS = ("self", "base_trial", "action_str", "other_trials")
NOT_PARAMETERS = {"rule_to_invoke", "action_json", "base_trial", "source_s3_uri"}  # of AWS's RuleParameters
Entry = Mapping[str, Any] | None


class Source(NamedTuple):
    """Where a class is: `smdebug_parameters` of its constructor, if it is a subclass of smdebug's Rule; `trouble` is a
    sentence, if the file cannot even be parsed."""

    module: str
    file: str
    smdebug_parameters: tuple[str, ...] | None = None
    trouble: str | None = None


@functools.cache
def sources(rules_folder: Path | None = None) -> dict[str, Source]:
    """Every rule class by name: ours, those of the folder, and those that installed packages announce."""
    found: dict[str, Source] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        found[point.name] = Source(point.value.partition(":")[0], f"package {point.dist.name if point.dist else ''}")
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in FRAME and path.stem != "__init__":
            found |= _classes(path, f"{__package__}.{path.stem}", f"steps/watch/rules/{path.name}")
    for path in sorted(rules_folder.glob("*.py")) if rules_folder else ():
        found |= _classes(path, path.stem, str(path))
    return found


def load(name: str, rules_folder: Path | None = None) -> Any:
    """The class of a rule. Raises whatever importing its file raises."""
    if rules_folder and str(rules_folder) not in sys.path:
        sys.path.append(str(rules_folder))
    return getattr(importlib.import_module(sources(rules_folder)[name].module), name)


def default_entries(rules_folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The default rules, and the user's own that judge without being told anything."""
    own = [name for name, found in sources(rules_folder).items() if not found.module.startswith(f"{__package__}.")]
    return DEFAULT_RULES | {name: {} for name in own if not check({name: None}, rules_folder)}


def check(entries: Mapping[str, Entry], rules_folder: Path | None = None) -> list[str]:
    """What is wrong with the rules of a configuration: one sentence each."""
    return [sentence for name, entry in entries.items() for sentence in _check_entry(name, entry, rules_folder)]


def make(name: str, entry: Entry, worker: str | None = None, *, rules_folder: Path | None = None) -> Judge:
    """A judge for one entry of a configuration; where its rule cannot be made, one whose verdict is Error."""
    wrong = _check_entry(name, entry, rules_folder)
    settings = dict(entry) if isinstance(entry, Mapping) else {}
    rule_name, action = str(settings.pop("rule", name)), settings.pop("action", "none")
    judge = functools.partial(Judge, name, rule_name, action=action, worker=worker, given=settings)
    if wrong:
        return judge(traceback="\n".join(wrong))
    with Capture() as capture:
        if sources(rules_folder)[rule_name].smdebug_parameters is None:
            return judge(load(rule_name, rules_folder)(**settings))
        settings.pop("semantics", None)
        found = functools.partial(load, rule_name, rules_folder)
        return SmdebugJudge(name, rule_name, None, action, worker, given=settings, load=found)
    return judge(traceback="".join(traceback.format_exception(capture.error)))


def from_request(configurations: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Entries of the DebugRuleConfigurations or ProfilerRuleConfigurations of a CreateTrainingJob, with AWS's
    semantics; and the names of those that we do not have, with the source of a rule of the user's own."""
    entries: dict[str, dict[str, Any]] = {}
    missing = []
    for number, configuration in enumerate(configurations):
        given = dict(configuration.get("RuleParameters") or {})
        rule = str(given.get("rule_to_invoke") or configuration.get("RuleConfigurationName") or "")
        name = str(configuration.get("RuleConfigurationName") or rule or f"rule {number}")
        if "source_s3_uri" in given or rule not in sources():
            missing.append(f"{rule or name} ({given['source_s3_uri']})" if "source_s3_uri" in given else rule or name)
            continue
        known = _parameter_names(rule) if rule == "ProfilerReport" else given  # <Rule>_<parameter>: it runs no others
        parameters = {key: value for key, value in given.items() if key not in NOT_PARAMETERS and key in known}
        entries[name] = {"rule": rule, "semantics": "aws", "action": _action(given.get("action_json")), **parameters}
    return entries, missing


def _action(action_json: Any) -> str:
    """smdebug 1.0.34, rules/action: one object or a list of them, in any case of letters."""
    try:
        found = json.loads(str(action_json or "[]").lower())
    except ValueError:
        return "none"
    actions = found if isinstance(found, list) else [found]
    stops = any(isinstance(action, dict) and action.get("name") == "stoptraining" for action in actions)
    return "stop" if stops else "none"


def _check_entry(name: str, entry: Entry, rules_folder: Path | None) -> list[str]:
    if not isinstance(entry, Mapping | None):
        return [f"Rule '{name}' must be a mapping of parameters, but got {entry!r}."]
    settings = dict(entry or {})
    rule_name = settings.pop("rule", name)
    sentences = [
        f"{key} must be {' or '.join(accepted)}, but got {value!r}."
        for key, accepted in CHOICES.items()
        if (value := settings.pop(key, accepted[0])) not in accepted
    ]
    known = sources(rules_folder)
    if rule_name in known:
        sentences += _check_parameters(rule_name, settings, rules_folder)
    else:
        sentences.append(f"there is no rule class {rule_name!r}.{_hint(rule_name, sorted(known))}")
    return [f"Rule '{name}': {sentence}" for sentence in sentences]


def _check_parameters(rule_name: str, settings: dict[str, Any], rules_folder: Path | None) -> list[str]:
    """Smdebug rules: names only, since their constructors cannot be called without a run."""
    source = sources(rules_folder)[rule_name]
    if source.trouble:
        return [source.trouble]
    with Capture() as capture:
        accepted = _parameter_names(rule_name, rules_folder)
        known = f" Its parameters are {', '.join(accepted)}." if accepted else " It has none."
        unknown = [key for key in settings if key not in accepted]
        if not unknown and source.smdebug_parameters is None:
            load(rule_name, rules_folder)(**settings)
        return [f"{rule_name} has no parameter {key!r}.{_hint(key, accepted) or known}" for key in unknown]
    if isinstance(capture.error, ParameterError):
        return capture.error.sentences
    return [f"{source.file} cannot be used ({type(capture.error).__name__}: {capture.error})."]


def _parameter_names(rule_name: str, rules_folder: Path | None = None) -> list[str]:
    found = sources(rules_folder)[rule_name].smdebug_parameters
    return list(load(rule_name, rules_folder).parameter_names() if found is None else found)


def _hint(word: Any, accepted: list[str]) -> str:
    close = difflib.get_close_matches(str(word), accepted, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _classes(path: Path, module: str, file: str) -> dict[str, Source]:
    """Classes at the top of a file that descend from a rule's base class, of ours or of smdebug's."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        name = "".join(word.title() for word in path.stem.split("_"))
        return {name: Source(module, file, trouble=f"{file}, line {error.lineno}, is not Python: {error.msg}.")}
    packages: dict[str, str] = {}  # name in the module -> the top package it comes from
    found: dict[str, Source] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                origin = alias.name if isinstance(node, ast.Import) else str(node.module)
                packages[alias.asname or alias.name.partition(".")[0]] = origin.partition(".")[0]
        elif isinstance(node, ast.ClassDef):
            bases = {name.id for base in node.bases for name in ast.walk(base) if isinstance(name, ast.Name)}
            tops = {packages.get(base) for base in bases}
            if "smdebug" in tops:
                found[node.name] = Source(module, file, _constructor_parameters(node))
            elif "watch" in tops:
                found[node.name] = Source(module, file)
            elif known := [base for base in found if base in bases]:
                found[node.name] = found[known[0]]
    return {name: source for name, source in found.items() if not name.startswith("_")}


def _constructor_parameters(node: ast.ClassDef) -> tuple[str, ...]:
    made = [item.args for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
    arguments = [argument.arg for args in made for argument in (*args.args, *args.kwonlyargs)]
    return tuple(name for name in arguments if name not in SMDEBUG_ARGUMENTS)
