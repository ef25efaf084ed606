"""`run`, `upsert`, `start`, `definition`, `validate`: compile, upload what is new, create or update, start."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.call import CacheMode, Call
from pipeline.cli.executions import follow
from pipeline.cli.output import print_json, say, wrapped
from pipeline.compile.placement import INPUTS_STEP
from pipeline.errors import DefinitionError, ParameterError, ProblemList, ServiceError, UsageError
from pipeline.service import executions
from pipeline.service.inputs import parse_lambda, parse_parameter, read_definition
from pipeline.service.targets import Target

if TYPE_CHECKING:
    from pipeline.compile.compiler import Compiled
    from pipeline.service.sources import Source
    from pipeline.service.staging import Project

INPUT_DATA, CHECK_IS_NEW = "InputDataUri", "CheckIsNew"
USUAL_PARALLEL_STEPS = 50
NAMING = (("Metadata", "PipelineName"), ("PipelineExperimentConfig", "ExperimentName"))  # of a definition
NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Start:
    """The options of a start of the project's pipeline."""

    param: list[str] | None = None
    data: str | None = None
    add: bool = False
    replace_classes: bool = False
    from_step: str | None = None
    only: str | None = None


@dataclass(frozen=True)
class Given:
    """The options of a given definition."""

    definition: Path | None = None
    functions: list[str] | None = None
    parallel: int | None = None
    name: str | None = None


def run(call: Call, wanted: Start, given: Given, cache: CacheMode = "bytes", no_cache: bool = False) -> int:
    """Upsert, start, watch."""
    call.cache = "off" if no_cache else cache
    if given.definition:
        if wanted.data:
            sentence = "--data belongs to this project's own pipeline; give the definition's parameter by --param."
            raise UsageError(sentence)
        return follow(call, *start_definition(call, given.definition, given, wanted))
    if given.functions or given.parallel or given.name:
        raise UsageError("--lambda, --parallel and --name go with --definition; pipeline.yaml has its own.")
    project, target = call.open_project(), call.open_target(tied=True)
    return follow(call, target, start_execution(call, project, target, wanted))


def start(call: Call, wanted: Start) -> int:
    arn = start_execution(call, call.open_project(), call.open_target(), wanted)
    return print_json({"execution_arn": arn}) if call.as_json else say_started(call, arn)


def say_started(call: Call, arn: str) -> int:
    """Print how to follow an execution; return the exit status of a success."""
    print(f"Started {arn}\nFollow it with: {call.command('status', '--watch')}")
    return 0


def upsert(call: Call) -> int:
    project = call.open_project()
    target = call.open_target()
    prepare(call, project, target, Start())[-1]()
    arn = target.placement.pipeline_arn(project.config.pipeline.name)
    return print_json({"pipeline_arn": arn}) if call.as_json else 0


def start_execution(call: Call, project: "Project", target: Target, wanted: Start) -> str:
    """Upsert and start, no other process's definition in between; return the execution's ARN."""
    name, text, parameters, put = prepare(call, project, target, wanted)
    with target.alone():
        put()
        return executions.start(target, name, parameters, selection(wanted, target, name, text))


def prepare(
    call: Call, project: "Project", target: Target, wanted: Start
) -> tuple[str, str, dict[str, str], Callable[[], None]]:
    """Compile, check what the command line gives, upload; return the pipeline's name, its definition, the parameters
    and what creates or updates it."""
    from pipeline.config.config import check_parameters
    from pipeline.definition.parameters import bind
    from pipeline.service.staging import choose_data, upload

    source, parameters = read_parameters(project, target, wanted)
    check_parameters(project.config, parameters)
    chosen, line = choose_data(target, project, source)
    compiled = compile_definition(call, chosen, target)
    is_given = INPUT_DATA in parameters
    parameters.setdefault(INPUT_DATA, chosen.data_uri(target.placement))
    content = json.loads(compiled.definition)
    bind(content["Parameters"], parameters)
    choose_steps(wanted, content)
    if not is_given:
        say(line)
    call.say_stack_differences()
    if problems := target.problems(chosen.config, with_values(content, parameters)):
        raise ServiceError("\n".join(problems))
    stored = upload(chosen, target, compiled)
    text = compiled.definition
    return chosen.config.pipeline.name, text, parameters, lambda: put_pipeline(chosen, target, text, stored)


