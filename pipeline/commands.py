"""The commands of run_pipeline.py: each takes the parsed arguments and returns the exit status.

0 succeeded, 1 the pipeline or a request failed, 2 bad usage or configuration (raised as UsageError).
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import control
from pipeline.console import Progress, print_summary
from pipeline.errors import DefinitionError, ServiceError, UsageError
from pipeline.local.parameters import bind
from pipeline.status import status
from pipeline.targets import AwsTarget, LocalTarget, Target

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.staging import Project

Arguments = argparse.Namespace
INTERRUPTED = 1


def run(arguments: Arguments) -> int:
    """Upsert, start, watch."""
    if arguments.definition:
        return run_definition(arguments)
    project = opened(arguments)
    target = chosen_target(arguments, project.config, tied=True)
    text = put_pipeline(arguments, project, target)
    parameters = parameters_of(arguments, project, target, text)
    say_limits(target, text)
    arn = control.start(target, project.config.pipeline.name, parameters)
    return follow(arguments, target, arn)


def run_definition(arguments: Arguments) -> int:
    """Run any compiled definition on the local target."""
    if arguments.target != "local":
        raise UsageError("--definition runs on the local target only; use it without --target aws.")
    if arguments.data:
        raise UsageError("--data belongs to this project's own pipeline; give the definition's parameter by --param.")
    text = read_definition(Path(arguments.definition))
    target = LocalTarget(None, Path(arguments.home), use_cache=not arguments.no_cache, tied=True)
    for name, script, handler in map(parse_lambda, arguments.functions):
        from pipeline.local.functions import put_function

        put_function(target.state, name, script, handler)
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(arguments.definition).stem).strip("-") or "definition"
    parameters = dict(map(parse_parameter, arguments.param))
    refuse_what_cannot_run(target, json.loads(text), parameters)
    control.upsert(
        target, name=name, definition=text, description=arguments.definition, parallel_steps=arguments.parallel
    )
    say_limits(target, text)
    arn = control.start(target, name, parameters)
    return follow(arguments, target, arn)


def refuse_what_cannot_run(target: LocalTarget, content: dict[str, Any], parameters: dict[str, str]) -> None:
    """Raise for a definition, a function or a parameter that would be refused later, as a mistake of usage."""
    from pipeline.local.executions import missing_programs
    from pipeline.local.graph import read_graph

    if missing := list(missing_programs(target.state, read_graph(content))):
        raise DefinitionError(missing)
    bind(content.get("Parameters", []), parameters)


def definition(arguments: Arguments) -> int:
    """Print the definition JSON."""
    project = opened(arguments)
    placement = placement_of(arguments, project.config)
    from pipeline.staging import definition_of

    print(definition_of(project, placement))
    return 0


def validate(arguments: Arguments) -> int:
    """Check pipeline.yaml and the compiled definition, or a given one."""
    from pipeline.checks import check

    if arguments.definition:
        problems = check(json.loads(read_definition(Path(arguments.definition))))
        if problems:
            raise DefinitionError(problems)
        name = arguments.definition
    else:
        from pipeline.staging import definition_of

        project = opened(arguments)
        definition_of(project, placement_of(arguments, project.config))
        name = arguments.config
    if arguments.json:
        print(json.dumps({"valid": True, "problems": []}))
    else:
        print(f"{name}: no problem found.")
    return 0


def upsert(arguments: Arguments) -> int:
    """Upload what is new, create or update the pipeline."""
    project = opened(arguments)
    target = chosen_target(arguments, project.config)
    put_pipeline(arguments, project, target)
    if arguments.json:
        print(json.dumps({"pipeline_arn": target.placement.pipeline_arn(project.config.pipeline.name)}))
    return 0


def start(arguments: Arguments) -> int:
    """Start an execution and return."""
    project = opened(arguments)
    target = chosen_target(arguments, project.config)
    parameters = parameters_of(arguments, project, target, put_pipeline(arguments, project, target))
    arn = control.start(target, project.config.pipeline.name, parameters)
    if arguments.json:
        print(json.dumps({"execution_arn": arn}))
    else:
        print(f"Started {arn}\nFollow it with: {command(arguments, 'status --watch')}")
    return 0


def show_status(arguments: Arguments) -> int:
    """An execution as it is now, or until it ends."""
    target, arn = found_execution(arguments)
    if arguments.watch:
        return follow(arguments, target, arn)
    return show(arguments, target, arn)


def stop(arguments: Arguments) -> int:
    """Stop an execution."""
    target, arn = found_execution(arguments)
    control.stop(target, arn)
    control.watch(target, arn, lambda steps: None)
    return show(arguments, target, arn) and 0


def retry(arguments: Arguments) -> int:
    """Go on from the failed step."""
    target, arn = found_execution(arguments, tied=True)
    control.retry(target, arn)
    return follow(arguments, target, arn)


def models(arguments: Arguments) -> int:
    """The registered versions."""
    config = loaded(arguments)
    found = control.models(chosen_target(arguments, config), config.registry.model_package_group)
    rows = [
        {
            "version": control.version(package),
            "status": package["ModelApprovalStatus"],
            "created": package["CreationTime"].isoformat(timespec="seconds"),
            "model_package_arn": package["ModelPackageArn"],
        }
        for package in found
    ]
    print_rows(arguments, rows, f"No version is registered in {config.registry.model_package_group!r} yet.")
    return 0


def approve(arguments: Arguments) -> int:
    """Approve a version, which deploys it."""
    return decide(arguments, "Approved")


def reject(arguments: Arguments) -> int:
    """Reject a version."""
    return decide(arguments, "Rejected")


def decide(arguments: Arguments, decision: str) -> int:
    """Set the approval and show what became of the endpoint."""
    config = loaded(arguments)
    target = chosen_target(arguments, config)
    target.set_up(config)
    arn = control.model_package_arn(target, config.registry.model_package_group, arguments.version, decision)
    control.set_approval(target, arn, decision, arguments.why)
    found = control.wait_for_endpoint(target, config.deploy.endpoint_name) if target.name == "local" else None
    shown = None if found is None else {"name": found["EndpointName"], "status": found["EndpointStatus"]}
    if arguments.json:
        print(json.dumps({"model_package_arn": arn, "model_approval_status": decision, "endpoint": shown}))
        return 0
    print(f"{decision} {arn.partition('/')[2]}")
    if shown:
        print(f"Endpoint {shown['name']} is {shown['status']}")
    return 0


def endpoints(arguments: Arguments) -> int:
    """Every endpoint."""
    target = chosen_target(arguments, loaded(arguments))
    rows = [
        {
            "name": found["EndpointName"],
            "status": found["EndpointStatus"],
            "created": found["CreationTime"].isoformat(timespec="seconds"),
            "url": target.endpoint_url(found["EndpointName"]),
        }
        for found in control.endpoints(target)
    ]
    print_rows(arguments, rows, "There is no endpoint.")
    return 0


def invoke(arguments: Arguments) -> int:
    """Classify images."""
    config = loaded(arguments)
    target = chosen_target(arguments, config)
    name = arguments.endpoint or config.deploy.endpoint_name
    answers = []
    for image in arguments.images:
        if not Path(image).is_file():
            raise UsageError(f"No such image: {image}")
        answer = control.invoke(target, name, Path(image).read_bytes())
        answers.append({"image": image, **answer})
        if not arguments.json:
            print_answer(answers[-1])
    if arguments.json:
        print(json.dumps(answers))
    return 0


def teardown(arguments: Arguments) -> int:
    """Remove what the local target made."""
    if arguments.target != "local":
        raise UsageError("teardown removes what the local target made; it does not touch an AWS account.")
    home = Path(arguments.home)
    if not (home / "state.db").is_file():
        print(f"There is nothing to remove: {home} holds no state.")
        return 0
    target = LocalTarget(None, home)
    names = [found["EndpointName"] for found in control.endpoints(target)]
    print(f"Ends {len(names)} endpoint{'' if len(names) == 1 else 's'} and removes {home} with all models and data.")
    if not arguments.yes and input("Type yes to go on: ").strip() != "yes":
        print("Nothing was removed.")
        return 0
    for name in names:
        target.client("sagemaker").delete_endpoint(EndpointName=name)
    target.state.close()
    shutil.rmtree(home)
    print("Removed.")
    return 0


# what several commands need


def loaded(arguments: Arguments) -> "Config":
    """pipeline.yaml."""
    from pipeline.config import load

    return load(Path(arguments.config))


def opened(arguments: Arguments) -> "Project":
    """pipeline.yaml with its data source and weights."""
    from pipeline.staging import open_project

    return open_project(loaded(arguments), Path(arguments.config))


def chosen_target(arguments: Arguments, config: "Config", *, tied: bool = False) -> Target:
    """The target of the command line."""
    if arguments.target == "aws":
        return AwsTarget(config)
    return LocalTarget(config, Path(arguments.home), use_cache=not getattr(arguments, "no_cache", False), tied=tied)


def placement_of(arguments: Arguments, config: "Config") -> Any:
    """The placement, without opening the target."""
    from pipeline.placement import local_placement
    from pipeline.targets import aws_placement

    return aws_placement(config) if arguments.target == "aws" else local_placement(config.aws.deploy_function)


def parameters_of(arguments: Arguments, project: "Project", target: Target, text: str) -> dict[str, str]:
    """--param, checked against the definition, and --data, staged.

    Raises:
        ParameterError: a name or value that the definition does not take.
    """
    parameters = dict(map(parse_parameter, arguments.param))
    bind(json.loads(text)["Parameters"], parameters)
    if arguments.data:
        from pipeline import sources
        from pipeline.staging import upload_data

        source = sources.resolve(arguments.data)
        upload_data(project, target, source)
        parameters["InputDataUri"] = project.data_uri(target.placement, source)
    return parameters


def put_pipeline(arguments: Arguments, project: "Project", target: Target) -> str:
    """Compile, upload, create or update; the definition."""
    from pipeline import sources
    from pipeline.staging import definition_of, upload

    config = project.config
    cache_folder = Path(arguments.home) / "definitions" if target.name == "local" else None
    text = definition_of(project, target.placement, cache_folder)
    target.set_up(config)
    own_data = sources.Source("s3", uri="s3://unused") if getattr(arguments, "data", None) else None
    stored = upload(project, target, own_data)
    what = control.upsert(
        target,
        name=config.pipeline.name,
        definition=text,
        description=config.pipeline.description,
        parallel_steps=config.pipeline.max_parallel_steps,
    )
    print(f"Pipeline {config.pipeline.name} {what}; {stored} new uploads.", file=sys.stderr)
    return text


def say_limits(target: Target, text: str) -> None:
    """What the local target ignores."""
    if target.name == "local":
        from pipeline.local.limits import not_honoured

        if sentence := not_honoured(json.loads(text)):
            print(sentence, file=sys.stderr)


def found_execution(arguments: Arguments, *, tied: bool = False) -> tuple[Target, str]:
    """The execution that the command line names, or the newest."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, tied=tied)
    return target, control.execution_arn(target, arguments.pipeline or config.pipeline.name, arguments.execution)


