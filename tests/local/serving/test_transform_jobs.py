"""Transform jobs and Transform steps: real processes and servers."""

import gzip
import io
import json
import os
import signal

from pipeline.local.engine.runner_process import runner_pid
from pipeline.local.sagemaker.transform_jobs import lock_path
from pipeline.teardown_commands import torn_down
from tests.local.samples import processes_of, wait_until
from tests.local.serving.serving_home import message
from tests.pipeline.labelling import SERVER

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


def labelling(home, name="m"):
    home.model(name, home.container(name, {"code/serve.py": SERVER}))


def ten_times(home, name="m"):
    home.model(name, home.container(name, {"code/inference.py": TEN_TIMES}))


def test_every_object_is_answered_some_at_the_same_time(home):
    labelling(home)
    slow = {"a": "sleep 0.3", "b": "sleep 0.3"}
    home.put(**slow, **{f"image{number}": f"c{number} 0.5" for number in range(20)}, sub__zlast="most")
    arn = home.transform("m", ContentType="application/x-image", Accept="application/json;verbose=1")
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:transform-job/job"
    ended = home.ended()
    assert (ended["TransformJobStatus"], ended["TransformJobArn"]) == ("Completed", arn)
    assert ended["TransformEndTime"] >= ended["CreationTime"]
    assert [json.loads(home.output(f"image{n}"))["label"] for n in range(20)] == [f"c{n}" for n in range(20)]
    last = json.loads(home.output("sub/zlast"))
    assert (last["batch"], last["most"]) == ("true", 2)  # as /execution-parameters says
    headers = (last["headers"]["Content-Type"], last["headers"]["Accept"])
    assert headers == ("application/x-image", "application/json;verbose=1")
    home.transform("m", "alone", MaxConcurrentTransforms=1)
    assert home.ended("alone")["TransformJobStatus"] == "Completed"
    assert json.loads(home.output("sub/zlast"))["most"] == 1
    listed = home.sagemaker.list_transform_jobs(NameContains="o", StatusEquals="Completed")["TransformJobSummaries"]
    assert [job["TransformJobName"] for job in listed] == ["alone", "job"]


def test_rows_of_csv_are_sent_alone_and_joined_in_their_order(home):
    ten_times(home)
    home.put(**{"a.csv": "".join(f"id{n},{n}\n" for n in range(30)), "b.csv": "x,1\n"})
    filters = {"InputFilter": "$[1:]", "JoinSource": "Input", "OutputFilter": "$[0,-1]"}
    home.transform("m", **CSV, BatchStrategy="SingleRecord", MaxConcurrentTransforms=4, DataProcessing=filters)
    assert home.ended()["TransformJobStatus"] == "Completed", home.job()
    assert home.output("a.csv") == "".join(f"id{n},{n * 10.0}\n" for n in range(30))
    assert home.output("b.csv") == "x,10.0\n"


def test_a_manifest_names_compressed_objects(home):
    ten_times(home)
    home.put(**{"x__1.csv.gz": gzip.compress(b"1\n2\n"), "x__2.csv.gz": gzip.compress(b"3\n"), "other": "no"})
    manifest = [{"prefix": "s3://bucket/in/"}, "x/1.csv.gz", "x/2.csv.gz"]
    home.storage.write("s3://bucket/manifest", json.dumps(manifest).encode())
    source = {"S3DataType": "ManifestFile", "S3Uri": "s3://bucket/manifest"}
    joined = {"DataProcessing": {"JoinSource": "Input"}}
    home.transform("m", **CSV, CompressionType="Gzip", S3DataSource=source, **joined)
    assert home.ended()["TransformJobStatus"] == "Completed", home.job()
    assert (home.output("x/1.csv.gz"), home.output("x/2.csv.gz")) == ("1,10.0\n2,20.0\n", "3,30.0\n")
    home.storage.write("s3://bucket/manifest", json.dumps([*manifest, "x/3"]).encode())
    home.transform("m", "lacking", S3DataSource=source)
    reason = home.ended("lacking")["FailureReason"]
    assert "s3://bucket/manifest lists s3://bucket/in/x/3, which does not exist" in reason
    home.storage.write("s3://bucket/manifest", b'{"a": 1}')
    home.transform("m", "wrong", S3DataSource=source)
    assert home.ended("wrong")["FailureReason"].startswith("ClientError: s3://bucket/manifest is no manifest of S3 obj")


