"""`main`: finds the command, parses its options, and turns what goes wrong into a sentence and an exit status."""

import dataclasses
import errno
import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli.call import Call
from pipeline.cli.commands import COMMANDS, OPTIONS
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.suggestion import did_you_mean

HELP = {"help_option_names": ["-h", "--help"]}
COMMON = {each.name for each in dataclasses.fields(Call) if each.init}
FULL, NOT_ALLOWED = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)


class Commands(TyperGroup):
    """The commands by name and what they do; the module of one is imported when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str, Any, list[str]]:
        """Return the command that the words begin with, and the words after it."""
        name = args[0]
        if name not in COMMANDS:
            raise UsageError(f"There is no command {name!r}.{did_you_mean(name, COMMANDS)} See {ctx.info_name} --help.")
        return name, load(name, self.rich_markup_mode), args[1:]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by group, for plain help."""
        for group in dict.fromkeys(command.group for command in COMMANDS.values()):
            with formatter.section(group):
                formatter.write_dl([(name, each.does) for name, each in COMMANDS.items() if each.group == group])


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 succeeded, 1 failed or was refused, 2 usage or configuration."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a job may print what a terminal cannot show
    words = list(sys.argv[1:] if words is None else words)
    try:
        Path.cwd()
    except FileNotFoundError:
        print("The working directory has been removed: change to another one.", file=sys.stderr)
        return 1
    try:
        status = program().main(words or ["--help"], prog_name=Path(sys.argv[0]).name, standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0) if words else 2
    except typer.TyperException as wrong:
        print(usage_sentence(wrong), file=sys.stderr)
        return 2
    except PipelineError as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, UsageError) else 1
    except BrokenPipeError:  # whoever read standard output has seen enough, as in `run_pipeline.py definition | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def program() -> Any:
    """Return the group of all commands, of which each stands for the one that `load` makes."""
    markup = "rich" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else None
    app = typer.Typer(cls=Commands, rich_markup_mode=markup, context_settings=HELP)  # type: ignore[arg-type]
    app.callback()(about)
    group = typer.main.get_command(app)
    for name, each in COMMANDS.items():
        group.add_command(TyperCommand(name, help=each.does, rich_help_panel=each.group))  # type: ignore[attr-defined]
    return group


def load(name: str, markup: Any) -> Any:
    """Import a command's function and return it as a command that takes the common options as well."""
    command, program_name = COMMANDS[name], Path(sys.argv[0]).name
    module, _, function_name = command.function.partition(".")
    function = getattr(importlib.import_module(f"pipeline.cli.{module}"), function_name)
    examples = "\n".join(f"  {program_name} {name} {words}".rstrip() for words in command.examples)
    text = f"{command.does}\n\n\b\nExamples:\n{examples}"
    app = typer.Typer(add_completion=False, rich_markup_mode=markup)
    app.command(name, context_settings=HELP, help=text)(with_options(function))
    return typer.main.get_command(app)


def with_options(function: Callable[..., int]) -> Callable[..., int]:
    """Return a function of options alone: a parameter whose type is a dataclass stands for the fields of that."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        fields = [(name, parameter.annotation, parameter.default)]
        if is_dataclass(group := parameter.annotation):
            fields = [(each.name, each.type, each.default) for each in dataclasses.fields(group) if each.init]
            groups[name] = (group, [each for each, _, _ in fields])
        options += [typer_parameter(*field) for field in fields]

    def run(**given: Any) -> int:
        made = {name: group(**{each: given.pop(each) for each in fields}) for name, (group, fields) in groups.items()}
        return explained(lambda: function(**made, **given), made["call"].home)

    options.sort(key=lambda option: option.name in COMMON)
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def typer_parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return a parameter as typer reads it, with what OPTIONS tells of it."""
    flag, metavar, text = OPTIONS[name]
    how: dict[str, Any] = {"metavar": metavar, "help": text, "show_default": False}
    how |= {"min": 1} if annotation in (int, int | None) else {}
    how |= {"rich_help_panel": "Options of every command"} if name in COMMON else {}
    described = Annotated[annotation, typer.Option(flag, **how) if flag else typer.Argument(**how)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=described)


def explained(command: Callable[[], int], home: Path) -> int:
    """Run a command; what AWS or the operating system refuses becomes a sentence."""
    from botocore.exceptions import BotoCoreError, ClientError

    from pipeline.aws.errors import explain

    try:
        return command()
    except KeyboardInterrupt:
        return 1
    except (ClientError, BotoCoreError) as problem:
        raise ServiceError(explain(problem)) from problem
    except OSError as problem:
        if problem.errno in FULL:
            from pipeline.local.store.state import DiskFull

            raise DiskFull(Path(problem.filename).parent if problem.filename else home) from problem
        if problem.errno in NOT_ALLOWED:
            place = problem.filename or home
            raise UsageError(f"{place} cannot be used ({problem.strerror}); choose another, by --home.") from problem
        raise


def usage_sentence(wrong: typer.TyperException) -> str:
    """Return what is wrong with the words of a command line, and where help is."""
    text, context = " ".join(wrong.format_message().split()), getattr(wrong, "ctx", None)
    text = text.replace(": Value error,", ":")  # of pydantic, which typer asks
    if context is None:
        return text
    if hasattr(wrong, "possibilities") and (written := getattr(wrong, "option_name", "")):
        known = [name for option in context.command.params for name in option.opts if name.startswith("--")]
        text = f"There is no option {written}.{did_you_mean(written, known)}"
        if context.parent is None and written in {option.flag for option in OPTIONS.values()}:
            text = f"Options go after the command: {context.command_path} COMMAND {written} ..."
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See {context.command_path} --help."


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version

        print(version("image-classification-pipeline"))
        raise typer.Exit


def about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """From a folder of images to a deployed classifier, on this machine or on AWS."""
