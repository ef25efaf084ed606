"""Endpoints with real servers: created, asked, captured, updated, killed, asleep, woken, deleted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from pipeline.local.jobs import servers
from tests.local.lab import IMAGE
from tests.local.samples import (
    ROOT,
    SERVER,
    command_line,
    definition,
    model_archive,
    packed,
    processes_of,
    python_step,
    run_cli,
    wait_until,
)
from tests.local.serving.serving_home import Home, cases, message, refusal

NOT_UP = "The server did not pass /ping: "


def kill(server):
    os.kill(server["pid"], signal.SIGKILL)
    wait_until(lambda: not servers.is_running(server) and servers.is_free(server["port"]))  # its threads end later


def listed(home, *options):
    return run_cli("endpoints", *options, "--home", home.folder).stdout


def row(home):
    """Status and address of the endpoint."""
    [row] = json.loads(listed(home, "--json"))
    return row["status"], row["url"]


def post(port):
    """The model's name, by plain HTTP to an endpoint's port."""
    with urlopen(f"http://127.0.0.1:{port}/invocations", b"x", timeout=20) as answer:
        return json.load(answer)["model"]


def at_once(count, call):
    """What so many threads get that call at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def test_an_endpoint_is_created_asked_listed_and_deleted(home, monkeypatch):
    home.model("m", SECONDS_TO_START="0.4")
    for name in ("b", "ep", "ep-12345678"):
        home.create("m", name)
    found = home.describe("ep-12345678")
    arn = "arn:aws:sagemaker:us-east-1:000000000000:endpoint/ep-12345678"
    assert (found["EndpointStatus"], found["EndpointArn"]) == ("Creating", arn)
    headers = {"ContentType": "image/png", "Accept": "application/json;verbose=1", "CustomAttributes": "trace=1"}
    answer = home.answer(bytes(range(256)), **headers)  # an invocation waits
    assert answer.items() >= {"InvokedProductionVariant": "Main", "CustomAttributes": "seen"}.items()
    said = json.loads(answer["Body"])
    names = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes")
    assert (said["bytes"], [said["headers"][name] for name in names]) == (256, list(headers.values()))
    found = home.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "m")
    assert [(v["VariantName"], v["CurrentWeight"]) for v in found["ProductionVariants"]] == [("Main", 1.0)]
    for status, fault in ((400, "client"), (415, "client"), (500, "server"), (503, "server")):
        refused = refusal(home.invoke, f"status {status}")
        assert (refused["Error"]["Code"], refused["OriginalStatusCode"]) == ("ModelError", status)
        assert json.loads(refused["OriginalMessage"])["model"] == "m"
        assert refused["Error"]["Message"].startswith(f'Received {fault} error ({status}) from primary with message "')
    monkeypatch.setattr(servers, "ANSWER_TIMEOUT_SECONDS", 0.3)
    refused = refusal(home.invoke, b"sleep 20")
    assert (refused["OriginalStatusCode"], refused["OriginalMessage"][:25]) == (0, "Your invocation timed out")
    monkeypatch.undo()
    assert "TargetContainerHostname is not served here" in message(home.answer, "x", TargetContainerHostname="a")
    assert message(home.create, "m") == "Cannot create already existing endpoint 'ep'."
    assert message(home.create, "m", "../ep").startswith("EndpointName must ")
    assert message(home.create, "nothing", "other") == "Could not find endpoint configuration 'nothing'."
    home.delete()  # whose name begins another's
    assert message(home.describe) == "Could not find endpoint 'ep'."
    assert message(home.invoke) == "Endpoint ep of account 000000000000 not found."
    home.sagemaker.delete_endpoint_config(EndpointConfigName="m")
    assert home.invoke(endpoint="ep-12345678")["model"] == "m"
    pages = home.sagemaker.get_paginator("list_endpoints").paginate(MaxResults=1)
    assert [found["EndpointName"] for page in pages for found in page["Endpoints"]] == ["ep-12345678", "b"]
    for narrow, names in ({"StatusEquals": "Failed"}, []), ({"NameContains": "b"}, ["b"]):
        assert [found["EndpointName"] for found in home.sagemaker.list_endpoints(**narrow)["Endpoints"]] == names


