"""Every command and every option as a row: what a new one needs besides its function and its parameter."""

from typing import NamedTuple


class Command(NamedTuple):
    """A row of the help; the function's module is imported when the command is called."""

    group: str
    function: str
    does: str
    examples: tuple[str, ...] = ("",)  # the words after its name


class Option(NamedTuple):
    """A parameter of commands as it is typed: by its flag, or as a word of its own without one."""

    flag: str
    metavar: str | None
    help: str


RUN, LOOK, MODELS, DATA, AWS = "Run", "Look", "Models and endpoints", "Data", "AWS"
COMMANDS = {
    "run": Command(RUN, "runs.run", "Create or update the pipeline, start it and follow it.",
            ("", "--data photos --param AccuracyThreshold=0.9", "--from TrainWithDebugger")),
    "start": Command(RUN, "runs.start", "Start an execution and return at once.", ("--data photos",)),
    "stop": Command(RUN, "executions.stop", "Stop an execution.", ("", "1x2y3z")),
    "retry": Command(RUN, "executions.retry", "Go on with a failed or stopped execution."),
    "schedule": Command(
        RUN, "schedule.schedule", "Show, set or switch off the retrain schedule; run it on this machine.",
        ("show", "set 'rate(7 days)'", "run"),
    ),
    "upsert": Command(RUN, "runs.upsert", "Upload what is new and create or update the pipeline."),
    "definition": Command(RUN, "runs.definition", "Print the compiled pipeline definition (JSON)."),
    "validate": Command(RUN, "runs.validate", "Check pipeline.yaml and the compiled definition without AWS.",
            ("", "--definition other.json")),
    "teardown": Command(RUN, "account.teardown", "End the endpoints and remove what was made.", ("", "--target aws")),
    "status": Command(LOOK, "executions.status", "Show an execution.", ("", "1x2y3z --watch")),
    "list": Command(LOOK, "history.list_executions", "List the executions, newest first.", ("", "--last 5")),
    "logs": Command(LOOK, "history.logs", "Print the log of a step, of the failed or newest one unless named.",
            ("", "TrainWithDebugger --follow", "PrepareData --of 1x2y3z")),
    "explain-cache": Command(LOOK, "history.explain_cache", "Say why steps were reused or ran again.", ("", "1x2y3z")),
    "compare": Command(LOOK, "history.compare", "Show two executions side by side.", ("1x2y3z 4a5b6c",)),
    "studio": Command(LOOK, "studio.studio", "Serve the SageMaker API and a page about this home, on 127.0.0.1.",
            ("", "--port 8900 --no-open")),
    "open": Command(LOOK, "history.open_pages", "Open an execution's reports and its endpoint in a browser.",
            ("", "--no-open")),
    "experiments": Command(LOOK, "experiments.experiments", "Write executions to MLflow, and show its page.",
            ("", "--open", "--last 100")),
    "report": Command(LOOK, "reports.report", "Show how an execution's training went: rules, curves, profile, search."),
    "debug": Command(LOOK, "debug.debug", "Say what is wrong with a training, anybody's, that saved smdebug's tensors.",
            ("runs/7", "s3://bucket/job/debug-output --follow", "job-name --rules request.json --fail-on Overfit")),
    "cost": Command(LOOK, "cost.cost", "Estimate what a run and the endpoint cost on AWS.", ("", "--target aws")),
    "models": Command(MODELS, "models.models", "List the registered model versions."),
    "approve": Command(MODELS, "models.approve", "Approve a model version, which deploys it.",
            ("", "3 --why 'checked by hand'")),
    "reject": Command(MODELS, "models.reject", "Reject a model version.", ("3 --why 'confuses shirts'",)),
    "endpoints": Command(MODELS, "models.endpoints", "List the endpoints."),
    "invoke": Command(MODELS, "images.invoke", "Classify images with the deployed model.",
            ("photo.jpg", "photos --out labels.csv", "photo.jpg --explain")),
    "transform": Command(MODELS, "images.transform", "Classify a folder of images by a batch transform job.",
            ("--data photos --out labels.csv",)),
    "drift": Command(MODELS, "reports.drift", "Compare what the endpoint was sent with what its model was trained on.",
            ("", "--last 200 --retrain")),
    "audit": Command(DATA, "reports.audit", "Find labels that look wrong in the images that an execution prepared."),
    "weights": Command(DATA, "models.weights", "List backbones; download one for runs without a network.",
            ("list", "fetch convnext_tiny.in12k_ft_in1k")),
    "infra": Command(AWS, "account.infra", "Make or change the stack that the pipeline needs.", ("--target aws",)),
    "images": Command(AWS, "account.images", "Build or push the training and inference images.",
            ("build --target aws", "push --target aws")),
}  # fmt: skip
OPTIONS = {  # by the name of the parameter or of a field of its class; whole numbers are from 1
    # of every command: `Call`
    "target": Option("--target", None, "Where to run (local)."),
    "config_file": Option("--config", "FILE", "The configuration (pipeline.yaml)."),
    "home": Option("--home", "DIR", "The local target's folder (.local)."),
    "env": Option("--env", "NAME", "An environment of pipeline.yaml."),
    "as_json": Option("--json", None, "One JSON document on standard output."),
    # of several
    "execution": Option("", None, "An execution's ARN or its last part; the newest unless given."),
    "pipeline": Option("--pipeline", "NAME", "Another pipeline than pipeline.yaml's."),
    "param": Option("--param", "NAME=VALUE", "Override a runtime parameter; repeatable."),
    "data": Option("--data", "SOURCE", "sample, digits, a folder, a .zip or .tar(.gz), or s3://bucket/prefix."),
    "add": Option("--add", None, "Extend the data set that was used last by the folder of --data."),
    "replace_classes": Option("--replace-classes", None, "A model of other classes may replace the endpoint's."),
    "from_step": Option("--from", "STEP", "Run this step and what follows, on an earlier execution."),
    "only": Option("--only", "STEP,...", "Run these steps alone, on what an earlier execution left."),
    "cache": Option("--cache", None, "What is unchanged: the same input bytes (the default), or URIs, as on AWS."),
    "no_cache": Option("--no-cache", None, "Run every step, changed or not."),
    "definition": Option("--definition", "FILE", "Any compiled definition, not pipeline.yaml's."),
    "endpoint": Option("--endpoint", "NAME", "Another endpoint than pipeline.yaml's."),
    "model": Option("--model", "VERSION", "A version's number or ARN; the newest approved one unless given."),
    "report_folder": Option("--out", "FOLDER", "Where the report goes (below reports in the home)."),
    "rows_file": Option("--out", "FILE", "A row for each image: FILE.csv or FILE.jsonl."),
    "source": Option("", "SOURCE", "A folder, an s3:// prefix or a training job's name; it may still run."),
    "profiler": Option("--profiler", None, "Judge the machine and the steps' times as well."),
    "rules_file": Option("--rules", "FILE", "The rules of a CreateTrainingJob request, JSON or YAML."),
    "semantics": Option("--semantics", None, "How rules judge (aws with --rules, else watch)."),
    "fail_on": Option("--fail-on", "RULE,...", "Exit with 1 if one of them has found something."),
    "to_the_end": Option("--follow", None, "Go on until the run has ended."),
    "port": Option("--port", "N", "Where the server listens (its last port, or the first that is free from 8800)."),
    "no_open": Option("--no-open", None, "Do not open it in a browser."),
    "yes": Option("--yes", None, "Do not ask."),
    # of one
    "functions": Option("--lambda", "NAME=FILE.py:HANDLER", "A Lambda function that --definition calls; repeatable."),
    "parallel": Option("--parallel", "N", "With --definition: steps at the same time (50)."),
    "name": Option("--name", "NAME", "With --definition: the pipeline's name (the definition's or the file's)."),
    "watch": Option("--watch", None, "Follow it until it ends."),
    "step": Option("", "[STEP]", "A step's name; the failed or newest one with a log unless given."),
    "of": Option("--of", "EXECUTION", "An execution's ARN or its last part; the newest unless given."),
    "follow": Option("--follow", None, "Print on until the step ends."),
    "a": Option("", "A", "An execution's ARN or its last part."),
    "b": Option("", "B", "The other one."),
    "open_ui": Option("--open", None, "Serve MLflow's page on this machine until Ctrl-C, and open it in a browser."),
    "last_executions": Option("--last", "N", "How many (20)."),
    "version": Option("", None, "A version's number or ARN; the newest that waits unless given."),
    "why": Option("--why", "TEXT", "Kept with the decision."),
    "images": Option("", "IMAGE", "A file, a folder or a pattern."),
    "explain": Option("--explain", None, "And draw what the answer depends on."),
    "image_source": Option("--data", "SOURCE", "A folder, or s3://bucket/prefix."),
    "instances": Option("--instances", "N", "AWS: how many share the work (1)."),
    "captured": Option("--captured", "SOURCE", "A folder or s3:// prefix; the endpoint's data capture unless given."),
    "last": Option("--last", "N", "The newest requests that are looked at (1000)."),
    "publish": Option("--publish", None, "AWS: put the score to CloudWatch, for the stack's alarm."),
    "retrain": Option("--retrain", None, "Start the pipeline if there is drift, on --data if given."),
    "delete_data": Option("--delete-data", None, "AWS: the data in the bucket too."),
    "image_action": Option("", "build|push", "Build them here, or push them to the stack's repositories."),
    "base_image": Option("--base-image", "IMAGE", "Instead of python:3.11-slim."),
    "pip_args": Option("--pip-args", "TEXT", "For pip while building."),
    "schedule_action": Option("", "show|set|off|run", "run: start here what is due, until Ctrl-C."),
    "expression": Option("", "[EXPRESSION]", "With set: 'cron(...)', 'rate(...)' or 'at(...)', in UTC."),
    "weights_action": Option("", "list|fetch", "List a choice, or download one."),
    "backbone": Option("", "[NAME]", "With fetch: any network that timm has weights for."),
}
