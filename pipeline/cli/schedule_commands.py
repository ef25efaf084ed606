"""`schedule`: the retrain schedule, the same on both targets; on this machine `schedule run` starts what is due.

There is no daemon: retrains start while `schedule run` runs in the foreground.
"""

import datetime
import json
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pipeline.aws import schedule
from pipeline.aws.schedule import Schedule
from pipeline.cli.execution_commands import show as show_execution
from pipeline.cli.execution_commands import watched
from pipeline.cli.invocation import Arguments, chosen_target, command, loaded, opened
from pipeline.cli.run_commands import started
from pipeline.config.config import Config
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.service.aws_target import aws_client
from pipeline.service.local_target import LocalTarget
from pipeline.service.retraining import due_times

SHOWN_TIMES = 3
Client = Callable[[str], Any]


def handle_schedule(arguments: Arguments) -> int:
    """The command."""
    if (arguments.action == "set") != bool(arguments.expression):
        raise UsageError("schedule: expected show, off, run, or set EXPRESSION, such as: schedule set 'rate(7 days)'.")
    return ACTIONS[arguments.action](arguments, loaded(arguments))


def show(arguments: Arguments, config: Config) -> int:
    """What it is, and when it starts the pipeline next."""
    return told(arguments, schedule.show(client_of(arguments, config, reads_only=True), config))


def set_expression(arguments: Arguments, config: Config) -> int:
    """Switch it on with another expression."""
    return told(arguments, schedule.set_expression(client_of(arguments, config), config, arguments.expression))


def switch_off(arguments: Arguments, config: Config) -> int:
    """Start nothing any more."""
    return told(arguments, schedule.switch_off(client_of(arguments, config), config))


def client_of(arguments: Arguments, config: Config, *, reads_only: bool = False) -> Client:
    """Clients of the target, on which there is a schedule; on AWS the stack has made it."""
    if arguments.target == "aws":
        return aws_client(config.aws.region)
    target = LocalTarget(config, Path(arguments.home), reads_only=reads_only)
    target.set_up_schedule(config)
    return target.client


def told(arguments: Arguments, found: Schedule) -> int:
    """The schedule as JSON or for a person."""
    times = found.next_times(now(), SHOWN_TIMES)
    if arguments.json:
        document = {"name": found.name, "expression": found.expression, "timezone": found.timezone}
        moments = [time.isoformat(timespec="seconds") for time in times]
        print(json.dumps({**document, "state": found.state, "next_times": moments}))
        return 0
    print(f"{found.name}: {found}")
    if found.is_on:
        print(f"  next: {', '.join(map(text_of, times)) or 'never again'}")
    if found.is_on and arguments.target == "local":
        print(f"  on this machine while this runs: {command(arguments, 'schedule', 'run')}")
    return 0


def run(arguments: Arguments, config: Config) -> int:
    """Start the pipeline whenever it is due, until Ctrl-C or until the schedule has no time left."""
    if arguments.target == "aws":
        raise UsageError("schedule run is for this machine; on AWS EventBridge Scheduler starts what is due.")
    client = client_of(arguments, config)
    found = schedule.show(client, config)
    say(f"{found.name}: {found}; Ctrl-C ends this.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with only_one(Path(arguments.home)), suppress(KeyboardInterrupt):
        for time in due_times(lambda: schedule.show(client, config), say=say_next):
            say(f"The run of {text_of(time)} starts.")
            retrain(arguments)
        set_again = command(arguments, "schedule", "set", "rate(7 days)")
        say(f"The schedule is off or has no time left; switch it on with: {set_again}")
    return 0


def retrain(arguments: Arguments) -> None:
    """As `run` does; what is wrong with one retrain does not end the schedule.

    Raises:
        KeyboardInterrupt: it was stopped by Ctrl-C.
    """
    try:
        project = opened(arguments)
        target = chosen_target(arguments, project.config, tied=True)
        arn = started(arguments, project, target)
        by_itself = watched(arguments, target, arn)
        show_execution(arguments, target, arn)
    except PipelineError as problem:
        say(str(problem))
        return
    if not by_itself:
        raise KeyboardInterrupt


def only_one(home: Path) -> ExitStack:
    """A block that one process at a time may be in.

    Raises:
        ServiceError: another one is.
    """
    from pipeline.local.engine.runner_process import taken_lock

    held = ExitStack()
    try:
        held.enter_context(taken_lock(home.resolve() / "locks" / "schedule"))
    except BlockingIOError as problem:
        sentence = "Another `schedule run` of this home is running; end it or choose another --home."
        raise ServiceError(sentence) from problem
    return held


def say(text: str) -> None:
    """A line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def say_next(time: datetime.datetime) -> None:
    """When the next run starts."""
    say(f"The next run starts at {text_of(time)}.")


def text_of(time: datetime.datetime) -> str:
    """To the minute, or to the second where it has some."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z" if time.second else "%Y-%m-%d %H:%M %Z")


def now() -> datetime.datetime:
    """In UTC."""
    return datetime.datetime.now(datetime.UTC)


ACTIONS: dict[str, Callable[[Arguments, Config], int]] = {
    "show": show,
    "set": set_expression,
    "off": switch_off,
    "run": run,
}