def test_a_model_without_a_server_gets_its_images_and_one_that_brings_its_own_that(home, tmp_path):
    (tmp_path / "image").mkdir()
    program = tmp_path / "image/serve.py"
    program.write_text(f"import os\nos.environ['FROM'] = 'image'\n{SERVER}")
    servers.put_image(home.state, IMAGE, program)
    archive = packed({"name.txt": "bare"})
    home.storage.write("s3://bucket/bare.tar.gz", archive)
    settings = {"SAGEMAKER_PROGRAM": "serve.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/program"}
    home.served("bare", {"Image": IMAGE, "ModelDataUrl": "s3://bucket/bare.tar.gz", "Environment": settings})
    answer = home.invoke()
    assert (answer["model"], answer["environment"]["FROM"]) == ("bare", "image")
    home.model("own")  # as older versions, and foreign ones
    home.update("own")
    home.settled()
    answer = home.invoke()
    assert (answer["model"], answer["environment"].get("FROM")) == ("own", None)


def test_a_server_that_does_not_come_up_fails_the_endpoint(home, monkeypatch):
    script = "import os\nos.ftruncate(1, 4 << 30)\nraise SystemExit('\\nValueError: no such weights')"  # a large log
    home.model("m", home.container("m", {"code/serve.py": script}))
    home.create("m")
    found = home.settled()
    log = next((home.folder / "endpoints" / "ep").glob("*/log.txt"))
    reason = f"{NOT_UP}ValueError: no such weights (log: {log})"
    assert (found["EndpointStatus"], found["FailureReason"]) == ("Failed", reason)
    assert message(home.invoke) == f"Endpoint 'ep' is Failed. {reason}"
    assert message(home.update, "m") == "Cannot update endpoint 'ep' while its status is Failed."
    monkeypatch.setattr(servers, "STARTUP_SECONDS", 0.5)
    home.model("deaf", MODE="deaf")
    home.create("deaf", "late")
    assert home.settled("late")["FailureReason"].startswith(f"{NOT_UP}it printed nothing (log: ")
    variant = {"VariantName": "V", "ModelName": "deaf", "ContainerStartupHealthCheckTimeoutInSeconds": 90}
    home.sagemaker.create_endpoint_config(EndpointConfigName="slow", ProductionVariants=[variant])
    home.create("slow", "patient")
    time.sleep(0.6)
    assert home.describe("patient")["EndpointStatus"] == "Creating"


def test_what_cannot_be_served_is_refused_and_leaves_nothing(home):
    archives = {
        "broken": b"no archive",
        "cut": model_archive("cut")[:-60],
        "damaged": model_archive("damaged")[:40] + b"\x00" * 200,
        "hostile": model_archive("hostile", **{"../../outside": "x"}),
    }
    containers = {
        "other": home.container("other", {}, SAGEMAKER_PROGRAM="other.py"),
        "anonymous": home.container("anonymous", SAGEMAKER_PROGRAM=""),
        "odd": home.container("odd", {"code/inference.py": "def model_fn(:"}),
        **{name: home.container(name) for name in (*archives, "gone")},
    }
    for name, container in containers.items():
        home.model(name, container)
    for name, content in archives.items():
        home.storage.write(f"s3://bucket/{name}/model.tar.gz", content)
    (home.folder / "s3/bucket/gone/model.tar.gz").unlink()
    reasons = {name: f"s3://bucket/{name}/model.tar.gz is not a usable .tar.gz: " for name in archives} | {
        "other": "its data holds no code/other.py, and what its image any:1 would serve it",
        "anonymous": "SAGEMAKER_PROGRAM is empty",
        "odd": "The model's code/inference.py is not Python",
        "gone": "Could not access model data: s3://bucket/gone/model.tar.gz does",
    }
    for name, reason in reasons.items():
        assert reason in message(home.create, name)
    assert home.sagemaker.list_endpoints()["Endpoints"] == []
    assert not (home.folder / "outside").exists()


