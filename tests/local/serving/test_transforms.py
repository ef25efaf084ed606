"""Transform jobs with real processes and servers; the records that are sent and kept; what is refused by name."""

import gzip
import io
import json
import os
import signal

import pytest

from pipeline.cli.account import clear_home
from pipeline.local.checks.serving import (
    FilterError,
    endpoint_config_problems,
    filtered,
    read_filter,
    transform_problems,
)
from pipeline.local.checks.steps import model_problems
from pipeline.local.engine.runner_process import runner_pid
from pipeline.local.jobs.transform import ObjectError, Records
from pipeline.local.sagemaker.created_jobs import TRANSFORM, lock_path
from tests.local.samples import processes_of, wait_until
from tests.local.serving.serving_home import cases, message
from tests.service.labelling import SERVER

FAULTS = {
    "ProductionVariants": endpoint_config_problems,
    "Containers": model_problems,
    "PrimaryContainer": model_problems,
}
TEN_TIMES = """
def model_fn(model_dir):
    return 10

def input_fn(body, content_type):
    return [[float(cell) for cell in line.split(",")] for line in body.splitlines()]

def predict_fn(rows, model):
    return [sum(row) * model for row in rows]

def output_fn(numbers, accept):
    return "\\n".join(map(str, numbers)), "text/csv"
"""
CSV = {"ContentType": "text/csv", "Accept": "text/csv", "SplitType": "Line", "AssembleWith": "Line"}


@pytest.fixture
def models(home):
    """A home with a model that labels images, of a server of its own, and one that multiplies rows by ten."""
    home.model("label", home.container("label", {"code/serve.py": SERVER}))
    home.model("ten", home.container("ten", {"code/inference.py": TEN_TIMES}))
    return home


def servers_of(home, name):
    return processes_of(home.folder / "jobs" / f"{name}.TransformJob/server")


def test_every_object_is_answered_some_at_the_same_time(models):
    slow = {"a": "sleep 0.3", "b": "sleep 0.3"}
    models.put(**slow, **{f"image{number}": f"c{number} 0.5" for number in range(20)}, sub__zlast="most")
    models.transform("label", ContentType="application/x-image", Accept="application/json;verbose=1")
    models.ended()
    found = models.job()
    assert found["TransformJobArn"] == "arn:aws:sagemaker:us-east-1:000000000000:transform-job/job"
    assert found["TransformEndTime"] >= found["CreationTime"]
    assert [json.loads(models.output(f"image{n}"))["label"] for n in range(20)] == [f"c{n}" for n in range(20)]
    last = json.loads(models.output("sub/zlast"))
    assert (last["batch"], last["most"]) == ("true", 2)  # as /execution-parameters says
    headers = (last["headers"]["Content-Type"], last["headers"]["Accept"])
    assert headers == ("application/x-image", "application/json;verbose=1")
    models.transform("label", "alone", MaxConcurrentTransforms=1)
    models.ended("alone")
    assert json.loads(models.output("sub/zlast"))["most"] == 1
    listed = models.sagemaker.list_transform_jobs(NameContains="o", StatusEquals="Completed")["TransformJobSummaries"]
    assert [job["TransformJobName"] for job in listed] == ["alone", "job"]


