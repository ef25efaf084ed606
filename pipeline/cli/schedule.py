"""`schedule`: the retrain schedule, the same on both targets; on this machine `schedule run` starts what is due.

There is no daemon: retrains start while `schedule run` runs in the foreground.
"""

import datetime
import signal
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from pipeline.aws import schedule as service
from pipeline.cli.call import Call
from pipeline.cli.executions import show as show_execution
from pipeline.cli.executions import watch_to_end
from pipeline.cli.output import print_json, say
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
    client = call.open_clients(reads_only=action == "show", with_schedule=True)
    if action == "run":
        return start_what_is_due(call, client)
    if action == "set":
        found = service.set_expression(client, call.config, str(expression))
    else:
        found = service.show(client, call.config) if action == "show" else service.switch_off(client, call.config)
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
    try:
        with suppress(KeyboardInterrupt), taken_lock(call.home.resolve() / "locks" / "schedule"):
            for time in due_times(
                lambda: service.show(client, config), say=lambda time: say(f"The next run starts at {text_of(time)}.")
            ):
                say(f"The run of {text_of(time)} starts.")
                retrain(replace(call))
            set_again = call.command("schedule", "set", "rate(7 days)")
            say(f"The schedule is off or has no time left; switch it on with: {set_again}")
    except BlockingIOError as problem:
        sentence = "Another `schedule run` of this home is running; end it or choose another --home."
        raise ServiceError(sentence) from problem
    return 0


def retrain(call: Call) -> None:
    """Run the pipeline once, as pipeline.yaml is now; what is wrong with one retrain does not end the schedule."""
    try:
        project = call.open_project()
        target: Any = call.open_target(tied=True)
        target.state.client = "schedule"
        arn = start_execution(call, project, target, Start())
        came_by_itself = watch_to_end(call, target, arn)
        show_execution(call, target, arn)
    except PipelineError as problem:
        say(problem)
        return
    if not came_by_itself:
        raise KeyboardInterrupt


def text_of(time: datetime.datetime) -> str:
    """Return a time to the minute, or to the second where it has some."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z" if time.second else "%Y-%m-%d %H:%M %Z")
