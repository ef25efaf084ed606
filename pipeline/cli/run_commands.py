"""`run`, `upsert` and `start`: compile, upload what is new, create or update the pipeline, start an execution."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.console import wrapped
from pipeline.cli.execution_commands import follow
from pipeline.cli.invocation import Arguments, chosen_target, command, opened
from pipeline.definition.parameters import bind
from pipeline.errors import DefinitionError, ParameterError, UsageError
from pipeline.service import control
from pipeline.service.deployed_pipeline import upsert as upsert_pipeline
from pipeline.service.inputs import parse_lambda, parse_parameter, read_definition
from pipeline.service.local_target import LocalTarget
from pipeline.service.targets import Target

if TYPE_CHECKING:
    from pipeline.compile.compiler import Compiled
    from pipeline.service.sources import Source
    from pipeline.service.staging import Project

PARALLEL_STEPS = 50  # of a given definition
INPUT_DATA = "InputDataUri"
NAMING = (("Metadata", "PipelineName"), ("PipelineExperimentConfig", "ExperimentName"))  # of a definition
NAME_CHARACTERS = 200


def run(arguments: Arguments) -> int:
    """Upsert, start, watch."""
    if arguments.definition:
        return run_definition(arguments)
    if arguments.functions or arguments.parallel or arguments.name:
        raise UsageError("--lambda, --parallel and --name go with --definition; pipeline.yaml has its own.")
    project = opened(arguments)
    target = chosen_target(arguments, project.config, tied=True)
    return follow(arguments, target, started(arguments, project, target))


def upsert(arguments: Arguments) -> int:
    """Upload what is new, create or update the pipeline."""
    project = opened(arguments)
    target = chosen_target(arguments, project.config)
    project, text, _, stored = prepared(arguments, project, target)
    put_pipeline(project, target, text, stored)
    if arguments.json:
        print(json.dumps({"pipeline_arn": target.placement.pipeline_arn(project.config.pipeline.name)}))
    return 0


def start(arguments: Arguments) -> int:
    """Start an execution and return."""
    project = opened(arguments)
    target = chosen_target(arguments, project.config)
    arn = started(arguments, project, target)
    if arguments.json:
        print(json.dumps({"execution_arn": arn}))
    else:
        print(f"Started {arn}\nFollow it with: {command(arguments, 'status', '--watch')}")
    return 0


def started(arguments: Arguments, project: "Project", target: Target) -> str:
    """Upsert and start, no other process's definition in between; the execution's ARN."""
    project, text, parameters, stored = prepared(arguments, project, target)
    with target.alone():
        put_pipeline(project, target, text, stored)
        name = project.config.pipeline.name
        say_limits(target, text)
        return control.start(target, name, parameters, selection(arguments, target, name, text))


def prepared(arguments: Arguments, project: "Project", target: Target) -> tuple["Project", str, dict[str, str], int]:
    """Compile, check what the command line gives, upload: what is used, the definition, parameters, new uploads.

    Raises:
        ParameterError: a name or value that the definition does not take.
    """
    from pipeline.service.staging import choose_data, upload

    source, parameters = given(arguments, project, target)
    project, line = choose_data(target, project, source)
    if INPUT_DATA not in parameters:
        print(line, file=sys.stderr)
    compiled = compile_whole(arguments, project, target)
    parameters.setdefault(INPUT_DATA, project.data_uri(target.placement))
    bind(json.loads(compiled.definition)["Parameters"], parameters)
    return project, compiled.definition, parameters, upload(project, target, compiled)


def compile_whole(arguments: Arguments, project: "Project", target: Target) -> "Compiled":
    """The definition; its search begins with the newest one where pipeline.yaml asks for that."""
    from pipeline.service.staging import compile_project

    kept, config = Path(arguments.home) / "definitions", project.config
    first = compile_project(project, target.placement, kept)
    if config.tuning.warm_start is None:
        return first
    from pipeline.service.warm_start import parent_for

    parent = parent_for(target, config.pipeline.name, first.definition)
    return compile_project(project, target.placement, kept, warm_start_parent=parent) if parent else first


def put_pipeline(project: "Project", target: Target, text: str, stored: int) -> None:
    """Create or update the pipeline and what has to be beside it; says what changes."""
    from pipeline.service.staging import remember

    config = project.config
    target.set_up(config)
    if config.registry.require_improvement:
        from pipeline.service import champion

        stored += champion.ensure(target, config)
    what = upsert_pipeline(
        target,
        name=config.pipeline.name,
        definition=text,
        description=config.pipeline.description,
        parallel_steps=config.pipeline.max_parallel_steps,
        tell=lambda changes: say_changes(config.pipeline.name, changes),
    )
    remember(target, project)
    print(f"Pipeline {config.pipeline.name} {what}; {counted(stored)}.", file=sys.stderr)


def say_changes(name: str, changes: list[str]) -> None:
    """What an update changes."""
    print("\n".join([f"Changes of pipeline {name}:", *(f"  {line}" for line in changes)]), file=sys.stderr)


def counted(stored: int) -> str:
    """How much was uploaded."""
    return f"{stored or 'no'} new upload{'' if stored == 1 else 's'}"


def given(arguments: Arguments, project: "Project", target: Target) -> tuple["Source | None", dict[str, str]]:
    """--data and --param."""
    from pipeline.service import sources

    parameters = dict(map(parse_parameter, getattr(arguments, "param", [])))
    if getattr(arguments, "replace_classes", False):
        parameters["ReplaceClasses"] = "true"
    if not getattr(arguments, "data", None):
        if getattr(arguments, "add", False):
            raise UsageError("--add extends a data set by the folder of --data; give that, too.")
        return None, parameters
    if INPUT_DATA in parameters:
        raise UsageError(f"--data sets the parameter {INPUT_DATA}; give one of them.")
    source = sources.resolve(arguments.data)
    if getattr(arguments, "add", False):
        from pipeline.service.data_addition import extended

        source = extended(target, project, source)
    return source, parameters


def run_definition(arguments: Arguments) -> int:
    """Run any compiled definition on the local target."""
    if arguments.target != "local":
        raise UsageError("--definition runs on the local target only; use it without --target aws.")
    if arguments.data:
        raise UsageError("--data belongs to this project's own pipeline; give the definition's parameter by --param.")
    text = read_definition(Path(arguments.definition))
    target = LocalTarget(None, Path(arguments.home), cache=arguments.cache, tied=True)
    place, content = str(Path(arguments.definition).resolve()), json.loads(text)
    functions, parameters = list(map(parse_lambda, arguments.functions)), dict(map(parse_parameter, arguments.param))
    with target.alone():
        arguments.pipeline = name = arguments.name or pipeline_name(target, content, place)
        put_functions(target, functions)
        refuse_what_cannot_run(target, content, parameters)
        what = upsert_pipeline(
            target,
            name=name,
            definition=text,
            description=place,
            parallel_steps=arguments.parallel or PARALLEL_STEPS,
        )
        print(f"Pipeline {name} {what}.", file=sys.stderr)
        say_limits(target, text)
        arn = control.start(target, name, parameters, selection(arguments, target, name, text))
    return follow(arguments, target, arn)


def pipeline_name(target: LocalTarget, content: dict[str, Any], place: str) -> str:
    """The name that a definition gives itself, else its file's; with a digest of its place if another file has that.

    So definitions that have nothing to do with each other do not share a pipeline, its cache and its executions.
    """
    for section, member in NAMING:
        around = content.get(section)
        if isinstance(around, dict) and isinstance(name := around.get(member), str):
            return as_name(name)
    name = as_name(Path(place).stem)
    known = control.existing(target.client("sagemaker"), name)
    taken = known is not None and known.get("PipelineDescription") != place
    return f"{name[:NAME_CHARACTERS]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}" if taken else name


def as_name(text: str) -> str:
    """A text as the name of a pipeline: letters, digits and single dashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text)[:NAME_CHARACTERS].strip("-") or "definition"