def test_what_is_refused_fails_the_job_when_the_rest_is_answered(home):
    labelling(home)
    home.put(a="noise", b="cat 0.9", c="noise")
    home.transform("m")
    ended, log = home.ended(), home.folder / "jobs/job/log.txt"
    refusal = 'the model refused a: {"error": "The image cannot be read."}'
    more = f" (2 of 3 objects were refused; log: {log})"
    assert (ended["TransformJobStatus"], ended["FailureReason"]) == ("Failed", f"ClientError: {refusal}{more}")
    assert log.read_text() == f"{refusal}\n{refusal.replace(' a:', ' c:')}\n"
    assert json.loads(home.output("b"))["label"] == "cat"
    ten_times(home, "n")
    home.put(a="1\n2", b="1\nword\n3", c="4\n")
    home.transform("n", "rows", **CSV, BatchStrategy="SingleRecord")
    reason = home.ended("rows")["FailureReason"]
    assert reason == "ClientError: the model refused b: ValueError: could not convert string to float: 'word'"
    assert (home.output("a"), home.output("c")) == ("10.0\n20.0\n", "40.0\n")
    log = (home.folder / "jobs/rows/log.txt").read_text()  # what the model printed, and what it refused
    assert "Traceback" in log
    assert log.endswith("the model refused b: ValueError: could not convert string to float: 'word'\n")
    assert json.loads(home.output("b"))["label"] == "cat"  # of the job before: a half is not stored


def test_a_job_can_be_stopped_at_once_and_while_it_answers(home):
    labelling(home)
    home.put(a="cat 0.9", b="sleep 30")
    stop = home.sagemaker.stop_transform_job
    for name in ("early", "late"):
        home.transform("m", name, MaxConcurrentTransforms=1)
        if name == "late":
            wait_until(lambda: home.storage.exists("s3://bucket/out/a.out"))
        pid = runner_pid(lock_path(home.state, name))
        assert pid
        if name == "late":
            os.kill(pid, signal.SIGSTOP)
        stop(TransformJobName=name)
        assert home.job(name)["TransformJobStatus"] in ("Stopping", "Stopped")
        assert home.ended(name)["TransformJobStatus"] == "Stopped"
    assert message(stop, TransformJobName="late") == "The transform job 'late' is Stopped, so it cannot be stopped."


def test_a_killed_process_of_a_job_fails_it(home):
    labelling(home)
    home.put(a="sleep 30")
    home.transform("m")
    wait_until(lambda: servers_of(home, "job"))
    pid = runner_pid(lock_path(home.state, "job"))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert home.ended()["FailureReason"] == "InternalServerError: the job's process ended before the job did."
    home.transform("m", "server")
    wait_until(lambda: servers_of(home, "server"))
    for pid in servers_of(home, "server"):
        os.kill(pid, signal.SIGKILL)
    ended = home.ended("server")
    assert ended["TransformJobStatus"] == "Failed"
    assert "no answer" in ended["FailureReason"] or "did not pass /ping" in ended["FailureReason"]


def servers_of(home, name):
    return processes_of(home.folder / "jobs" / name / "server")


def test_what_cannot_be_done_is_refused_by_name(home):
    ten_times(home)
    assert message(home.transform, "none") == "Could not find model 'none'."
    assert message(home.transform, "m", "a b").startswith("TransformJobName must ")
    assert message(home.transform, "m", SplitType="RecordIO") == (
        "TransformJob 'job' has 'RecordIO' as TransformInput.SplitType; the local target takes None and Line."
    )
    assert message(home.job, "none") == "Could not find transform job 'none'."
    home.transform("m")
    assert message(home.transform, "m") == "Cannot create already existing transform job 'job'."
    assert home.ended()["FailureReason"] == "TransformInput names no object in the local S3."


def test_teardown_ends_a_job_that_is_answering(home):
    labelling(home)
    home.put(a="cat 0.9", b="sleep 30")
    home.transform("m", MaxConcurrentTransforms=1)
    wait_until(lambda: home.storage.exists("s3://bucket/out/a.out"))
    assert torn_down(home.folder, io.StringIO(), sure=True)
    assert not home.folder.exists()
    home.__init__(home.folder)
