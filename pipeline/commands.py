"""The commands of run_pipeline.py: each takes the parsed arguments and returns the exit status.

0 succeeded, 1 the pipeline or a request failed, 2 bad usage or configuration (raised as UsageError).
"""

import argparse
import json
import re
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import control
from pipeline.console import WIDTH, Progress, print_summary
from pipeline.errors import DefinitionError, ProblemList, ServiceError, UsageError
from pipeline.inputs import parse_lambda, parse_parameter, read_definition, read_image
from pipeline.local.parameters import bind
from pipeline.status import status
from pipeline.targets import AwsTarget, LocalTarget, Target, shown
from pipeline.teardown import teardown

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.sources import Source
    from pipeline.staging import Project

Arguments = argparse.Namespace
PARALLEL_STEPS = 50  # of a given definition
INPUT_DATA = "InputDataUri"


def run(arguments: Arguments) -> int:
    """Upsert, start, watch."""
    if arguments.definition:
        return run_definition(arguments)
    if arguments.functions or arguments.parallel:
        raise UsageError("--lambda and --parallel go with --definition; pipeline.yaml has its own.")
    project = opened(arguments)
    target = chosen_target(arguments, project.config, tied=True)
    return follow(arguments, target, started(arguments, project, target))


def run_definition(arguments: Arguments) -> int:
    """Run any compiled definition on the local target."""
    if arguments.target != "local":
        raise UsageError("--definition runs on the local target only; use it without --target aws.")
    if arguments.data:
        raise UsageError("--data belongs to this project's own pipeline; give the definition's parameter by --param.")
    text = read_definition(Path(arguments.definition))
    target = LocalTarget(None, Path(arguments.home), use_cache=not arguments.no_cache, tied=True)
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(arguments.definition).stem).strip("-") or "definition"
    arguments.pipeline = name
    functions, parameters = list(map(parse_lambda, arguments.functions)), dict(map(parse_parameter, arguments.param))
    with target.alone():
        put_functions(target, functions)
        refuse_what_cannot_run(target, json.loads(text), parameters)
        control.upsert(
            target,
            name=name,
            definition=text,
            description=arguments.definition,
            parallel_steps=arguments.parallel or PARALLEL_STEPS,
        )
        arn = control.start(target, name, parameters)
    say_limits(target, text)
    return follow(arguments, target, arn)


def put_functions(target: LocalTarget, functions: list[tuple[str, Path, str]]) -> None:
    """Make the functions of --lambda known."""
    if functions:
        from pipeline.local.functions import put_function

        for name, script, handler in functions:
            put_function(target.state, name, script, handler)


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
    try:
        validated(arguments)
    except ProblemList as found:
        if not arguments.json:
            raise
        print(json.dumps({"valid": False, "problems": found.problems}))
        return 2
    if arguments.json:
        print(json.dumps({"valid": True, "problems": []}))
    else:
        print(f"{arguments.definition or arguments.config}: no problem found.")
    return 0


def validated(arguments: Arguments) -> None:
    """Find the problems.

    Raises:
        ProblemList: all of them.
    """
    from pipeline.checks import check
    from pipeline.staging import definition_of

    if not arguments.definition:
        project = opened(arguments)
        definition_of(project, placement_of(arguments, project.config))
    elif problems := check(json.loads(read_definition(Path(arguments.definition)))):
        raise DefinitionError(problems)


def upsert(arguments: Arguments) -> int:
    """Upload what is new, create or update the pipeline."""
    project = opened(arguments)
    target = chosen_target(arguments, project.config)
    text, _, stored = prepared(arguments, project, target)
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
    target = chosen_target(arguments, config)
    found = control.models(target, config.registry.model_package_group)
    rows = [model_row(control.model_package(target, package["ModelPackageArn"])) for package in found]
    nothing = f"No version is registered in {config.registry.model_package_group!r} yet."
    print_rows(arguments, rows, ("version", "status", "accuracy", "created"), nothing)
    return 0