def test_the_old_server_answers_until_the_new_one_is_healthy_at_the_same_port(home, monkeypatch):
    monkeypatch.setattr(servers, "BIND_SECONDS", 1)
    first, answers = home.served("old"), []
    port, process = first["port"], home.invoke()["process"]
    home.model("new", SECONDS_TO_START="0.6")
    home.model("bad", MODE="dies")
    home.update("bad")
    found = home.settled()
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "old")
    assert found["FailureReason"].startswith(f"{NOT_UP}ValueError: no such weights (log: ")
    assert home.invoke()["process"] == process

    def ask():
        mine = Home(home.folder)
        while answers[-6:] != ["new"] * 6:
            answers.append(mine.invoke()["model"])

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask), pool.submit(ask)]
        wait_until(lambda: answers)
        home.update("new")
        found = home.describe()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("Updating", "old")
        assert found["PendingDeploymentSummary"]["EndpointConfigName"] == "new"
        assert message(home.update, "old") == "Cannot update endpoint 'ep' while its status is Updating."
        found = home.settled()
        assert [thread.result() for thread in asking] == [None, None]
    assert set(answers) == {"old", "new"}
    assert (found["EndpointConfigName"], {"PendingDeploymentSummary", "FailureReason"} & found.keys()) == ("new", set())
    assert not servers.is_running(first)
    assert not Path(first["folder"]).exists()
    wait_until(lambda: not servers.is_free(port))
    assert post(port) == "new"
    home.update("old")
    kill(home.settled() and home.server())
    wait_until(lambda: not processes_of(home.folder))
    with socket.create_server(("127.0.0.1", port)):
        assert home.invoke()["model"] == "old"
        wait_until(lambda: f"Another program has taken port {port}, so the endpoint has port" in listed(home))
        assert row(home) == ("InService", f"http://127.0.0.1:{home.server()['port']}")
        assert home.server()["port"] != port


def test_an_endpoint_whose_server_was_killed_or_idle_is_asleep_and_invocations_wake_it_at_its_port(home):
    first = home.served(SECONDS_TO_START="0.3")
    url = f"http://127.0.0.1:{first['port']}"
    assert row(home) == ("InService", url)
    kill(first)
    assert row(home) == ("Asleep", url)
    shown = "ep: Its server has ended; wake it with: run_pipeline.py invoke --endpoint ep IMAGE"
    assert shown in listed(home)
    assert home.describe()["EndpointStatus"] == "InService"  # the API has no other word
    assert set(at_once(4, lambda: Home(home.folder).invoke()["process"])) == {home.invoke()["process"]}
    assert len(processes_of(home.folder)) == 1
    assert (home.server()["port"], post(first["port"])) == (first["port"], "m")
    assert not Path(first["folder"]).exists()
    home.state.change("Endpoint", "ep", lambda found: found["Server"].update(startup_seconds=0))  # long ago
    for word in (b"drop", b"crash 1"):
        refused = refusal(home.invoke, word)["Error"]
        found = (refused["Code"], refused["Message"])
        assert found == ("ServiceUnavailable", "The server of endpoint 'ep' does not answer.")
        assert home.invoke()["model"] == "m"
    kill(home.server())
    code = model_archive("m", **{"code/serve.py": "raise SystemExit('the disk is full')"})
    home.storage.write("s3://bucket/m/model.tar.gz", code)
    refused = refusal(home.invoke)["Error"]
    assert refused["Code"] == "ServiceUnavailable"
    assert f"'ep' did not start again: {NOT_UP}the disk is full (log: " in refused["Message"]
    home.state.put("Settings", "endpoints", {"idle_seconds": 0.7})
    home.model("idle")
    home.create("idle", "idle")
    wait_until(lambda: not processes_of(home.folder))  # even before anybody has looked at it
    assert home.invoke(endpoint="idle")["model"] == "idle"
    assert home.describe("idle")["EndpointStatus"] == "InService"