def with_values(content: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """Return a definition in which parameters have values as their defaults."""
    given = [{**each, "DefaultValue": parameters[each["Name"]]} if each["Name"] in parameters else each
             for each in content["Parameters"]]  # fmt: skip
    return {**content, "Parameters": given}


def compile_definition(call: Call, project: "Project", target: Target) -> "Compiled":
    """Return the definition; its search begins with the newest one where pipeline.yaml asks for that."""
    from pipeline.service.staging import compile_project

    kept, config = call.home / "definitions", project.config
    first = compile_project(project, target.placement, kept)
    if config.tuning.warm_start is None:
        return first
    parent = executions.warm_start_parent(target, config.pipeline.name, first.definition)
    return compile_project(project, target.placement, kept, warm_start_parent=parent) if parent else first


def put_pipeline(project: "Project", target: Target, text: str, stored: int) -> None:
    """Create or update the pipeline and what has to be beside it; say what changes."""
    from pipeline.config.config import describe_pipeline
    from pipeline.service.staging import remember

    config = project.config
    target.set_up(config)
    name = config.pipeline.name
    what = executions.upsert(
        target,
        name=name,
        definition=text,
        description=describe_pipeline(config, [each["Name"] for each in json.loads(text)["Parameters"]]),
        parallel_steps=config.pipeline.max_parallel_steps,
        tell=lambda changes: say("\n  ".join([f"Changes of pipeline {name}:", *changes])),
    )
    remember(target, project)
    say(f"Pipeline {name} {what}; {stored or 'no'} new upload{'' if stored == 1 else 's'}.")


def read_parameters(project: "Project", target: Target, wanted: Start) -> "tuple[Source | None, dict[str, str]]":
    """Return the source that --data names and the values of --param, the data's URI among them."""
    from pipeline.service import sources

    parameters = dict(map(parse_parameter, wanted.param or ()))
    if wanted.replace_classes:
        parameters["ReplaceClasses"] = "true"
    if not wanted.data:
        if wanted.add:
            raise UsageError("--add extends a data set by the folder of --data; give that, too.")
        return None, parameters
    if INPUT_DATA in parameters:
        raise UsageError(f"--data sets the parameter {INPUT_DATA}; give one of them.")
    source = sources.resolve(wanted.data)
    if wanted.add:
        from pipeline.service.data_addition import extended

        source, line = extended(target, project, source)
        say(line)
    return source, parameters


def choose_steps(wanted: Start, content: dict[str, Any]) -> tuple[dict[str, Any], set[str]] | None:
    """Return the SelectiveExecutionConfig of --from or --only, and the steps whose values an earlier execution has to
    give; None where all steps are to run."""
    if wanted.from_step is None and wanted.only is None:
        return None
    if wanted.from_step is not None and wanted.only is not None:
        raise UsageError("--from and --only both choose steps; give one of them.")
    named = [step.strip() for step in (wanted.from_step or wanted.only or "").split(",")]
    return executions.selected_steps(content, named, with_following=wanted.from_step is not None)


def selection(wanted: Start, target: Any, name: str, text: str) -> dict[str, Any] | None:
    """Return the SelectiveExecutionConfig with the newest execution that has what the chosen steps need.

    What the local target ignores of the definition is said.
    """
    content = json.loads(text)
    if target.name == "local":
        from pipeline.local.checks.definition import remarks
        from pipeline.local.sandbox.namespaces import missing_isolation

        for sentence in (*remarks(content), missing_isolation(target.home)):
            if sentence:
                say("\n".join(wrapped(sentence)))
    chosen, needed = choose_steps(wanted, content) or (None, set())
    if chosen and needed:
        chosen["SourcePipelineExecutionArn"] = source = executions.source_execution(target, name, needed)
        if INPUTS_STEP in needed and CHECK_IS_NEW in (step["StepName"] for step in chosen["SelectedSteps"]):
            sentence = f"{INPUTS_STEP} is of execution {source.rpartition('/')[2]}: a model that was registered since "
            sentence += "is taken for a new one and registered again. A run of all steps looks again."
            say("\n".join(wrapped(sentence)))
    return chosen


def definition(call: Call) -> int:
    from pipeline.service.staging import definition_of

    print(definition_of(call.open_project(), call.placement()))
    return 0


def validate(call: Call, definition: Path | None = None) -> int:
    """Check pipeline.yaml and the compiled definition, or a given one."""
    from pipeline.definition.check import check
    from pipeline.local.checks.definition import refusals
    from pipeline.service.staging import definition_of

    try:
        if definition is None:
            project, target = call.open_project(), call.open_target(reads_only=True)
            content = json.loads(definition_of(project, target.placement))
            call.say_stack_differences()
            if problems := target.problems(project.config, content):
                raise ProblemList(problems)
        else:
            content = json.loads(read_definition(definition))
            if problems := [*check(content), *(refusals(content) if call.target == "local" else ())]:
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


def start_definition(call: Call, file: Path, given: Given, wanted: Start) -> tuple[Any, str]:
    """Create or update the definition's pipeline and start it; return the target and the execution's ARN."""
    from pipeline.definition.parameters import bind
    from pipeline.local.checks.definition import refusals
    from pipeline.local.jobs.functions import put_function
    from pipeline.service.local_target import LocalTarget

    call.is_given = True
    if call.target != "local":
        raise UsageError("--definition runs on the local target only; use it without --target aws.")
    text = read_definition(file)
    place, content = str(file.resolve()), json.loads(text)
    functions, parameters = [*map(parse_lambda, given.functions or ())], dict(map(parse_parameter, wanted.param or ()))
    target = LocalTarget(None, call.home, cache=call.cache, tied=True)
    with target.alone():
        call.pipeline = name = given.name or pipeline_name(target, content, place)
        for function in functions:
            put_function(target.state, *function)
        problems = refusals(content, target.state)  # what would be refused later is a mistake of usage now
        try:
            bind(content.get("Parameters", []), parameters)
        except ParameterError as wrong:
            problems += wrong.problems
        if problems:
            raise DefinitionError(problems)
        parallel_steps = given.parallel or USUAL_PARALLEL_STEPS
        what = executions.upsert(target, name=name, definition=text, description=place, parallel_steps=parallel_steps)
        say(f"Pipeline {name} {what}.")
        return target, executions.start(target, name, parameters, selection(wanted, target, name, text))


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
