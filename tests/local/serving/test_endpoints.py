"""Endpoints with real servers: created, updated, asked; what is captured of that."""

import json
import threading
import time
from pathlib import Path

import pytest

from pipeline.local.jobs import servers
from pipeline.local.sagemaker.endpoints import capture
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from tests.local.samples import model_archive, processes_of, wait_until
from tests.local.serving.serving_home import Home, message, refusal


def test_a_new_endpoint_is_creating_until_its_server_is_healthy(home):
    home.plain("m", SECONDS_TO_START="0.4")
    home.create("m")
    found = home.describe()
    assert found["EndpointStatus"] == "Creating"
    assert found["EndpointArn"] == "arn:aws:sagemaker:us-east-1:000000000000:endpoint/ep"
    assert home.invoke()["model"] == "m"  # an invocation waits
    found = home.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "m")
    assert [(v["VariantName"], v["CurrentWeight"]) for v in found["ProductionVariants"]] == [("Main", 1.0)]
    assert "FailureReason" not in found
    assert message(home.create, "m") == "Cannot create already existing endpoint 'ep'."
    assert message(home.create, "m", "../ep").startswith("EndpointName must ")
    assert message(home.create, "nothing", "other") == "Could not find endpoint configuration 'nothing'."


def test_a_server_that_ends_at_once_fails_the_endpoint_with_its_last_words(home):
    home.plain("m", MODE="dies")
    home.create("m")
    found = home.settled()
    log = next((home.folder / "endpoints" / "ep").glob("*.log"))
    reason = f"The server did not pass /ping: ValueError: no such weights (log: {log})"
    assert (found["EndpointStatus"], found["FailureReason"]) == ("Failed", reason)
    assert message(home.invoke) == f"Endpoint 'ep' is Failed. {reason}"
    assert message(home.update, "m") == "Cannot update endpoint 'ep' while its status is Failed."
    assert not processes_of(home.folder)
    home.delete()
    assert message(home.describe) == "Could not find endpoint 'ep'."
    assert message(home.invoke) == "Endpoint ep of account 000000000000 not found."


def test_a_server_has_its_time_to_become_healthy(home, monkeypatch):
    monkeypatch.setattr(servers, "STARTUP_SECONDS", 0.5)
    home.plain("m", MODE="deaf")
    home.create("m")
    found = home.settled()
    assert found["EndpointStatus"] == "Failed"
    assert found["FailureReason"].startswith("The server did not pass /ping: it printed nothing (log: ")
    assert not processes_of(home.folder)
    variant = {"VariantName": "V", "ModelName": "m", "ContainerStartupHealthCheckTimeoutInSeconds": 90}
    home.sagemaker.create_endpoint_config(EndpointConfigName="slow", ProductionVariants=[variant])
    home.create("slow", "patient")
    assert home.describe("patient")["EndpointStatus"] == "Creating"
    time.sleep(0.6)
    assert home.describe("patient")["EndpointStatus"] == "Creating"


def test_what_cannot_be_served_is_refused_and_leaves_nothing(home):
    archives = {
        "broken": b"no archive",
        "cut": model_archive("cut")[:-60],
        "damaged": model_archive("damaged")[:40] + b"\x00" * 200,
        "hostile": model_archive("hostile", **{"../../outside": "x"}),
    }
    for name, content in archives.items():
        home.plain(name)
        home.storage.write(f"s3://bucket/{name}/model.tar.gz", content)
        sentence = f"s3://bucket/{name}/model.tar.gz is not a usable .tar.gz: "
        assert message(home.create, name).startswith(sentence)
    home.model("other", home.container("other", {}, SAGEMAKER_PROGRAM="other.py"))
    assert "its data holds no code/other.py, and what its image any:local would serve it with" in message(
        home.create, "other"
    )
    home.model("anonymous", home.container("anonymous", SAGEMAKER_PROGRAM=""))
    assert "SAGEMAKER_PROGRAM is empty" in message(home.create, "anonymous")
    home.model("odd", home.container("odd", {"code/inference.py": "def model_fn(:"}))
    assert message(home.create, "odd").startswith("The model's code/inference.py is not Python")
    home.plain("gone")
    (home.folder / "s3/bucket/gone/model.tar.gz").unlink()
    assert message(home.create, "gone").startswith("Could not access model data: s3://bucket/gone/model.tar.gz does")
    assert home.sagemaker.list_endpoints()["Endpoints"] == []
    assert not (home.folder / "outside").exists()


def test_model_data_may_be_a_prefix(home):
    home.storage.write("s3://bucket/loose/code/serve.py", b"raise SystemExit('started')")
    source = {"S3Uri": "s3://bucket/loose/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    container = {"ModelDataSource": {"S3DataSource": source}, "Environment": {"SAGEMAKER_PROGRAM": "serve.py"}}
    home.model("loose", container)
    home.create("loose")
    assert home.settled()["FailureReason"].startswith("The server did not pass /ping: started (log: ")


def test_the_old_server_answers_until_the_new_one_is_healthy(home):
    home.plain("old")
    home.plain("new", SECONDS_TO_START="0.6")
    home.create("old")
    home.settled()
    first, over, answers = home.server(), threading.Event(), []

    def ask() -> None:
        mine = Home(home.folder)
        while not over.is_set():
            answers.append(mine.invoke()["model"])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: answers)
    home.update("new")
    found = home.describe()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("Updating", "old")
    assert found["PendingDeploymentSummary"]["EndpointConfigName"] == "new"
    assert message(home.update, "old") == "Cannot update endpoint 'ep' while its status is Updating."
    found = home.settled()
    count = len(answers)
    wait_until(lambda: len(answers) > count + 5)
    over.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {"old", "new"}
    assert answers[-1] == "new"
    assert found["EndpointConfigName"] == "new"
    assert "PendingDeploymentSummary" not in found
    assert not servers.is_running(first)
    assert not Path(first["folder"]).exists()