def test_a_connection_wakes_an_endpoint_while_a_run_is_in_progress(home):
    first = home.served(SECONDS_TO_START="0.3")
    port = first["port"]
    kill(first)
    file = home.folder.parent / "definition.json"
    file.write_text(json.dumps(definition(python_step("Wait", "import time; time.sleep(600)"))))
    words = command_line("run", "--definition", file, "--home", home.folder)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: not servers.is_free(port))
        assert at_once(5, lambda: post(port)) == ["m"] * 5
        kill(home.server())
        wait_until(lambda: not servers.is_free(port))
        assert home.invoke()["model"] == "m"  # whoever else starts the server meanwhile gets the port all the same
        assert post(port) == "m"
        run.send_signal(signal.SIGINT)
    assert post(port) == "m"  # and it serves on without the run


def test_a_server_outlives_the_process_that_started_it_and_knows_nothing_of_it(home):
    home.model("m")
    code = (
        "import sys; from pathlib import Path; from pipeline.local import session; "
        "session(Path(sys.argv[1])).client('sagemaker').create_endpoint(EndpointName='ep', EndpointConfigName='m')"
    )
    names = ("LOCAL_JOB_FOLDER", "AWS_SESSION_TOKEN", "AWS_PROFILE", "SM_CHANNEL_TRAIN", "GITHUB_TOKEN")
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(names, "secret")}
    subprocess.run([sys.executable, "-c", code, str(home.folder)], env=settings, cwd=ROOT, check=True)
    assert home.settled()["EndpointStatus"] == "InService"
    seen = home.invoke()["environment"]
    assert not seen.keys() & set(names)
    assert str(ROOT) not in seen["PYTHONPATH"].split(os.pathsep)
    assert seen["HOME"].startswith(str(home.folder))
    assert (seen["AWS_REGION"], seen["AWS_ACCESS_KEY_ID"]) == ("us-east-1", "local")


def test_deleting_ends_whatever_serves_the_endpoint(home, monkeypatch):
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.3)
    stubborn = home.served(MODE="stubborn")
    home.delete()
    assert not servers.is_running(stubborn)
    home.model("new", SECONDS_TO_START="20")
    home.create("new", "young")
    server = home.served("old")
    home.update("new")
    wait_until(lambda: len(processes_of(home.folder)) == 3)
    home.state.change("Endpoint", "ep", lambda document: document.update(Server=None))  # its starter was killed
    home.delete("young")
    home.delete()
    wait_until(lambda: not processes_of(home.folder))
    wait_until(lambda: not servers.is_running(server))


def test_invocations_are_captured_in_the_layout_of_the_service(home):
    home.model("m")
    for name, case in cases("captures").items():
        home.config(name, model="m", DataCaptureConfig=case["settings"])
        home.create(name, name)
        sides = case["sides"] and set(case["sides"])
        refusal(home.invoke, b"status 400", name)  # is not kept
        answer = home.invoke(b"\x89PNG", name, ContentType="image/png", InferenceId="photo 7")
        top = home.storage.path(f"s3://bucket/capture/{name}/Main")
        files = list(top.rglob("*.jsonl"))
        assert len(files) == (0 if sides is None else 1)
        for file in files:
            event = json.loads(file.read_text())
            moment = event["eventMetadata"]["inferenceTime"]
            assert file.parent.relative_to(top).as_posix() == moment[:13].replace("-", "/").replace("T", "/")
            assert (event["eventMetadata"]["inferenceId"], event["eventVersion"]) == ("photo 7", "0")
            assert event["captureData"].keys() == sides
            output = event["captureData"]["endpointOutput"]
            assert (output["mode"], output["encoding"], json.loads(output["data"])) == ("OUTPUT", "JSON", answer)
            captured = {"observedContentType": "image/png", "mode": "INPUT", "data": "iVBORw==", "encoding": "BASE64"}
            assert event["captureData"].get("endpointInput", captured) == captured