def model_row(package: dict[str, Any]) -> dict[str, Any]:
    """A version as described, with where it came from; the accuracy is text as it was registered, None without."""
    origin, metadata = package.get("MetadataProperties", {}), package.get("CustomerMetadataProperties", {})
    return {
        "version": control.version(package),
        "status": package["ModelApprovalStatus"],
        "accuracy": metadata.get("accuracy"),
        "created": package["CreationTime"].isoformat(timespec="seconds"),
        "model_package_arn": package["ModelPackageArn"],
        "execution_arn": origin.get("GeneratedBy"),
        "commit": origin.get("CommitId"),
        "metadata": metadata,
    }


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
    arn = control.model_package_arn(target, config.registry.model_package_group, arguments.version)
    control.set_approval(target, arn, decision, arguments.why)
    found = control.wait_for_endpoint(target, config.deploy.endpoint_name) if target.name == "local" else None
    endpoint = None if found is None else {"name": found["EndpointName"], "status": found["EndpointStatus"]}
    if arguments.json:
        print(json.dumps({"model_package_arn": arn, "model_approval_status": decision, "endpoint": endpoint}))
    else:
        print(f"{decision} {arn.partition('/')[2]}")
        if endpoint:
            print(f"Endpoint {endpoint['name']} is {endpoint['status']}")
    if found and "FailureReason" in found:
        print(f"The last deployment failed: {found['FailureReason']}", file=sys.stderr)
        return 1
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
    print_rows(arguments, rows, ("name", "status", "url"), "There is no endpoint.")
    return 0


def invoke(arguments: Arguments) -> int:
    """Classify images."""
    config = loaded(arguments)
    target = chosen_target(arguments, config)
    name = arguments.endpoint or config.deploy.endpoint_name
    contents = {image: read_image(Path(image)) for image in arguments.images}
    answers = []
    for image, content in contents.items():
        answers.append({"image": image, **control.invoke(target, name, content)})
        if not arguments.json:
            print_answer(answers[-1])
    if arguments.json:
        print(json.dumps(answers))
    return 0


# what several commands need


def loaded(arguments: Arguments) -> "Config":
    """pipeline.yaml."""
    from pipeline.config import load

    config = load(Path(arguments.config), arguments.env)
    arguments.usual_endpoint = config.deploy.endpoint_name
    return config


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


def started(arguments: Arguments, project: "Project", target: Target) -> str:
    """Upsert and start, no other process's definition in between; the execution's ARN."""
    text, parameters, stored = prepared(arguments, project, target)
    with target.alone():
        put_pipeline(project, target, text, stored)
        arn = control.start(target, project.config.pipeline.name, parameters)
    say_limits(target, text)
    return arn


def prepared(arguments: Arguments, project: "Project", target: Target) -> tuple[str, dict[str, str], int]:
    """Compile, check what the command line gives, upload: the definition, the parameters' values, the new uploads.

    Raises:
        ParameterError: a name or value that the definition does not take.
    """
    from pipeline.staging import definition_of, upload

    source, parameters = given(arguments, project, target)
    cache_folder = Path(arguments.home) / "definitions" if target.name == "local" else None
    text = definition_of(project, target.placement, cache_folder)
    bind(json.loads(text)["Parameters"], parameters)
    return text, parameters, upload(project, target, source)


def put_pipeline(project: "Project", target: Target, text: str, stored: int) -> None:
    """Create or update the pipeline and what has to be beside it."""
    config = project.config
    target.set_up(config)
    if config.registry.require_improvement:
        from pipeline import champion

        stored += champion.ensure(target, config)
    what = control.upsert(
        target,
        name=config.pipeline.name,
        definition=text,
        description=config.pipeline.description,
        parallel_steps=config.pipeline.max_parallel_steps,
    )
    print(f"Pipeline {config.pipeline.name} {what}; {stored} new uploads.", file=sys.stderr)


