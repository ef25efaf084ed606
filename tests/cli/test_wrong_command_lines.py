"""What is wrong with a command line is one sentence; exit status 2 for what was typed, 1 for what was refused."""

from pathlib import Path

import pytest

import run_pipeline
from tests.local.samples import definition

LAMBDA_STEP = {
    "Name": "Call",
    "Type": "Lambda",
    "FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:fn",
    "Arguments": {},
    "OutputParameters": [],
}
PARAMETER = {"Name": "Rounds", "Type": "Integer", "DefaultValue": 1}
NO_EXECUTION = "has no execution yet; start one with: "

WRONG = [
    # commands and options
    ("frob", 2, "There is no command 'frob'. See run_pipeline.py --help."),
    ("sttaus", 2, "There is no command 'sttaus'. Did you mean 'status'?"),
    ("--frob", 2, "There is no option --frob."),
    ("--target aws models", 2, "Options go after the command: run_pipeline.py COMMAND --target ... See"),
    ("run --dta photos", 2, "There is no option --dta. Did you mean '--data'? See run_pipeline.py run --help."),
    ("status --whatch", 2, "Did you mean '--watch'?"),
    ("models extra", 2, "extra"),
    ("models --home", 2, "--home"),
    ("run --parallel 0", 2, "'--parallel'"),
    ("run --parallel many", 2, "'--parallel'"),
    ("drift --last -1", 2, "'--last'"),
    ("run --target moon", 2, "'moon' is not one of 'local', 'aws'."),
    ("run --cache never", 2, "'never' is not one of 'bytes', 'as-on-aws', 'off'."),
    ("invoke", 2, "'IMAGE'"),
    ("transform", 2, "'--data'"),
    ("images paint", 2, "'paint' is not one of 'build', 'push'."),
    ("schedule", 2, "show|set|off|run"),
    ("schedule set", 2, "expected show, off, run, or set EXPRESSION"),
    ("schedule show now", 2, "expected show, off, run, or set EXPRESSION"),
    ("schedule set daily", 2, "must be like rate(7 days)"),
    ("weights fetch", 2, "expected list, or fetch NAME"),
    # configuration and definitions
    ("run --config none.yaml", 2, "none.yaml does not exist; name the configuration file with --config."),
    ("run --config folder", 2, "folder cannot be read: Is a directory."),
    ("validate --config bad.yaml", 2, "bad.yaml:2: "),
    ("validate --env staging", 2, "staging"),
    ("run --definition none.json", 2, "none.json: No such file or directory."),
    ("run --definition folder", 2, "folder: Is a directory."),
    ("run --definition text.json", 2, "text.json is not JSON: "),
    ("run --definition list.json", 2, "list.json is not a pipeline definition: it has no list 'Steps'."),
    ("validate --definition list.json", 2, "list.json is not a pipeline definition: it has no list 'Steps'."),
    ("run --definition lambda.json", 2, "'fn', which is not known here; give it with --lambda fn=FILE.py:HANDLER."),
    ("run --definition lambda.json --lambda fn", 2, "--lambda fn: expected NAME=FILE.py:HANDLER."),
    (
        "run --definition lambda.json --lambda fn=none.py:h",
        2,
        "Lambda function 'fn' is not there: none.py.",
    ),
    ("run --definition plain.json --param Rounds", 2, "--param Rounds: expected NAME=VALUE."),
    ("run --definition plain.json --param Rounds=x", 2, "'Rounds' must be a whole number, but is 'x'."),
    ("run --definition plain.json --param Round=2", 2, "Did you mean 'Rounds'?"),
    ("run --definition plain.json --target aws", 2, "--definition runs on the local target only"),
    ("run --definition plain.json --data sample", 2, "--data belongs to this project's own pipeline"),
    ("run --lambda fn=fn.py:handler", 2, "--lambda, --parallel and --name go with --definition"),
    ("run --from PrepareDat", 2, "'PrepareDat'"),
    ("run --from PrepareData --only PrepareData", 2, "--from and --only both choose steps; give one of them."),
    ("run --no-cache --target aws", 2, "pipeline.cache_expire_days"),
    # data
    ("run --data nowhere", 2, "Data source 'nowhere' does not exist. Give sample, digits, a folder, "),
    ("run --add", 2, "--add extends a data set by the folder of --data; give that, too."),
    ("run --add --data .", 2, "--add finds no data set that was used before; run without it first."),
    ("run --data s3://b --param InputDataUri=s3://c", 2, "--data sets the parameter InputDataUri; give one of them."),
    ("transform --data nowhere", 2, "has no approved version"),
    ("invoke none.png", 2, "No such image: none.png"),
    ("invoke *.tiff", 2, "No file matches *.tiff"),
    ("invoke folder", 2, "folder holds no image; looked for: .avif, .bmp, "),
    ("invoke list.json --out labels.txt", 2, "--out labels.txt: the name must end with .csv or .jsonl."),
    ("start --param x", 2, "--param x: expected NAME=VALUE."),
    # what is not there
    ("status", 1, f"Pipeline 'image-classification' {NO_EXECUTION}"),
    ("stop --pipeline other", 1, f"Pipeline 'other' {NO_EXECUTION}"),
    ("status xyz", 1, "Pipeline 'image-classification' has no execution 'xyz'"),
    ("compare a b", 1, "Pipeline 'image-classification' has no execution 'a'"),
    ("compare a", 2, "Missing argument 'B'"),
    ("list --last 0", 2, "'--last'"),
    ("logs", 1, NO_EXECUTION),
    ("open --pipeline other", 1, NO_EXECUTION),
    ("explain-cache", 1, NO_EXECUTION),
    ("explain", 2, "Did you mean 'explain-cache'?"),
    ("retry xyz", 1, "execution/xyz'."),
    ("approve", 2, "Model package group 'image-classification' has no version yet."),
    ("drift --publish", 2, "drift --publish is for CloudWatch: --target aws."),
    ("drift --data photos", 2, "it goes with --retrain."),
    ("invoke list.json", 1, "Endpoint image-classification of account 000000000000 not found."),
    ("infra", 2, "infra is about an AWS account; this machine needs none of it: --target aws."),
    ("images build", 2, "images is about an AWS account; this machine needs none of it: --target aws."),
]


@pytest.mark.parametrize(("words", "status", "part"), WRONG, ids=[words for words, _, _ in WRONG])
def test_a_mistake_is_answered_by_a_sentence(cli, files, words, status, part):
    Path("folder").mkdir()
    files(text_json="no", list_json="[]", bad_yaml="data: [\n", fn_py="def handler(e, c): return {}")
    files(plain_json=definition(Parameters=[PARAMETER]), lambda_json=definition(LAMBDA_STEP))
    answer = cli(*words.split())
    assert (answer.status, answer.out, len(answer.error.splitlines())) == (status, "", 1), answer.error
    assert part in answer.error
    assert "Traceback" not in answer.error


def test_a_call_without_a_command_shows_the_help(cli, capsys):
    assert run_pipeline.main([]) == 2
    answer = capsys.readouterr()
    for part in ("Usage: run_pipeline.py", "Run:", "Models and endpoints:", "  invoke "):
        assert part in answer.out
