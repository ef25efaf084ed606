"""Transform jobs of their own on the local target: real processes and servers, seen by boto3."""

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.local.engine.runner_process import runner_pid
from pipeline.local.sagemaker.session import local_session
from pipeline.local.sagemaker.transform_jobs import lock_path
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.teardown_commands import torn_down
from tests.local.samples import model_archive, processes_of, wait_until
from tests.pipeline.labelling import SERVER
from tests.pipeline.plain_versions import ROLE, container

MODEL = "s3://bucket/model.tar.gz"


class World:
    """A home with a model `m`."""

    def __init__(self, home: Path) -> None:
        self.state = State(home)
        self.storage = Storage(self.state)
        self.client = local_session(self.state).client("sagemaker")
        self.storage.write(MODEL, model_archive("m", **{"code/serve.py": SERVER}))
        self.client.create_model(ModelName="m", PrimaryContainer=container(MODEL), ExecutionRoleArn=ROLE)

    def put(self, **objects: str) -> None:
        for name, content in objects.items():
            self.storage.write(f"s3://bucket/in/{name}.jpg", content.encode())

    def create(self, name: str = "job", **members: Any) -> str:
        request: dict[str, Any] = {
            "TransformJobName": name,
            "ModelName": "m",
            "TransformInput": {
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/in/"}},
                "ContentType": "application/x-image",
            },
            "TransformOutput": {"S3OutputPath": "s3://bucket/out/", "Accept": "application/json;verbose=1"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
            **members,
        }
        return str(self.client.create_transform_job(**request)["TransformJobArn"])

    def describe(self, name: str = "job") -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_transform_job(TransformJobName=name)
        return found

    def ended(self, name: str = "job") -> dict[str, Any]:
        wait_until(lambda: self.describe(name)["TransformJobStatus"] not in ("InProgress", "Stopping"))
        return self.describe(name)

    def answer(self, name: str) -> Any:
        return json.loads(self.storage.read(f"s3://bucket/out/{name}.jpg.out"))


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    yield World(tmp_path / "home")
    wait_until(lambda: not processes_of(tmp_path))


def message(call: Any, *arguments: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **request)
    return str(caught.value.response["Error"]["Message"])


def test_every_object_is_answered_some_at_the_same_time(world):
    slow = {"a": "sleep 0.3", "b": "sleep 0.3"}
    world.put(**slow, **{f"image{number}": f"c{number} 0.5" for number in range(20)}, zlast="most")
    arn = world.create()
    assert arn == "arn:aws:sagemaker:us-east-1:000000000000:transform-job/job"
    assert world.describe()["TransformJobStatus"] == "InProgress"
    ended = world.ended()
    assert (ended["TransformJobStatus"], ended["TransformJobArn"]) == ("Completed", arn)
    assert ended["TransformEndTime"] >= ended["CreationTime"]
    assert [world.answer(f"image{number}")["label"] for number in range(20)] == [f"c{number}" for number in range(20)]
    last = world.answer("zlast")
    assert last["batch"] == "true"
    assert last["most"] == 2  # as /execution-parameters says
    assert (last["headers"]["Content-Type"], last["headers"]["Accept"]) == (
        "application/x-image", "application/json;verbose=1",
    )  # fmt: skip


def test_the_request_says_how_many_are_sent_at_the_same_time(world):
    world.put(**{f"image{number}": f"c{number} 0.5" for number in range(5)}, zlast="most")
    world.create(MaxConcurrentTransforms=1)
    assert world.ended()["TransformJobStatus"] == "Completed"
    assert world.answer("zlast")["most"] == 1


def test_a_refused_object_fails_the_job_when_the_others_are_answered(world):
    world.put(a="noise", b="cat 0.9", c="noise")
    world.create()
    ended = world.ended()
    refusal = 'the model refused a.jpg: {"error": "The image cannot be read."}'
    log = world.state.home / "jobs/job/log.txt"
    assert (ended["TransformJobStatus"], ended["FailureReason"]) == (
        "Failed",
        f"ClientError: {refusal} (2 of 3 objects were refused; log: {log})",
    )
    assert log.read_text() == f"{refusal}\n{refusal.replace('a.jpg', 'c.jpg')}\n"
    assert world.answer("b")["label"] == "cat"


def test_a_stopped_job_ends_and_leaves_no_process(world):
    world.put(a="sleep 30", b="cat 0.9")
    world.create(MaxConcurrentTransforms=1)
    world.client.stop_transform_job(TransformJobName="job")
    assert world.describe()["TransformJobStatus"] in ("Stopping", "Stopped")
    assert world.ended()["TransformJobStatus"] == "Stopped"
    assert message(world.client.stop_transform_job, TransformJobName="job") == (
        "The transform job 'job' is Stopped, so it cannot be stopped."
    )


def test_a_job_that_is_answering_can_be_stopped(world):
    world.put(a="cat 0.9", b="sleep 30")
    world.create(MaxConcurrentTransforms=1)
    wait_until(lambda: world.storage.exists("s3://bucket/out/a.jpg.out"))
    world.client.stop_transform_job(TransformJobName="job")
    assert world.ended()["TransformJobStatus"] == "Stopped"


def test_a_job_whose_process_is_killed_has_failed(world):
    world.put(a="sleep 30")
    world.create()
    wait_until(lambda: list((world.state.home / "endpoints/job").glob("*.log")))
    pid = runner_pid(lock_path(world.state, "job"))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert world.ended()["FailureReason"] == "InternalServerError: the job's process ended before the job did."


def test_what_cannot_be_done_is_refused_by_name(world):
    world.put(a="cat 0.9")
    assert message(world.create, ModelName="none") == "Could not find model 'none'."
    assert message(world.create, "a b") == (
        "TransformJobName must be 1 to 63 letters, digits and dashes, no dash first or last, but is 'a b'."
    )
    output = {"S3OutputPath": "s3://bucket/out", "AssembleWith": "Line"}
    assert message(world.create, TransformOutput=output) == (
        "The local target takes TransformOutput.AssembleWith 'None' only, but got 'Line'."
    )
    source = {"S3DataType": "ManifestFile", "S3Uri": "s3://bucket/manifest"}
    assert message(world.create, TransformInput={"DataSource": {"S3DataSource": source}}) == (
        "The local target takes S3DataType 'S3Prefix' only, but got 'ManifestFile'."
    )
    assert message(world.describe, "none") == "Could not find transform job 'none'."
    world.create()
    assert message(world.create) == "Cannot create already existing transform job 'job'."
    assert world.ended()["TransformJobStatus"] == "Completed"


def test_an_input_without_objects_fails_the_job(world):
    world.create()
    assert world.ended()["FailureReason"] == "TransformInput names no object in the local S3."


def test_jobs_are_listed(world):
    world.put(a="cat 0.9")
    for name in ("first", "second"):
        world.create(name)
        world.ended(name)
    listed = world.client.list_transform_jobs(NameContains="s", StatusEquals="Completed")["TransformJobSummaries"]
    assert [job["TransformJobName"] for job in listed] == ["second", "first"]


def test_teardown_ends_a_job_that_is_answering(world):
    world.put(a="cat 0.9", b="sleep 30")
    world.create(MaxConcurrentTransforms=1)
    wait_until(lambda: world.storage.exists("s3://bucket/out/a.jpg.out"))
    assert torn_down(world.state.home, io.StringIO(), sure=True)
    assert not world.state.home.exists()
    wait_until(lambda: processes_of(world.state.home) == [])
