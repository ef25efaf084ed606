"""What the options of every command lead to: the configuration, the project and the target of one call."""

import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pipeline.errors import UsageError
from pipeline.paths import ROOT

if TYPE_CHECKING:
    from pipeline.compile.placement import Placement
    from pipeline.config.config import Config
    from pipeline.service.staging import Project
    from pipeline.service.targets import Target

USUAL_CONFIG, USUAL_HOME = ROOT / "pipeline.yaml", ROOT / ".local"
EXECUTION_COMMANDS = ("status", "stop", "retry", "report", "audit", "list", "logs", "compare", "explain-cache", "open",
                      "experiments")  # fmt: skip
CacheMode = Literal["bytes", "as-on-aws", "off"]


@dataclass
class Call:
    """One call of the program: the options of every command, and what its command adds to them."""

    target: Literal["local", "aws"] = "local"
    config_file: Path = USUAL_CONFIG
    home: Path = USUAL_HOME
    env: str | None = None
    as_json: bool = False
    pipeline: str | None = field(default=None, init=False)  # another one than pipeline.yaml's
    cache: CacheMode = field(default="bytes", init=False)
    is_given: bool = field(default=False, init=False)  # any definition, not that of pipeline.yaml

    @cached_property
    def config(self) -> "Config":
        """pipeline.yaml, read once."""
        from pipeline.config.config import load

        return load(self.config_file, self.env)

    @property
    def is_own(self) -> bool:
        """Whether the call is about this project's pipeline, not that of any definition."""
        return not self.is_given and self.pipeline in (None, self.config.pipeline.name)

    def open_project(self) -> "Project":
        """Return pipeline.yaml with its data source and weights; all that is wrong with them is reported at once."""
        from pipeline.service.staging import open_project

        project = open_project(self.config_file, self.env)
        self.config = project.config
        return project

    def open_target(self, *, tied: bool = False, reads_only: bool = False) -> "Target":
        """Return the target; a command that only reads makes no home where there is none."""
        if self.target == "local":
            from pipeline.service.local_target import LocalTarget

            return LocalTarget(self.config, self.home, cache=self.cache, tied=tied, reads_only=reads_only)
        if self.cache == "off":
            raise UsageError(
                "--no-cache is the local target's; on AWS pipeline.cache_expire_days in pipeline.yaml counts."
            )
        from pipeline.service.aws_target import AwsTarget

        return AwsTarget(self.config)

    def open_execution(self, execution: str | None, pipeline: str | None, tied: bool = False) -> "tuple[Target, str]":
        """Return the target and the ARN of the execution that the command line names, or of the newest."""
        from pipeline.service.executions import execution_arn

        self.pipeline = pipeline
        target = self.open_target(tied=tied, reads_only=True)
        return target, execution_arn(target, self.pipeline_name, execution)

    @property
    def pipeline_name(self) -> str:
        """The name of the pipeline that the call is about."""
        return self.pipeline or self.config.pipeline.name

    def open_clients(self, *, reads_only: bool = False, with_schedule: bool = False) -> Callable[[str], Any]:
        """Return a function from a service's name to its client; on AWS without a look at the account."""
        if self.target == "aws":
            from pipeline.service.aws_target import aws_client

            return aws_client(self.config.aws.region)
        target: Any = self.open_target(reads_only=reads_only)
        if with_schedule:  # on AWS the stack has made it
            target.set_up_schedule(self.config)
        return target.client  # type: ignore[no-any-return]

    def placement(self) -> "Placement":
        """Return where the pipeline runs, without opening the target."""
        from pipeline.compile.placement import local_placement
        from pipeline.service.aws_target import aws_placement

        if self.target == "aws":
            return aws_placement(self.config, self.open_clients())
        return local_placement(self.config.aws.deploy_function, self.config.aws.inputs_function)

    def say_stack_differences(self) -> None:
        """Say on standard error in what the account's stacks differ from pipeline.yaml, if it can be seen."""
        if self.target == "aws":
            from botocore.exceptions import ClientError

            from pipeline.aws.infra import stack_differences

            with contextlib.suppress(ClientError):  # who may run the pipeline may not be allowed to see its stacks
                if found := stack_differences(self.open_clients(), self.config):
                    remedy = f"`{self.command('infra')}` applies pipeline.yaml"
                    print(f"The stacks differ: {'; '.join(found)}; {remedy}.", file=sys.stderr)

    @property
    def progress_stream(self) -> TextIO:
        """Where what is not the result goes: standard output belongs to the JSON document, if there is one."""
        return sys.stderr if self.as_json else sys.stdout

    def command(self, *words: str) -> str:
        """Return a command line of this program as it can be typed here, with this call's options that it needs."""
        chosen: list[tuple[str, object, object]] = [
            ("--target", self.target, "local"),
            ("--config", self.config_file, USUAL_CONFIG),
            ("--home", self.home, USUAL_HOME),
            ("--env", self.env, None),
        ]
        if words[0] in EXECUTION_COMMANDS:
            chosen.append(("--pipeline", self.pipeline, None))
        options = [str(text) for name, value, usual in chosen if value != usual for text in (name, value)]
        return shlex.join([*program_words(), *words, *options])


def program_words() -> list[str]:
    """Return what starts this program: Python and the script, or the installed command."""
    from pipeline.paths import shown

    script = sys.argv[0]
    if not script.endswith(".py"):
        return [Path(script).name if shutil.which(Path(script).name) == script else shown(Path(script))]
    return ["python" if shutil.which("python") == sys.executable else shown(Path(sys.executable)), script]