def follow(arguments: Arguments, target: Target, arn: str) -> int:
    """Show progress until the end; Ctrl-C stops the execution."""
    progress = Progress(target, sys.stderr if arguments.json else sys.stdout)
    try:
        control.watch(target, arn, progress.look)
    except KeyboardInterrupt:
        print("\nStopping ...", file=sys.stderr)
        try:
            control.stop(target, arn)
        except ServiceError as problem:
            print(problem, file=sys.stderr)
        control.watch(target, arn, progress.look)
    return show(arguments, target, arn)


def show(arguments: Arguments, target: Target, arn: str) -> int:
    """Print the execution's document or summary."""
    document = status(target, arn)
    if document["endpoint"] and document["endpoint"]["status"] in ("Creating", "Updating") and target.name == "local":
        control.wait_for_endpoint(target, document["endpoint"]["name"])
        document = status(target, arn)
    if arguments.json:
        print(json.dumps(document))
    else:
        print_summary(document, lambda words: command(arguments, words))
    return 0 if document["status"] in ("Succeeded", "Executing") else 1


def command(arguments: Arguments, words: str) -> str:
    """A command line of this program, with the options of this call that it must repeat."""
    options = [
        f" --{name} {value}"
        for name, value, usual in (
            ("target", arguments.target, "local"),
            ("config", arguments.config, arguments.usual_config),
            ("home", arguments.home, arguments.usual_home),
        )
        if value != usual
    ]
    return f"{arguments.program} {words}{''.join(options)}"