def given(arguments: Arguments, project: "Project", target: Target) -> tuple["Source | None", dict[str, str]]:
    """--data and --param."""
    from pipeline import sources

    parameters = dict(map(parse_parameter, getattr(arguments, "param", [])))
    if not getattr(arguments, "data", None):
        return None, parameters
    if INPUT_DATA in parameters:
        raise UsageError(f"--data sets the parameter {INPUT_DATA}; give one of them.")
    source = sources.resolve(arguments.data)
    return source, {**parameters, INPUT_DATA: project.data_uri(target.placement, source)}


def say_limits(target: Target, text: str) -> None:
    """What the local target ignores."""
    if target.name == "local":
        from pipeline.local.limits import not_honoured

        if sentence := not_honoured(json.loads(text)):
            print(textwrap.fill(sentence, WIDTH), file=sys.stderr)


def found_execution(arguments: Arguments, *, tied: bool = False) -> tuple[Target, str]:
    """The execution that the command line names, or the newest."""
    config = loaded(arguments)
    target = chosen_target(arguments, config, tied=tied)
    return target, control.execution_arn(target, arguments.pipeline or config.pipeline.name, arguments.execution)


def follow(arguments: Arguments, target: Target, arn: str) -> int:
    """Show progress until the end; Ctrl-C and SIGTERM stop the execution."""
    progress = Progress(target, sys.stderr if arguments.json else sys.stdout)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
        print_summary(
            document,
            lambda *words: command(arguments, *words),
            usual_endpoint=getattr(arguments, "usual_endpoint", None),
        )
    return 0 if document["status"] in ("Succeeded", "Executing") else 1


def command(arguments: Arguments, *words: str) -> str:
    """A command line of this program as it can be typed here, with the options of this call that it must repeat."""
    chosen = [
        ("--target", arguments.target, "local"),
        ("--config", arguments.config, arguments.usual_config),
        ("--home", arguments.home, arguments.usual_home),
        ("--env", arguments.env, None),
    ]
    if words[0] in ("status", "stop", "retry"):
        chosen.append(("--pipeline", getattr(arguments, "pipeline", None), None))
    options = [text for name, value, usual in chosen if value != usual for text in (name, value)]
    python = "python" if shutil.which("python") == sys.executable else shown(Path(sys.executable))
    return shlex.join([python, sys.argv[0], *words, *options])


def print_rows(arguments: Arguments, rows: list[dict[str, Any]], columns: tuple[str, ...], nothing: str) -> None:
    """A table of some columns, or all as JSON."""
    if arguments.json:
        print(json.dumps(rows))
        return
    if not rows:
        print(nothing)
        return
    widths = {key: max(len(key), *(len(str(row[key] or "-")) for row in rows)) for key in columns}
    print("  ".join(key.upper().ljust(width) for key, width in widths.items()).rstrip())
    for row in rows:
        print("  ".join(str(row[key] or "-").ljust(width) for key, width in widths.items()).rstrip())


def print_answer(answer: dict[str, Any]) -> None:
    """Label and score, and a bar for each of the top five; the answer of another model as it is."""
    if not {"label", "score", "top"} <= answer.keys():
        print(f"{answer['image']}: {json.dumps({key: value for key, value in answer.items() if key != 'image'})}")
        return
    print(f"{answer['image']}: {answer['label']} ({answer['score']:.3f})")
    width = max(len(item["label"]) for item in answer["top"])
    for item in answer["top"]:
        print(f"  {item['label']:<{width}}  {item['score']:.3f} {'█' * round(40 * item['score'])}".rstrip())


def account(arguments: Arguments) -> int:
    """A command about what surrounds the pipeline in an AWS account."""
    from pipeline.account_commands import ACCOUNT_COMMANDS
    from pipeline.targets import aws_client

    if arguments.target != "aws" and arguments.command != "cost":
        raise UsageError(f"{arguments.command} is about an AWS account; add --target aws.")
    config = loaded(arguments)
    return ACCOUNT_COMMANDS[arguments.command](arguments, config, aws_client(config.aws.region))


def tear_down(arguments: Arguments) -> int:
    """Remove what was made, here or in the account."""
    return account(arguments) if arguments.target == "aws" else teardown(arguments)


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
    "teardown": tear_down,
    "infra": account,
    "images": account,
    "schedule": account,
    "cost": account,
}