def selection(arguments: Arguments, target: Target, name: str, text: str) -> dict[str, Any] | None:
    """The SelectiveExecutionConfig of --from or --only; None where all steps are to run.

    Raises:
        UsageError: a step is not there, one in between is missing, or no execution has what the steps need.
    """
    first, only = getattr(arguments, "from_step", None), getattr(arguments, "only", None)
    if first is None and only is None:
        return None
    if first is not None and only is not None:
        raise UsageError("--from and --only both choose steps; give one of them.")
    from pipeline.definition.steps import read_graph

    graph = read_graph(json.loads(text))
    named = [step.strip() for step in (first or only or "").split(",")]
    after = graph.downstream(named) if first is not None else set(named)
    chosen = [*(step for step in graph.steps if step in after), *(step for step in named if step not in graph.steps)]
    if faults := list(graph.selection_faults(chosen)):
        raise UsageError("\n".join(faults))
    config: dict[str, Any] = {"SelectedSteps": [{"StepName": step} for step in chosen]}
    if needed := graph.values_needed(chosen):
        config["SourcePipelineExecutionArn"] = control.source_execution(target, name, needed)
    return config


def put_functions(target: LocalTarget, functions: list[tuple[str, Path, str]]) -> None:
    """Make the functions of --lambda known."""
    if functions:
        from pipeline.local.jobs.functions import put_function

        for name, script, handler in functions:
            put_function(target.state, name, script, handler)


def refuse_what_cannot_run(target: LocalTarget, content: dict[str, Any], parameters: dict[str, str]) -> None:
    """Raise for a definition, functions and parameters that would be refused later, as a mistake of usage."""
    from pipeline.local.engine.executions import start_problems

    problems = start_problems(target.state, content)
    try:
        bind(content.get("Parameters", []), parameters)
    except ParameterError as wrong:
        problems += wrong.problems
    if problems:
        raise DefinitionError(problems)


def say_limits(target: Target, text: str) -> None:
    """What the local target ignores."""
    if isinstance(target, LocalTarget):
        from pipeline.definition.check import unknown_members
        from pipeline.definition.runnable import not_honoured
        from pipeline.local.sandbox.namespaces import missing_isolation

        content = json.loads(text)
        for sentence in (not_honoured(content), unknown_members(content), missing_isolation(target.home)):
            if sentence:
                print("\n".join(wrapped(sentence)), file=sys.stderr)