def parse_parameter(text: str) -> tuple[str, str]:
    """NAME=VALUE.

    Raises:
        UsageError: it has no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--param {text}: expected NAME=VALUE.")
    return name, value


def parse_lambda(text: str) -> tuple[str, Path, str]:
    """NAME=FILE.py:HANDLER.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"([^=]+)=(.+\.py):([\w.]+)", text)
    if match is None:
        raise UsageError(f"--lambda {text}: expected NAME=FILE.py:HANDLER.")
    return match[1], Path(match[2]), match[3]


def read_definition(path: Path) -> str:
    """A definition file.

    Raises:
        UsageError: it is missing or not a JSON object.
    """
    try:
        text = path.read_text()
        content = json.loads(text)
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}.") from problem
    except ValueError as problem:
        raise UsageError(f"{path} is not JSON: {problem}.") from problem
    if not isinstance(content, dict) or not isinstance(content.get("Steps"), list):
        raise UsageError(f"{path} is not a pipeline definition: it has no list 'Steps'.")
    return text


def print_rows(arguments: Arguments, rows: list[dict[str, Any]], nothing: str) -> None:
    """A table, or JSON."""
    if arguments.json:
        print(json.dumps(rows))
        return
    if not rows:
        print(nothing)
        return
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print("  ".join(key.upper().ljust(width) for key, width in widths.items()).rstrip())
    for row in rows:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())


def print_answer(answer: dict[str, Any]) -> None:
    """Label and score, and a bar for each of the top five."""
    print(f"{answer['image']}: {answer['label']} ({answer['score']:.3f})")
    width = max(len(item["label"]) for item in answer["top"])
    for item in answer["top"]:
        print(f"  {item['label']:<{width}}  {item['score']:.3f} {'█' * round(40 * item['score'])}".rstrip())


COMMANDS: dict[str, Callable[[Arguments], int]] = {
    "run": run,
    "definition": definition,
    "validate": validate,
    "upsert": upsert,
    "start": start,
    "status": show_status,
    "stop": stop,
    "retry": retry,
    "models": models,
    "approve": approve,
    "reject": reject,
    "invoke": invoke,
    "endpoints": endpoints,
    "teardown": teardown,
}
