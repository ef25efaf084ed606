"""`schedule`: the retrain schedule, the same on both targets; on this machine `schedule run` starts what is due.

There is no daemon: retrains start while `schedule run` runs in the foreground.
"""

import datetime
import signal
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Literal

from pipeline.aws import schedule as service
from pipeline.aws.schedule import Schedule
from pipeline.cli.call import Call
from pipeline.cli.executions import show as show_execution
from pipeline.cli.executions import watch_to_end
from pipeline.cli.output import print_json
from pipeline.cli.runs import Start, start_execution
from pipeline.errors import PipelineError, ServiceError, UsageError
from pipeline.service.retraining import due_times

SHOWN_TIMES = 3


def schedule(call: Call, schedule_action: Literal["show", "set", "off", "run"], expression: str | None = None) -> int:
    """Show, set or switch off the schedule, or start what is due."""
    action = schedule_action
    if (action == "set") != bool(expression):
        raise UsageError("schedule: expected show, off, run, or set EXPRESSION, such as: schedule set 'rate(7 days)'.")
    if action == "run" and call.target == "aws":
        raise UsageError("schedule run is for this machine; on AWS EventBridge Scheduler starts what is due.")
    client = open_schedule(call, reads_only=action == "show")
    if action == "run":
        return start_what_is_due(call, client)
    if action == "set":
        return print_schedule(call, service.set_expression(client, call.config, str(expression)))
    change = service.show if action == "show" else service.switch_off
    return print_schedule(call, change(client, call.config))


def open_schedule(call: Call, *, reads_only: bool) -> Any:
    """Return clients of the target, on which there is a schedule; on AWS the stack has made it."""
    if call.target == "local":
        target: Any = call.open_target(reads_only=reads_only)
        target.set_up_schedule(call.config)
        return target.client
    return call.open_clients()


def print_schedule(call: Call, found: Schedule) -> int:
    """Print the schedule, and when it starts the pipeline next."""
    times = found.next_times(datetime.datetime.now(datetime.UTC), SHOWN_TIMES)
    if call.as_json:
        moments = [time.isoformat(timespec="seconds") for time in times]
        document = {"name": found.name, "expression": found.expression, "timezone": found.timezone}
        return print_json({**document, "state": found.state, "next_times": moments})
    print(f"{found.name}: {found}")
    if found.is_on:
        print(f"  next: {', '.join(map(text_of, times)) or 'never again'}")
        if call.target == "local":
            print(f"  on this machine while this runs: {call.command('schedule', 'run')}")
    return 0


def start_what_is_due(call: Call, client: Any) -> int:
    """Start the pipeline whenever it is due, until Ctrl-C or until the schedule has no time left."""
    from pipeline.local.engine.runner_process import taken_lock

    config = call.config
    found = service.show(client, config)
    say(f"{found.name}: {found}; Ctrl-C ends this.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as held, suppress(KeyboardInterrupt):
        try:
            held.enter_context(taken_lock(call.home.resolve() / "locks" / "schedule"))
        except BlockingIOError as problem:
            sentence = "Another `schedule run` of this home is running; end it or choose another --home."
            raise ServiceError(sentence) from problem
        times = due_times(
            lambda: service.show(client, config), say=lambda time: say(f"The next run starts at {text_of(time)}.")
        )
        for time in times:
            say(f"The run of {text_of(time)} starts.")
            retrain(replace(call))
        set_again = call.command("schedule", "set", "rate(7 days)")
        say(f"The schedule is off or has no time left; switch it on with: {set_again}")
    return 0


def retrain(call: Call) -> None:
    """Run the pipeline once, as pipeline.yaml is now; what is wrong with one retrain does not end the schedule."""
    try:
        project = call.open_project()
        target = call.open_target(tied=True)
        arn = start_execution(call, project, target, Start())
        came_by_itself = watch_to_end(call, target, arn)
        show_execution(call, target, arn)
    except PipelineError as problem:
        say(str(problem))
        return
    if not came_by_itself:
        raise KeyboardInterrupt


def say(text: str) -> None:
    """Print a line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def text_of(time: datetime.datetime) -> str:
    """Return a time to the minute, or to the second where it has some."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z" if time.second else "%Y-%m-%d %H:%M %Z")