def test_rows_of_the_compressed_objects_of_a_manifest_are_sent_alone_and_joined_in_their_order(models):
    rows = "".join(f"id{n},{n}\n" for n in range(30))
    models.put(**{"x__1.csv.gz": gzip.compress(rows.encode()), "x__2.csv.gz": gzip.compress(b"x,1\n"), "other": "no"})
    uri, manifest = "s3://bucket/manifest", [{"prefix": "s3://bucket/in/"}, "x/1.csv.gz", "x/2.csv.gz"]
    models.storage.write(uri, json.dumps(manifest).encode())
    filters = {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"}
    how = {"BatchStrategy": "SingleRecord", "MaxConcurrentTransforms": 4, "CompressionType": "Gzip"}
    models.transform("ten", manifest=uri, **CSV, **how, DataProcessing=filters)
    models.ended()
    assert models.output("x/1.csv.gz") == "".join(f"id{n},{n * 10.0}\n" for n in range(30))
    assert models.output("x/2.csv.gz") == "x,10.0\n"
    reasons = {
        json.dumps([*manifest, "x/3"]): f"{uri} lists s3://bucket/in/x/3, which does not exist",
        '{"a": 1}': f"{uri} is no manifest of",
    }
    for number, (content, reason) in enumerate(reasons.items()):
        models.storage.write(uri, content.encode())
        models.transform("ten", f"wrong{number}", manifest=uri)
        assert models.ended(f"wrong{number}", "Failed").startswith(f"ClientError: {reason}")


def test_what_is_refused_fails_the_job_when_the_rest_is_answered(models):
    models.put(a="noise", b="cat 0.9", c="noise")
    models.transform("label")
    log = models.folder / "jobs/job.TransformJob/log.txt"
    refusal = 'the model refused a: {"error": "The image cannot be read."}'
    assert models.ended("job", "Failed") == f"ClientError: {refusal} (2 of 3 objects were refused; log: {log})"
    assert log.read_text() == f"{refusal}\n{refusal.replace(' a:', ' c:')}\n"
    assert json.loads(models.output("b"))["label"] == "cat"
    models.put(a="1\n2", b="1\nword\n3", c="4\n")
    models.transform("ten", "rows", **CSV, BatchStrategy="SingleRecord")
    refusal = "the model refused b: ValueError: could not convert string to float: 'word'"
    assert models.ended("rows", "Failed") == f"ClientError: {refusal}"
    assert (models.output("a"), models.output("c")) == ("10.0\n20.0\n", "40.0\n")
    log = (models.folder / "jobs/rows.TransformJob/log.txt").read_text()  # what the model printed, and what it refused
    assert ("Traceback" in log, log.splitlines()[-1]) == (True, refusal)
    assert json.loads(models.output("b"))["label"] == "cat"  # of the job before: a half is not stored


def test_a_job_can_be_stopped_at_once_and_while_it_answers_and_be_clear_home(models):
    models.put(a="cat 0.9", b="sleep 30")
    stop = models.sagemaker.stop_transform_job
    for name in ("early", "late"):
        models.transform("label", name, MaxConcurrentTransforms=1)
        pid = runner_pid(lock_path(models.state, TRANSFORM, name))
        if name == "late":
            wait_until(lambda: models.storage.exists("s3://bucket/out/a.out"))
            os.kill(pid, signal.SIGSTOP)
        stop(TransformJobName=name)
        assert models.job(name)["TransformJobStatus"] in ("Stopping", "Stopped")
        models.ended(name, "Stopped")
    assert message(stop, TransformJobName="late") == "The transform job 'late' is Stopped, so it cannot be stopped."
    models.transform("label", "last", MaxConcurrentTransforms=1)
    wait_until(lambda: servers_of(models, "last"))
    assert clear_home(models.folder, io.StringIO(), sure=True)
    assert not models.folder.exists()
    models.__init__(models.folder)


def test_a_job_whose_process_or_server_is_killed_fails_and_leaves_the_endpoint_of_its_name_alone(models):
    models.put(a="sleep 30")
    models.model("m")
    models.create("m", "job")
    process = models.invoke(endpoint="job")["process"]
    models.transform("label")
    wait_until(lambda: servers_of(models, "job"))
    os.kill(runner_pid(lock_path(models.state, TRANSFORM, "job")), signal.SIGKILL)
    assert models.ended("job", "Failed") == "InternalServerError: the job's process ended before the job did."
    assert not servers_of(models, "job")
    models.transform("label", "server")
    wait_until(lambda: servers_of(models, "server"))
    for server in servers_of(models, "server"):
        os.kill(server, signal.SIGKILL)
    reason = models.ended("server", "Failed")
    assert "no answer" in reason or "did not pass /ping" in reason
    assert models.invoke(endpoint="job")["process"] == process


def test_what_cannot_be_done_is_refused_by_name(models):
    assert message(models.transform, "none").endswith(
        "needs the model 'none', which there is not: make it by CreateModel."
    )
    assert message(models.transform, "ten", "a b").startswith("TransformJobName must ")
    assert message(models.transform, "ten", SplitType="RecordIO") == (
        "TransformJob 'job' has 'RecordIO' as TransformInput.SplitType; the local target takes None and Line."
    )
    assert message(models.job, "none") == "Could not find transform job 'none'."
    models.transform("ten")
    assert "a transform job with this name already exists" in message(models.transform, "ten")
    assert models.ended("job", "Failed") == "TransformInput names no object in the local S3."


def content(given):
    """The object of a case; a list stands for a letter, how many of it, and what follows."""
    if isinstance(given, str):
        return given.encode()
    letter, count, end = given
    return (letter * count + end + "\n").encode() if end else (letter * (count + 1)).encode()


@pytest.mark.parametrize("case", cases("transforms"), ids=lambda case: case["name"])
def test_an_object_is_split_sent_joined_filtered_and_assembled(case):
    assert list(transform_problems(case["request"])) == []
    sent = []

    def answers(bodies):
        sent.extend(bodies)
        return iter([answer.encode() for answer in case.get("answers", [""] * len(sent))])

    try:
        data = content(case["input"])
        stored = Records(case["request"]).transformed("x", gzip.compress(data) if "packed" in case else data, answers)
        assert (stored.decode(), "fails" in case) == (case.get("output", ""), False)
    except ObjectError as problem:
        assert case["fails"] in str(problem)
    if "lines_sent" in case:
        assert [body.count(b"\n") + 1 for body in sent] == case["lines_sent"]
    else:
        assert [body.decode() for body in sent] == case.get("requests", [])


@pytest.mark.parametrize("case", cases("filters"), ids=lambda case: case["path"])
def test_a_filter_selects_what_the_guide_says_and_is_refused_by_name_where_sagemaker_lacks_it(case):
    try:
        assert filtered(case.get("value"), read_filter(case["path"])) == case["gives"]
    except FilterError as problem:
        assert case["fails"] in str(problem)


@pytest.mark.parametrize("case", cases("refused_requests"), ids=lambda case: case["because"])
def test_a_request_that_is_not_followed_here_is_refused_by_name(case):
    [fault] = next((faults for member, faults in FAULTS.items() if member in case), transform_problems)(case)
    assert case["because"] in fault
