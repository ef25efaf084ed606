"""`teardown`: ends what the local target runs and removes what it made; nothing else in the folder is touched."""

import argparse
import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import TextIO

from pipeline import control
from pipeline.errors import ServiceError
from pipeline.targets import LOCAL_FOLDERS, LocalTarget


def teardown(arguments: argparse.Namespace) -> int:
    """The command."""
    out = sys.stderr if arguments.json else sys.stdout
    removed = torn_down(Path(arguments.home), out, sure=arguments.yes)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    return 0


def torn_down(home: Path, out: TextIO, *, sure: bool) -> bool:
    """Whether there was something to remove, and it was."""
    if not (home / "state.db").is_file():
        print(f"There is nothing to remove: {home} holds no state.", file=out)
        return False
    target = LocalTarget(None, home)
    names = [found["EndpointName"] for found in control.endpoints(target)]
    endpoints = "1 endpoint" if len(names) == 1 else f"{len(names)} endpoints"
    print(f"Ends {endpoints} and removes {home} with all models and data.", file=out)
    if not sure and not confirmed(out):
        print("Nothing was removed.", file=out)
        return False
    end_executions(target)
    for name in names:
        target.client("sagemaker").delete_endpoint(EndpointName=name)
    target.state.close()
    remove_home(home.resolve())
    print("Removed.", file=out)
    return True


def confirmed(out: TextIO) -> bool:
    """Whether the user says yes; nobody there says no."""
    print("Type yes to go on: ", end="", file=out, flush=True)
    return sys.stdin.readline().strip() == "yes"


def end_executions(target: LocalTarget) -> None:
    """Stop what runs, and wait for it."""
    for document in target.state.executions():
        arn = document["PipelineExecutionArn"]
        if control.describe(target, arn)["PipelineExecutionStatus"] in control.ACTIVE:
            with contextlib.suppress(ServiceError):  # it has ended meanwhile, or is being stopped already
                control.stop(target, arn)
            control.watch(target, arn, lambda steps: None)


def remove_home(home: Path) -> None:
    """What the local target made below a folder, and the folder if nothing else is in it."""
    for name in LOCAL_FOLDERS:
        shutil.rmtree(home / name, ignore_errors=True)
    for file in home.glob("state.*"):
        file.unlink()
    with contextlib.suppress(OSError):
        home.rmdir()
