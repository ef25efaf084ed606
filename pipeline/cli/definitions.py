"""`definition` and `validate`, and `run --definition`, which runs any compiled definition on the local target."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cli.call import Call
from pipeline.cli.output import print_json
from pipeline.errors import DefinitionError, ParameterError, ProblemList, UsageError
from pipeline.service import executions
from pipeline.service.inputs import parse_lambda, parse_parameter, read_definition

USUAL_PARALLEL_STEPS = 50
NAMING = (("Metadata", "PipelineName"), ("PipelineExperimentConfig", "ExperimentName"))  # of a definition
NAME_CHARACTERS = 200


def definition(call: Call) -> int:
    """Print the definition JSON."""
    from pipeline.service.staging import definition_of

    print(definition_of(call.open_project(), call.placement()))
    return 0


def validate(call: Call, definition: Path | None = None) -> int:
    """Check pipeline.yaml and the compiled definition, or a given one."""
    from pipeline.definition.check import check
    from pipeline.service.staging import definition_of

    try:
        if definition is None:
            definition_of(call.open_project(), call.placement())
        else:
            content = json.loads(read_definition(definition))
            problems = check(content)
            if call.target == "local":
                from pipeline.local.checks.definition import refusals

                problems += refusals(content)
            if problems:
                raise DefinitionError(list(dict.fromkeys(problems)))
    except ProblemList as wrong:
        if not call.as_json:
            raise
        print_json({"valid": False, "problems": wrong.problems})
        return 2
    if call.as_json:
        return print_json({"valid": True, "problems": []})
    print(f"{definition or call.config_file}: no problem found.")
    return 0


@dataclass(frozen=True)
class Given:
    """The options of a given definition, and the parameters' values."""

    definition: Path | None = None
    functions: list[str] | None = None
    parallel: int | None = None
    name: str | None = None


def start_definition(call: Call, file: Path, given: Given, param: list[str], choose_steps: Any) -> tuple[Any, str]:
    """Create or update the definition's pipeline and start it; return the target and the execution's ARN."""
    from pipeline.local.jobs.functions import put_function
    from pipeline.service.local_target import LocalTarget

    if call.target != "local":
        raise UsageError("--definition runs on the local target only; use it without --target aws.")
    text = read_definition(file)
    place, content = str(file.resolve()), json.loads(text)
    functions, parameters = list(map(parse_lambda, given.functions or ())), dict(map(parse_parameter, param))
    target = LocalTarget(None, call.home, cache=call.cache, tied=True)
    with target.alone():
        call.pipeline = name = given.name or pipeline_name(target, content, place)
        for function in functions:
            put_function(target.state, *function)
        refuse_what_cannot_run(target, content, parameters)
        parallel_steps = given.parallel or USUAL_PARALLEL_STEPS
        what = executions.upsert(target, name=name, definition=text, description=place, parallel_steps=parallel_steps)
        print(f"Pipeline {name} {what}.", file=sys.stderr)
        return target, executions.start(target, name, parameters, choose_steps(target, name, text))


def pipeline_name(target: Any, content: dict[str, Any], place: str) -> str:
    """Return the name that a definition gives itself, else its file's, with a digest if another file has that.

    So definitions that have nothing to do with each other do not share a pipeline, its cache and its executions.
    """
    for section, member in NAMING:
        around = content.get(section)
        if isinstance(around, dict) and isinstance(name := around.get(member), str):
            return as_name(name)
    name = as_name(Path(place).stem)
    known = executions.existing(target.client("sagemaker"), name)
    is_taken = known is not None and known.get("PipelineDescription") != place
    return f"{name[:NAME_CHARACTERS]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}" if is_taken else name


def as_name(text: str) -> str:
    """Return a text as the name of a pipeline: letters, digits and single dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:NAME_CHARACTERS].strip("-") or "definition"


def refuse_what_cannot_run(target: Any, content: dict[str, Any], parameters: dict[str, str]) -> None:
    """Raise for a definition, functions and parameters that would be refused later, as a mistake of usage."""
    from pipeline.definition.parameters import bind
    from pipeline.local.checks.definition import refusals

    problems = refusals(content, target.state)
    try:
        bind(content.get("Parameters", []), parameters)
    except ParameterError as wrong:
        problems += wrong.problems
    if problems:
        raise DefinitionError(problems)
