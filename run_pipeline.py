#!/usr/bin/env python3
"""The command line: from a folder of images to a deployed classifier, on this machine or on AWS.

Only parses; the commands are in pipeline.commands, which is imported once it is known that one will run.
"""

import argparse
import io
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
USUAL_CONFIG = str(FOLDER / "pipeline.yaml")
USUAL_HOME = str(FOLDER / ".local")
DESCRIPTIONS = {
    "run": "create or update the pipeline, start it and follow it",
    "definition": "print the compiled pipeline definition (JSON)",
    "validate": "check pipeline.yaml and the compiled definition without AWS",
    "upsert": "upload what is new and create or update the pipeline",
    "start": "start an execution and return at once",
    "status": "show an execution",
    "stop": "stop an execution",
    "retry": "go on with a failed or stopped execution",
    "report": "show how an execution's training went: rules, curves, profile, search",
    "audit": "find labels that look wrong in the images that an execution prepared",
    "models": "list the registered model versions",
    "approve": "approve a model version, which deploys it",
    "reject": "reject a model version",
    "invoke": "classify images with the deployed model",
    "transform": "classify a folder of images by a batch transform job",
    "drift": "compare what the endpoint was sent with what its model was trained on",
    "endpoints": "list the endpoints",
    "teardown": "end the endpoints and remove what was made",
    "infra": "AWS: make or change the stack that the pipeline needs",
    "images": "AWS: build or push the training and inference images",
    "schedule": "show, set or switch off the retrain schedule; run it on this machine",
    "cost": "estimate what a run and the endpoint cost on AWS",
    "weights": "list backbones; download one for runs without a network",
}


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(prog="run_pipeline.py", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = {name: commands.add_parser(name, help=text, description=text) for name, text in DESCRIPTIONS.items()}
    for command in found.values():
        add_common(command)
    for name in ("run", "start"):
        add = found[name].add_argument
        add(
            "--param",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="override a runtime parameter",
        )
        add("--data", metavar="SOURCE", help="sample, digits, a folder, a .zip or .tar(.gz), or s3://bucket/prefix")
        add("--add", action="store_true", help="extend the data set that was used last by the folder of --data")
        add("--replace-classes", action="store_true", help="a model of other classes may replace the endpoint's")
        add("--from", dest="from_step", metavar="STEP", help="run this step and what follows, on an earlier execution")
        add("--only", metavar="STEP,...", help="run these steps alone, on what an earlier execution left")
    for name in ("retry", "approve"):
        add = found[name].add_argument
        add("--replace-classes", action="store_true", help="although the endpoint's model knows other classes")
    for name in ("run", "retry"):
        add = found[name].add_argument
        add("--cache", choices=["bytes", "as-on-aws", "off"], default="bytes",
            help="an unchanged step has the same input bytes (default), or the same URIs, as on AWS")  # fmt: skip
        add("--no-cache", dest="cache", action="store_const", const="off", help="run every step, changed or not")
    for name in ("run", "validate"):
        found[name].add_argument("--definition", metavar="FILE", help="any compiled definition, not pipeline.yaml's")
    add = found["run"].add_argument
    add("--lambda", dest="functions", action="append", default=[], metavar="NAME=FILE.py:HANDLER",
        help="a Lambda function that --definition calls; repeatable")  # fmt: skip
    add("--parallel", type=positive, metavar="N", help="with --definition: steps at the same time (50)")
    add("--name", metavar="NAME", help="with --definition: the pipeline's name (from the definition or the file)")
    for name in ("status", "stop", "retry", "report", "audit"):
        add = found[name].add_argument
        add("execution", nargs="?", help="an execution's ARN or its last part; the newest unless given")
        add("--pipeline", metavar="NAME", help="another pipeline than pipeline.yaml's")
    found["status"].add_argument("--watch", action="store_true", help="follow it until it ends")
    for name, where in (("report", "<training job>"), ("audit", "audit-<execution>")):
        add = found[name].add_argument
        add("--out", metavar="FOLDER", help=f"where the report goes (reports/{where} in the home)")
        add("--no-open", dest="open", action="store_false", help="do not open it in a browser")
    for name in ("approve", "reject"):
        add = found[name].add_argument
        add("version", nargs="?", help="a version's number or ARN; else the newest that waits")
        add("--why", default="", help="kept with the decision")
    found["invoke"].add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder or a pattern")
    found["invoke"].add_argument("--explain", action="store_true", help="and draw what the answer depends on")
    found["invoke"].add_argument("--endpoint", metavar="NAME", help="another endpoint than pipeline.yaml's")
    add = found["transform"].add_argument
    add("--data", required=True, metavar="SOURCE", help="a folder, or s3://bucket/prefix")
    add("--model", metavar="VERSION", help="a version's number or ARN; the newest approved one unless given")
    add("--instances", type=positive, default=1, metavar="N", help="AWS: how many share the work (1)")
    add = found["drift"].add_argument
    add("--captured", metavar="SOURCE", help="a folder or s3://bucket/prefix; the endpoint's data capture unless given")
    add("--endpoint", metavar="NAME", help="another endpoint than pipeline.yaml's")
    add("--model", metavar="VERSION", help="a version's number or ARN; the newest approved one unless given")
    add("--last", type=positive, default=1000, metavar="N", help="the newest requests that are looked at (1000)")
    add("--out", metavar="FOLDER", help="where the report goes (reports/drift in the home)")
    add("--publish", action="store_true", help="AWS: put the score to CloudWatch, for the stack's alarm")
    add("--retrain", action="store_true", help="start the pipeline if there is drift")
    add("--data", metavar="SOURCE", help="with --retrain: the images to train with, as for run")
    for name in ("invoke", "transform"):
        found[name].add_argument("--out", metavar="FILE", help="a row for each image: FILE.csv or FILE.jsonl")
    for name in ("teardown", "infra"):
        found[name].add_argument("--yes", action="store_true", help="do not ask")
    found["teardown"].add_argument("--delete-data", action="store_true", help="AWS: the data in the bucket too")
    add = found["images"].add_argument
    add("action", choices=["build", "push"])
    add("--base-image", metavar="IMAGE", help="instead of python:3.11-slim")
    add("--pip-args", default="", metavar="TEXT", help="for pip while building")
    add = found["schedule"].add_argument
    add("action", choices=["show", "set", "off", "run"], help="run: start here what is due, until Ctrl-C")
    add("expression", nargs="?", help="with set: 'cron(...)', 'rate(...)' or 'at(...)', in UTC")
    add = found["weights"].add_argument
    add("action", choices=["list", "fetch"])
    add("backbone", nargs="?", metavar="NAME", help="with fetch: any network that timm has weights for")
    return top


def add_common(command: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    command.add_argument("--target", choices=["local", "aws"], default="local", help="where to run (local)")
    command.add_argument("--config", default=USUAL_CONFIG, metavar="FILE", help="the configuration (pipeline.yaml)")
    command.add_argument("--home", default=USUAL_HOME, metavar="DIR", help="the local target's folder (.local here)")
    command.add_argument("--env", metavar="NAME", help="an environment of pipeline.yaml")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {number}")
    return number


def main(words: list[str]) -> int:
    """Run one command; its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a job may print what a terminal cannot show
    arguments = parser().parse_args(words)
    arguments.usual_config, arguments.usual_home = USUAL_CONFIG, USUAL_HOME
    try:
        return run(arguments)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:  # whoever read standard output has seen enough, as in `run_pipeline.py definition | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(arguments: argparse.Namespace) -> int:
    """The command, its mistakes as sentences."""
    from pipeline.cli.commands import call
    from pipeline.errors import PipelineError, UsageError

    try:
        status = call(arguments)
        sys.stdout.flush()
    except PipelineError as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, UsageError) else 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
