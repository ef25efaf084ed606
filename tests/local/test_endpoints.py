"""Endpoints with real servers: created, updated, asked; what is captured of that."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.jobs import servers
from pipeline.local.sagemaker.capture import capture
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.endpoint_world import World, a_world, message, refusal
from tests.local.samples import model_archive, processes_of, wait_until


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    yield from a_world(tmp_path)


# create


def test_a_new_endpoint_is_creating_until_its_server_is_healthy(world):
    world.model("m", SECONDS_TO_START="0.4")
    world.create("m")
    found = world.describe()
    assert found["EndpointStatus"] == "Creating"
    assert found["EndpointArn"] == "arn:aws:sagemaker:us-east-1:000000000000:endpoint/ep"
    found = world.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "m")
    assert [(v["VariantName"], v["CurrentWeight"]) for v in found["ProductionVariants"]] == [("Main", 1.0)]
    assert "FailureReason" not in found
    assert world.invoke()["model"] == "m"


def test_an_invocation_waits_for_the_first_start(world):
    world.model("m", SECONDS_TO_START="0.4")
    world.create("m")
    assert world.invoke()["model"] == "m"


def test_a_server_that_ends_at_once_fails_the_endpoint_with_its_last_words(world):
    world.model("m", MODE="dies")
    world.create("m")
    found = world.settled()
    log = next((world.home / "endpoints" / "ep").glob("*.log"))
    reason = f"The server did not pass /ping: ValueError: no such weights (log: {log})"
    assert (found["EndpointStatus"], found["FailureReason"]) == ("Failed", reason)
    assert message(world.invoke) == f"Endpoint 'ep' is Failed. {reason}"
    assert message(world.update, "m") == "Cannot update endpoint 'ep' while its status is Failed."
    assert not processes_of(world.home)
    world.delete()
    assert message(world.describe) == "Could not find endpoint 'ep'."


def test_a_server_that_never_is_healthy_fails_the_endpoint_in_time(world, monkeypatch):
    monkeypatch.setattr(servers, "STARTUP_SECONDS", 0.5)
    world.model("m", MODE="deaf")
    world.create("m")
    found = world.settled()
    assert found["EndpointStatus"] == "Failed"
    assert found["FailureReason"].startswith("The server did not pass /ping: it printed nothing (log: ")
    assert not processes_of(world.home)


def test_a_variant_says_how_long_its_server_may_take(world):
    world.model("m")
    variant = {"VariantName": "V", "ModelName": "m", "ContainerStartupHealthCheckTimeoutInSeconds": 90}
    world.sagemaker.create_endpoint_config(EndpointConfigName="slow", ProductionVariants=[variant])
    world.create("slow")
    world.settled()
    assert world.server()["startup_seconds"] == 90


def test_a_port_that_somebody_takes_meanwhile_is_given_up(world, monkeypatch):
    with socket.socket() as somebody:
        somebody.bind((servers.HOST, 0))
        somebody.listen()
        taken = somebody.getsockname()[1]
        free_port = servers.free_port
        ports = iter([taken, taken])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports, None) or free_port())
        monkeypatch.setattr(servers, "PING_TIMEOUT_SECONDS", 0.2)
        world.model("m")
        world.create("m")
        assert world.settled()["EndpointStatus"] == "InService"
        assert world.invoke()["model"] == "m"
        assert world.server()["port"] != taken


def test_what_cannot_be_served_is_refused_and_leaves_nothing(world):
    world.model("broken", data=b"no archive")
    world.model("cut", data=model_archive("cut")[:-60])
    world.model("damaged", data=model_archive("damaged")[:40] + b"\x00" * 200)
    world.model("empty", data=model_archive("empty"), SAGEMAKER_PROGRAM="other.py")
    world.model("anonymous", SAGEMAKER_PROGRAM="")
    world.model("gone")
    (world.home / "s3/bucket/gone/model.tar.gz").unlink()
    sentences = {name: message(world.create, name) for name in ("broken", "cut", "damaged")}
    for name, sentence in sentences.items():
        assert sentence.startswith(f"s3://bucket/{name}/model.tar.gz is not a usable model.tar.gz: "), sentence
    assert "its data holds no code/other.py" in message(world.create, "empty")
    assert "SAGEMAKER_PROGRAM is empty" in message(world.create, "anonymous")
    assert message(world.create, "gone") == (
        "Could not access model data: s3://bucket/gone/model.tar.gz does not exist in the local S3 at "
        f"{world.home / 's3'}."
    )
    assert message(world.create, "nothing") == "Could not find endpoint configuration 'nothing'."
    assert world.sagemaker.list_endpoints()["Endpoints"] == []
    assert not list((world.home / "endpoints").glob("*/*"))
    (world.home / "endpoints" / "ep").rmdir()


def test_names_are_those_that_the_service_takes(world):
    world.model("m")
    assert message(world.create, "m", "../ep") == (
        "EndpointName must be letters, digits and dashes, at most 63, no dash first or last, but got '../ep'."
    )
    world.create("m")
    assert message(world.create, "m") == "Cannot create already existing endpoint 'ep'."


def test_model_data_may_be_a_prefix(world):
    for path, text in (("name.txt", "loose"), ("code/serve.py", "")):
        Storage(world.state).write(f"s3://bucket/loose/{path}", text.encode())
    Storage(world.state).write("s3://bucket/loose/code/serve.py", b"raise SystemExit('started')")
    source = {"S3Uri": "s3://bucket/loose/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    world.sagemaker.create_model(
        ModelName="loose",
        PrimaryContainer={
            "ModelDataSource": {"S3DataSource": source},
            "Environment": {"SAGEMAKER_PROGRAM": "serve.py"},
        },
    )
    variants = [{"VariantName": "V", "ModelName": "loose"}]
    world.sagemaker.create_endpoint_config(EndpointConfigName="loose", ProductionVariants=variants)
    world.create("loose")
    assert world.settled()["FailureReason"].startswith("The server did not pass /ping: started (log: ")


# update


def test_the_old_server_answers_until_the_new_one_is_healthy(world):
    world.model("old")
    world.model("new", SECONDS_TO_START="0.6")
    world.create("old")
    world.settled()
    first = world.server()
    world.update("new")
    found = world.describe()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("Updating", "old")
    assert found["PendingDeploymentSummary"]["EndpointConfigName"] == "new"
    assert message(world.update, "old") == "Cannot update endpoint 'ep' while its status is Updating."
    seen = []
    while world.describe()["EndpointStatus"] == "Updating":
        seen.append(world.invoke()["model"])
    assert "old" in seen
    assert world.invoke()["model"] == "new"
    assert world.describe()["EndpointConfigName"] == "new"
    assert "PendingDeploymentSummary" not in world.describe()
    assert not servers.is_running(first)
    assert not Path(first["folder"]).exists()


def test_no_invocation_is_lost_in_an_update(world):
    world.model("old")
    world.model("new", SECONDS_TO_START="0.3")
    world.create("old")
    world.settled()
    over, answers = threading.Event(), []

    def ask() -> None:
        mine = World(world.home)
        while not over.is_set():
            answers.append(mine.invoke()["model"])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: answers)
    world.update("new")
    world.settled()
    count = len(answers)
    wait_until(lambda: len(answers) > count + 5)
    over.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {"old", "new"}
    assert answers[-1] == "new"


def test_a_new_server_that_fails_leaves_the_old_one(world):
    world.model("old")
    world.model("bad", MODE="dies")
    world.model("good")
    world.create("old")
    world.settled()
    pid = world.server()["pid"]
    world.update("bad")
    found = world.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "old")
    assert found["FailureReason"].startswith("The server did not pass /ping: ValueError: no such weights (log: ")
    assert (world.invoke()["model"], world.invoke()["pid"]) == ("old", pid)
    world.update("good")
    found = world.settled()
    assert found["EndpointConfigName"] == "good"
    assert "FailureReason" not in found


# requests


def test_a_request_reaches_the_server_as_it_was_made(world):
    world.model("m")
    world.create("m")
    answer = world.runtime.invoke_endpoint(
        EndpointName="ep",
        Body=bytes(range(256)),
        ContentType="image/png",
        Accept="application/json;verbose=1",
        CustomAttributes="trace=1",
    )
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "Main")
    assert answer["CustomAttributes"] == "seen"
    said = json.loads(answer["Body"].read())
    assert said["bytes"] == 256
    assert said["headers"]["Content-Type"] == "image/png"
    assert said["headers"]["Accept"] == "application/json;verbose=1"
    assert said["headers"]["X-Amzn-SageMaker-Custom-Attributes"] == "trace=1"


@pytest.mark.parametrize(("status", "fault"), [(400, "client"), (415, "client"), (500, "server"), (503, "server")])
def test_an_error_of_the_model_is_a_model_error(world, status, fault):
    world.model("m")
    world.create("m")
    refused = refusal(world.invoke, f"status {status}".encode())
    assert refused["Error"]["Code"] == "ModelError"
    assert refused["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert refused["OriginalStatusCode"] == status
    said = json.loads(refused["OriginalMessage"])
    assert said["model"] == "m"
    assert refused["Error"]["Message"].startswith(f'Received {fault} error ({status}) from primary with message "')


def test_a_model_that_takes_too_long_is_a_model_error_and_is_asked_once(world, monkeypatch):
    monkeypatch.setattr(servers, "ANSWER_TIMEOUT_SECONDS", 0.3)
    world.model("m")
    world.create("m")
    world.settled()
    pid, began = world.server()["pid"], time.monotonic()
    refused = refusal(world.invoke, b"sleep 20")
    assert time.monotonic() - began < 15
    assert (refused["Error"]["Code"], refused["OriginalStatusCode"]) == ("ModelError", 0)
    assert refused["OriginalMessage"].startswith("Your invocation timed out")
    assert world.invoke()["pid"] == pid


def test_endpoints_are_listed(world):
    world.model("m")
    for name in ("b", "a"):
        world.create("m", name)
        world.settled(name)
    pages = world.sagemaker.get_paginator("list_endpoints").paginate(MaxResults=1)
    assert [found["EndpointName"] for page in pages for found in page["Endpoints"]] == ["a", "b"]
    assert world.sagemaker.list_endpoints(StatusEquals="Failed")["Endpoints"] == []
    assert [found["EndpointName"] for found in world.sagemaker.list_endpoints(NameContains="b")["Endpoints"]] == ["b"]
    assert [c["EndpointConfigName"] for c in world.sagemaker.list_endpoint_configs()["EndpointConfigs"]] == ["m"]
    world.sagemaker.delete_endpoint_config(EndpointConfigName="m")
    assert message(world.sagemaker.describe_endpoint_config, EndpointConfigName="m") == (
        "Could not find endpoint configuration 'm'."
    )
    assert world.describe("a")["EndpointStatus"] == "InService"


# data capture


def test_captured_invocations_have_the_layout_of_the_service(world):
    world.model("m")
    variant = {"VariantName": "Main", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    world.sagemaker.create_endpoint_config(
        EndpointConfigName="captured",
        ProductionVariants=[variant],
        DataCaptureConfig={
            "EnableCapture": True,
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://bucket/capture/",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        },
    )
    world.create("captured")
    answer = world.invoke(b"\x89PNG", ContentType="image/png", InferenceId="photo 7")
    (file,) = Storage(world.state).path("s3://bucket/capture/ep/Main").rglob("*.jsonl")
    event = json.loads(file.read_text())
    moment = event["eventMetadata"]["inferenceTime"]
    assert file.parent.relative_to(world.home / "s3/bucket/capture/ep/Main").as_posix() == (
        moment[:13].replace("-", "/").replace("T", "/")
    )
    assert event["captureData"]["endpointInput"] == {
        "observedContentType": "image/png",
        "mode": "INPUT",
        "data": "iVBORw==",
        "encoding": "BASE64",
    }
    output = event["captureData"]["endpointOutput"]
    assert (output["mode"], output["encoding"], json.loads(output["data"])) == ("OUTPUT", "JSON", answer)
    assert (event["eventMetadata"]["inferenceId"], event["eventVersion"]) == ("photo 7", "0")


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({"EnableCapture": False}, None),
        ({"InitialSamplingPercentage": 0}, None),
        ({"CaptureOptions": [{"CaptureMode": "Output"}]}, {"endpointOutput"}),
        ({"CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}, {"endpointInput", "endpointOutput"}),
    ],
)
def test_capture_keeps_what_its_configuration_says(tmp_path, settings, modes):
    storage = Storage(State(tmp_path))
    defaults = {"EnableCapture": True, "InitialSamplingPercentage": 100, "DestinationS3Uri": "s3://b/c"}
    config = {"DataCaptureConfig": {**defaults, "CaptureOptions": [{"CaptureMode": "Input"}], **settings}}
    capture(storage, config, ("ep", "v"), ({"Content-Type": "text/csv"}, b"1"), servers.Answer(200, "text/csv", b"2"))
    capture(storage, config, ("ep", "v"), ({}, b"1"), servers.Answer(400, "text/plain", b"no"))
    events = [json.loads(file.read_text()) for file in storage.root.rglob("*.jsonl")]
    assert [set(event["captureData"]) for event in events] == ([] if modes is None else [modes])
