"""What a person is told of a failure: once, in their own names, and with the advice that fits."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cli import executions, progress
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import definition, python_step

DATA = "s3://local/data/photos"
PLACES = {"/opt/ml/processing/input/data": "my photos", "/opt/ml/processing/input/data/more": "more photos"}
TRACEBACK = ["Traceback (most recent call last):", '  File "deploy.py", line 9, in handler', "    raise OtherClasses"]
FAILURES = [  # reason, log, whether it is the project's own pipeline, what is shown of the log
    ("AlgorithmError: bad /opt/ml/processing/input/data/a.jpg, exit code: 1",
     ["reading", "bad /opt/ml/processing/input/data/a.jpg"], True, []),
    ("AlgorithmError: no luck, exit code: 1", ["why", "no luck"], False, ["why"]),
    ("AlgorithmError: ValueError: x, exit code: 1", [*TRACEBACK, "ValueError: x"], True, TRACEBACK),
    ("OtherClasses: version 2 knows other classes.",
     [*TRACEBACK, "deploy.Refused: version 2 knows other classes."], True, []),
    ("ValueError: x", [*TRACEBACK, "ValueError: x"], False, TRACEBACK),
    ("AlgorithmError: in /opt/ml/processing/input/data/more/b, exit code: 1", [], True, []),
    ("InternalServerError: killed from outside", ["epoch 1"], True, ["epoch 1"]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "log", "is_own", "shown"), FAILURES)
def test_a_failure_names_the_users_folders_and_repeats_nothing(capsys, reason, log, is_own, shown):
    step = {"name": "One", "failure_reason": reason, "log": "log.txt"}
    executions.print_failure(step, log, PLACES, is_own=is_own)
    text = capsys.readouterr().out
    assert "/opt/ml" not in text and "One failed: " in text
    assert [line[2:] for line in text.splitlines() if line.startswith("  ")] == shown
    assert ("The last lines of its log, log.txt:" if shown else "Its log: log.txt") in text
    assert ("my photos/a.jpg" in text, "more photos/b" in text) == ("data/a.jpg" in reason, "data/more" in reason)


ADVICE = [  # reason, whether it is the project's own pipeline, the first command
    ("OtherClasses: ... `approve 2 --replace-classes` replaces it", True, "retry --replace-classes"),
    ("AlgorithmError: bad label, exit code: 1", True, "run"),
    ("AlgorithmError: bad label, exit code: 1", False, "retry"),
    ("AlgorithmError: No space left on device, exit code: 1", True, "retry"),
    ("AlgorithmError: Connection refused, exit code: 1", True, "retry"),
    ("ClientError: the job ran longer than MaxRuntimeInSeconds = 5 and was ended.", True, "run"),
    ("InternalServerError: the job's process was killed from outside", True, "retry"),
]


@pytest.mark.parametrize(("reason", "is_own", "first"), ADVICE)
def test_the_advice_fits_the_failure(reason, is_own, first):
    document: dict[str, Any] = {
        "steps": [{"type": "Training", "status": "Failed", "failure_reason": reason}], "status": "Failed",
        "endpoint": None, "model_approval_status": None, "reports": {"debugger": None}, "parameters": {},
    }  # fmt: skip
    proposed = executions.next_commands(document, lambda *words: " ".join(words), usual_endpoint=None, is_own=is_own)
    assert next(iter(proposed))[0] == first
    stopped = executions.next_commands(
        {**document, "status": "Stopped", "steps": []}, lambda *words: " ".join(words), usual_endpoint=None, is_own=True
    )
    assert next(iter(stopped)) == ("retry", "go on where it was stopped")


def test_a_jobs_last_words_are_told_once_and_in_the_users_names(cli, files):
    storage = Storage(State(Path("home")))
    storage.write(f"{DATA}/a", b"1")
    place = {"LocalPath": "/opt/ml/processing/input/data", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    code = "print('begun', flush=True); import sys; sys.exit('/opt/ml/processing/input/data/a is bad')"
    one = python_step("One", code)
    one["Arguments"]["ProcessingInputs"] = [{"InputName": "data", "S3Input": {"S3Uri": DATA, **place}}]
    files(p_json=definition(one))
    said = cli("run", "--definition", "p.json")
    assert "/opt/ml" not in said.out + said.error
    assert (said.out.count("data/photos/a is bad"), " begun\n" in said.out) == (1, True)


def test_the_newest_line_is_shown_soon(monkeypatch, capsys):
    lines = [["a", "b"], [], [], ["c"], []]
    monkeypatch.setattr(progress, "JobLogs", lambda target: SimpleNamespace(new_lines=lambda *job: lines.pop(0)))
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 2)
    job = {"ProcessingJob": {"Arn": "arn:aws:sagemaker:us-east-1:000000000000:processing-job/job"}}
    step = {"StepName": "One", "StepStatus": "Executing", "Metadata": job}
    shown = progress.Progress(SimpleNamespace(), sys.stdout, "")  # type: ignore[arg-type]
    for status in ("Executing", "Executing", "Executing", "Executing", "Failed"):
        shown.show([{**step, "StepStatus": status, "FailureReason": "AlgorithmError: c" if status == "Failed" else ""}])
    said = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert said[:3] == ["started", "a", "b"] and "c" not in said
