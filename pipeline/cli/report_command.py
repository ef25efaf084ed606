"""`report`: the training report of any execution, written anew and opened."""

import argparse
import json
import os
import sys
import webbrowser
from pathlib import Path

from pipeline.cli.execution_commands import found_execution
from pipeline.errors import ServiceError
from pipeline.service import control
from pipeline.service.debug_output import JSON_NAME, training_job
from pipeline.service.local_target import shown
from pipeline.service.training_report import NothingSaved, make_report

REPORTS = "reports"  # below the home
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")  # without one a browser would be a program of the terminal


def report(arguments: argparse.Namespace) -> int:
    """Write the report of an execution's training, print its path, open it.

    Raises:
        ServiceError: the execution has no training that has ended, or that saved no debugger files.
    """
    target, arn = found_execution(arguments)
    name, steps = arn.rpartition("/")[2], control.steps(target, arn)
    found = training_job(steps)
    if found is None:
        raise ServiceError(f"Execution {name} has not trained anything yet, so there is nothing to report.")
    if not found[1]:
        raise ServiceError(f"Training job {found[0]} of execution {name} has not ended yet; its report comes then.")
    folder = Path(arguments.out or Path(arguments.home) / REPORTS / found[0])
    try:
        page = make_report(target, steps, folder.resolve())
    except NothingSaved as problem:
        raise ServiceError(
            f"Training job {found[0]} of execution {name} saved no debugger files, so there is no report of it."
        ) from problem
    opened = arguments.open and not arguments.json and open_in_browser(page)
    if arguments.json:
        data = page.with_name(JSON_NAME)
        print(json.dumps({"execution_arn": arn, "training_job": found[0], "report": str(page), "data": str(data)}))
    else:
        print(shown(page) if not opened else f"{shown(page)}  (opened)")
    return 0


def open_in_browser(page: Path) -> bool:
    """Show a page where there is a screen; whether a browser took it."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, DISPLAYS)):
        return False
    try:
        return webbrowser.open(page.as_uri())
    except (webbrowser.Error, OSError):
        return False
