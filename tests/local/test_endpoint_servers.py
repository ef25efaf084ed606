"""An endpoint's server: killed, crashed, idle, started again, ended with its endpoint."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.local.jobs import servers
from pipeline.local.sagemaker import endpoints
from pipeline.local.store.storage import Storage
from tests.local.endpoint_world import World, a_world, message, refusal
from tests.local.samples import ROOT, model_archive, processes_of, wait_until


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    yield from a_world(tmp_path)


def test_a_killed_server_is_started_again_by_the_next_invocation(world):
    world.model("m")
    world.create("m")
    world.settled()
    first = world.server()
    os.kill(first["pid"], signal.SIGKILL)
    assert world.invoke()["pid"] != first["pid"]
    assert world.describe()["EndpointStatus"] == "InService"
    assert not Path(first["folder"]).exists()


def test_a_server_that_crashes_over_a_request_is_started_again_for_the_next(world):
    world.model("m")
    world.create("m")
    world.settled()
    refused = refusal(world.invoke, b"crash 1")
    assert refused["Error"]["Code"] == "ServiceUnavailable"
    assert refused["Error"]["Message"] == "The server of endpoint 'ep' does not answer."
    assert world.invoke()["model"] == "m"


def test_two_invocations_of_a_dead_server_start_one(world):
    world.model("m", SECONDS_TO_START="0.3")
    world.create("m")
    world.settled()
    os.kill(world.server()["pid"], signal.SIGKILL)
    pids: list[int] = []
    worlds = [World(world.home) for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: pids.append(mine.invoke()["pid"])) for mine in worlds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert set(pids) == {world.server()["pid"]}
    assert len(processes_of(world.home)) == 1


def test_an_idle_server_ends_and_the_next_invocation_starts_it(world):
    world.state.put("Settings", "endpoints", {"idle_seconds": 0.8})
    world.model("m")
    world.create("m")
    world.settled()
    first = world.server()
    wait_until(lambda: not servers.is_running(first), seconds=3)
    assert world.describe()["EndpointStatus"] == "InService"
    assert world.invoke()["pid"] != first["pid"]


def test_a_server_that_was_idle_before_anybody_looked_at_it_has_not_failed(world):
    world.state.put("Settings", "endpoints", {"idle_seconds": 0.7})
    world.model("m")
    world.create("m")
    wait_until(lambda: not processes_of(world.home))
    assert world.describe()["EndpointStatus"] == "Creating"
    assert world.invoke()["model"] == "m"
    assert world.describe()["EndpointStatus"] == "InService"


def test_a_server_that_does_not_come_up_again_is_told_and_ended(world, monkeypatch):
    world.model("m")
    world.create("m")
    world.settled()
    os.kill(world.server()["pid"], signal.SIGKILL)
    code = model_archive("m", **{"code/serve.py": "raise SystemExit('the disk is full')"})
    Storage(world.state).write("s3://bucket/m/model.tar.gz", code)
    refused = refusal(world.invoke)["Error"]
    assert refused["Code"] == "ServiceUnavailable"
    assert refused["Message"].startswith(
        "Endpoint 'ep' did not start again: The server did not pass /ping: the disk is full (log: "
    )
    assert not processes_of(world.home)
    Storage(world.state).write("s3://bucket/m/model.tar.gz", model_archive("m"))
    assert world.invoke()["model"] == "m"


def test_a_server_outlives_the_process_that_started_it_and_knows_nothing_of_it(world):
    world.model("m")
    code = (
        "import boto3, sys; from pathlib import Path; from pipeline.local.sagemaker.session import local_session; "
        "from pipeline.local.store.state import State; "
        "client = local_session(State(Path(sys.argv[1]))).client('sagemaker'); "
        "client.create_endpoint(EndpointName='ep', EndpointConfigName='m')"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}/of/the/user",
        "LOCAL_JOB_NAME": "pipelines-abc-Deploy-xyz",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_LAMBDA_FUNCTION_NAME": "deploy",
        "SM_CHANNEL_TRAIN": "/nowhere",
    }
    subprocess.run([sys.executable, "-c", code, str(world.home)], env=environment, cwd=ROOT, check=True)
    assert world.settled()["EndpointStatus"] == "InService"
    seen = world.invoke()["environment"]
    unknown = ("LOCAL_JOB_NAME", "AWS_LAMBDA_FUNCTION_NAME", "SM_CHANNEL_TRAIN")
    assert [name for name in unknown if name in seen] == []
    assert seen["AWS_SECRET_ACCESS_KEY"] == "local"
    assert seen["AWS_REGION"] == "us-east-1"
    assert seen["SM_MODEL_DIR"] == str(Path(world.server()["folder"]) / "model")


def test_deleting_ends_a_server_that_does_not_want_to(world, monkeypatch):
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.3)
    world.model("m", MODE="stubborn")
    world.create("m")
    world.settled()
    server = world.server()
    world.delete()
    assert not servers.is_running(server)


def test_deleting_ends_servers_that_no_record_knows(world):
    world.model("m")
    world.create("m")
    world.settled()
    stray = endpoints.start(world.state, "ep", world.state.get("EndpointConfig", "m"))  # then its starter was killed
    world.delete()
    wait_until(lambda: not servers.is_running(stray), seconds=3)


def test_deleting_while_it_is_created_or_updated_ends_both_servers(world):
    world.model("old")
    world.model("new", SECONDS_TO_START="20")
    world.create("new", "young")
    world.create("old")
    world.settled()
    world.update("new")
    wait_until(lambda: len(processes_of(world.home)) == 3)
    world.delete("young")
    world.delete()
    assert not processes_of(world.home)
    assert message(world.invoke) == "Endpoint ep of account 000000000000 not found."


def test_an_endpoint_whose_name_begins_another_ones_is_deleted_alone(world):
    world.model("m")
    world.create("m", "a")
    world.create("m", "a-12345678")
    world.settled("a"), world.settled("a-12345678")
    world.delete("a")
    assert world.invoke(endpoint="a-12345678")["model"] == "m"
