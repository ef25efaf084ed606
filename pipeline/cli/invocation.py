"""One call of run_pipeline.py: from its arguments to the configuration, the project and the target that it works on."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compile.placement import Placement, local_placement
from pipeline.errors import UsageError
from pipeline.service.aws_target import AwsTarget, aws_client, aws_placement
from pipeline.service.local_target import LocalTarget, shown
from pipeline.service.targets import Target

if TYPE_CHECKING:
    from pipeline.config.config import Config
    from pipeline.service.staging import Project

Arguments = argparse.Namespace


def loaded(arguments: Arguments) -> "Config":
    """pipeline.yaml."""
    from pipeline.config.config import load

    config = load(Path(arguments.config), arguments.env)
    arguments.usual_endpoint = config.deploy.endpoint_name
    arguments.own = getattr(arguments, "pipeline", None) in (None, config.pipeline.name)
    return config


def opened(arguments: Arguments) -> "Project":
    """pipeline.yaml with its data source and weights."""
    from pipeline.service.staging import open_project

    return open_project(loaded(arguments), Path(arguments.config))


def chosen_target(arguments: Arguments, config: "Config", *, tied: bool = False, reads_only: bool = False) -> Target:
    """The target of the command line; a command that only reads makes no home where there is none."""
    cache = getattr(arguments, "cache", "bytes")
    if arguments.target == "local":
        return LocalTarget(config, Path(arguments.home), cache=cache, tied=tied, reads_only=reads_only)
    if cache == "off":
        raise UsageError("--no-cache is the local target's; on AWS pipeline.cache_expire_days in pipeline.yaml counts.")
    return AwsTarget(config)


def placement_of(arguments: Arguments, config: "Config") -> Placement:
    """The placement, without opening the target."""
    if arguments.target == "aws":
        return aws_placement(config, aws_client(config.aws.region))
    return local_placement(config.aws.deploy_function)


def command(arguments: Arguments, *words: str) -> str:
    """A command line of this program as it can be typed here, with the options of this call that it must repeat."""
    chosen = [
        ("--target", arguments.target, "local"),
        ("--config", arguments.config, arguments.usual_config),
        ("--home", arguments.home, arguments.usual_home),
        ("--env", arguments.env, None),
    ]
    if words[0] in ("status", "stop", "retry", "report", "audit"):
        chosen.append(("--pipeline", getattr(arguments, "pipeline", None), None))
    options = [text for name, value, usual in chosen if value != usual for text in (name, value)]
    python = "python" if shutil.which("python") == sys.executable else shown(Path(sys.executable))
    return shlex.join([python, sys.argv[0], *words, *options])
