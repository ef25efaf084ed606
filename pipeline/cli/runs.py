"""`run`, `upsert` and `start`: compile, upload what is new, create or update the pipeline, start an execution."""

import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.cli.call import CacheMode, Call
from pipeline.cli.definitions import Given, start_definition
from pipeline.cli.executions import follow
from pipeline.cli.output import print_json, wrapped
from pipeline.errors import UsageError
from pipeline.service import executions
from pipeline.service.inputs import parse_parameter
from pipeline.service.targets import Target

if TYPE_CHECKING:
    from pipeline.compile.compiler import Compiled
    from pipeline.service.sources import Source
    from pipeline.service.staging import Project

INPUT_DATA = "InputDataUri"


@dataclass(frozen=True)
class Start:
    """The options of a start of the project's pipeline."""

    param: list[str] | None = None
    data: str | None = None
    add: bool = False
    replace_classes: bool = False
    from_step: str | None = None
    only: str | None = None


def run(call: Call, wanted: Start, given: Given, cache: CacheMode = "bytes", no_cache: bool = False) -> int:
    """Upsert, start, watch."""
    call.cache = "off" if no_cache else cache
    if given.definition is None:
        if given.functions or given.parallel or given.name:
            raise UsageError("--lambda, --parallel and --name go with --definition; pipeline.yaml has its own.")
        project = call.open_project()
        target = call.open_target(tied=True)
        return follow(call, target, start_execution(call, project, target, wanted))
    if wanted.data:
        raise UsageError("--data belongs to this project's own pipeline; give the definition's parameter by --param.")
    call.is_given = True
    choose = partial(selection, wanted)
    return follow(call, *start_definition(call, given.definition, given, wanted.param or [], choose))


def upsert(call: Call) -> int:
    """Upload what is new, create or update the pipeline."""
    project = call.open_project()
    target = call.open_target()
    project, text, _, stored = prepare(call, project, target, Start())
    put_pipeline(project, target, text, stored)
    if call.as_json:
        print_json({"pipeline_arn": target.placement.pipeline_arn(project.config.pipeline.name)})
    return 0


def start(call: Call, wanted: Start) -> int:
    """Start an execution and return."""
    arn = start_execution(call, call.open_project(), call.open_target(), wanted)
    return print_json({"execution_arn": arn}) if call.as_json else say_started(call, arn)


def say_started(call: Call, arn: str) -> int:
    """Print how to follow an execution; return the exit status of a success."""
    print(f"Started {arn}\nFollow it with: {call.command('status', '--watch')}")
    return 0


def start_execution(call: Call, project: "Project", target: Target, wanted: Start) -> str:
    """Upsert and start, no other process's definition in between; return the execution's ARN."""
    project, text, parameters, stored = prepare(call, project, target, wanted)
    with target.alone():
        put_pipeline(project, target, text, stored)
        name = project.config.pipeline.name
        return executions.start(target, name, parameters, selection(wanted, target, name, text))


def prepare(
    call: Call, project: "Project", target: Target, wanted: Start
) -> tuple["Project", str, dict[str, str], int]:
    """Compile, check what the command line gives, upload: what is used, the definition, parameters, new uploads."""
    from pipeline.config.config import check_parameters
    from pipeline.definition.parameters import bind
    from pipeline.service.staging import choose_data, upload

    source, parameters = read_data_and_parameters(project, target, wanted)
    check_parameters(project.config, parameters)
    project, line = choose_data(target, project, source)
    compiled = compile_definition(call, project, target)
    is_given = INPUT_DATA in parameters
    parameters.setdefault(INPUT_DATA, project.data_uri(target.placement))
    content = json.loads(compiled.definition)
    bind(content["Parameters"], parameters)
    choose_steps(wanted, content)
    if not is_given:
        print(line, file=sys.stderr)
    return project, compiled.definition, parameters, upload(project, target, compiled)


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
    from pipeline.service.staging import remember

    config = project.config
    target.set_up(config)
    if config.registry.require_improvement:
        from pipeline.service.models import ensure_champion

        stored += ensure_champion(target, config)
    name = config.pipeline.name
    what = executions.upsert(
        target,
        name=name,
        definition=text,
        description=config.pipeline.description,
        parallel_steps=config.pipeline.max_parallel_steps,
        tell=lambda changes: print(f"Changes of pipeline {name}:", *changes, sep="\n  ", file=sys.stderr),
    )
    remember(target, project)
    print(f"Pipeline {name} {what}; {stored or 'no'} new upload{'' if stored == 1 else 's'}.", file=sys.stderr)


def read_data_and_parameters(
    project: "Project", target: Target, wanted: Start
) -> tuple["Source | None", dict[str, str]]:
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
        print(line, file=sys.stderr)
    return source, parameters


def choose_steps(wanted: Start, content: dict[str, Any]) -> tuple[dict[str, Any], set[str]] | None:
    """Return the SelectiveExecutionConfig of --from or --only, and the steps whose values an earlier execution has to
    give; None where all steps are to run."""
    from pipeline.definition.steps import read_graph

    if wanted.from_step is None and wanted.only is None:
        return None
    if wanted.from_step is not None and wanted.only is not None:
        raise UsageError("--from and --only both choose steps; give one of them.")
    graph = read_graph(content)
    named = [step.strip() for step in (wanted.from_step or wanted.only or "").split(",")]
    after = graph.downstream(named) if wanted.from_step is not None else set(named)
    chosen = [*(step for step in graph.steps if step in after), *(step for step in named if step not in graph.steps)]
    if problems := list(graph.selection_problems(chosen)):
        raise UsageError("\n".join(problems))
    return {"SelectedSteps": [{"StepName": step} for step in chosen]}, graph.values_needed(chosen)


def selection(wanted: Start, target: Target, name: str, text: str) -> dict[str, Any] | None:
    """Return the SelectiveExecutionConfig with the newest execution that has what the chosen steps need."""
    content = json.loads(text)
    if target.name == "local":
        say_limits(content, target)
    chosen = choose_steps(wanted, content)
    if chosen and chosen[1]:
        return {**chosen[0], "SourcePipelineExecutionArn": executions.source_execution(target, name, chosen[1])}
    return chosen[0] if chosen else None


def say_limits(content: dict[str, Any], target: Any) -> None:
    """Say what the local target ignores."""
    from pipeline.local.checks.definition import remarks
    from pipeline.local.sandbox.namespaces import missing_isolation

    for sentence in (*remarks(content), missing_isolation(target.home)):
        if sentence:
            print("\n".join(wrapped(sentence)), file=sys.stderr)