def test_a_new_server_that_fails_leaves_the_old_one(home):
    home.plain("old")
    home.plain("bad", MODE="dies")
    home.plain("good")
    home.create("old")
    home.settled()
    pid = home.server()["pid"]
    home.update("bad")
    found = home.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "old")
    assert found["FailureReason"].startswith("The server did not pass /ping: ValueError: no such weights (log: ")
    assert (home.invoke()["model"], home.invoke()["pid"]) == ("old", pid)
    home.update("good")
    found = home.settled()
    assert found["EndpointConfigName"] == "good"
    assert "FailureReason" not in found


def test_a_request_reaches_the_server_as_it_was_made_and_its_errors_are_model_errors(home, monkeypatch):
    home.plain("m")
    home.create("m")
    headers = {"ContentType": "image/png", "Accept": "application/json;verbose=1", "CustomAttributes": "trace=1"}
    answer = home.answer(bytes(range(256)), **headers)
    found = [answer[name] for name in ("ContentType", "InvokedProductionVariant", "CustomAttributes")]
    assert found == ["application/json", "Main", "seen"]
    said = json.loads(answer["Body"])
    names = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes")
    assert (said["bytes"], [said["headers"][name] for name in names]) == (256, list(headers.values()))
    for status, fault in ((400, "client"), (415, "client"), (500, "server"), (503, "server")):
        refused = refusal(home.invoke, f"status {status}")
        assert (refused["Error"]["Code"], refused["ResponseMetadata"]["HTTPStatusCode"]) == ("ModelError", 424)
        assert refused["OriginalStatusCode"] == status
        assert json.loads(refused["OriginalMessage"])["model"] == "m"
        assert refused["Error"]["Message"].startswith(f'Received {fault} error ({status}) from primary with message "')
    monkeypatch.setattr(servers, "ANSWER_TIMEOUT_SECONDS", 0.3)
    refused = refusal(home.invoke, b"sleep 20")
    assert (refused["Error"]["Code"], refused["OriginalStatusCode"]) == ("ModelError", 0)
    assert refused["OriginalMessage"].startswith("Your invocation timed out")


def test_endpoints_are_listed(home):
    home.plain("m")
    for name in ("b", "a", "a-12345678"):
        home.create("m", name)
        home.settled(name)
    client = home.sagemaker
    pages = client.get_paginator("list_endpoints").paginate(MaxResults=1)
    assert [found["EndpointName"] for page in pages for found in page["Endpoints"]] == ["a-12345678", "a", "b"]
    assert client.list_endpoints(StatusEquals="Failed")["Endpoints"] == []
    assert [found["EndpointName"] for found in client.list_endpoints(NameContains="b")["Endpoints"]] == ["b"]
    assert [c["EndpointConfigName"] for c in client.list_endpoint_configs()["EndpointConfigs"]] == ["m"]
    home.delete("a")  # whose name begins another's
    assert home.invoke(endpoint="a-12345678")["model"] == "m"
    client.delete_endpoint_config(EndpointConfigName="m")
    assert message(client.describe_endpoint_config, EndpointConfigName="m") == (
        "Could not find endpoint configuration 'm'."
    )
    assert home.describe("b")["EndpointStatus"] == "InService"


CAPTURED = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": "s3://bucket/capture/",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
}


def test_captured_invocations_have_the_layout_of_the_service(home):
    home.plain("m")
    home.config("captured", model="m", DataCaptureConfig=CAPTURED)
    home.create("captured")
    refusal(home.invoke, b"status 400")  # is not kept
    answer = home.invoke(b"\x89PNG", ContentType="image/png", InferenceId="photo 7")
    top = home.storage.path("s3://bucket/capture/ep/Main")
    (file,) = top.rglob("*.jsonl")
    event = json.loads(file.read_text())
    moment = event["eventMetadata"]["inferenceTime"]
    assert file.parent.relative_to(top).as_posix() == moment[:13].replace("-", "/").replace("T", "/")
    captured = {"observedContentType": "image/png", "mode": "INPUT", "data": "iVBORw==", "encoding": "BASE64"}
    assert event["captureData"]["endpointInput"] == captured
    output = event["captureData"]["endpointOutput"]
    assert (output["mode"], output["encoding"], json.loads(output["data"])) == ("OUTPUT", "JSON", answer)
    assert (event["eventMetadata"]["inferenceId"], event["eventVersion"]) == ("photo 7", "0")


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({"EnableCapture": False}, []),
        ({"InitialSamplingPercentage": 0}, []),
        ({"CaptureOptions": [{"CaptureMode": "Output"}]}, [{"endpointOutput"}]),
        ({"CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}, [{"endpointInput", "endpointOutput"}]),
    ],
)
def test_capture_keeps_what_its_configuration_says(tmp_path, settings, modes):
    storage, config = Storage(State(tmp_path)), {"DataCaptureConfig": {**CAPTURED, **settings}}
    capture(storage, config, ("ep", "v"), ({"Content-Type": "text/csv"}, b"1"), servers.Answer(200, {}, b"2"))
    files = storage.root.rglob("*.jsonl")
    assert [set(json.loads(file.read_text())["captureData"]) for file in files] == modes
