"""An endpoint's server and port: killed, idle, asleep, woken, moved, ended with its endpoint."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.local.jobs import servers
from pipeline.local.sagemaker.endpoint_servers import waking
from tests.local.samples import ROOT, definition, model_archive, processes_of, python_step, run_cli, wait_until
from tests.local.serving.serving_home import Home, message, refusal


def served(home, name="m", **environment):
    """An endpoint in service."""
    home.plain(name, **environment)
    home.create(name)
    home.settled()
    return home.server()


def kill(server):
    os.kill(server["pid"], signal.SIGKILL)
    wait_until(lambda: not servers.is_running(server) and servers.is_free(server["port"]))  # its threads end later


def listed(home):
    """The row of `endpoints --json`, and what a person sees."""
    [row] = json.loads(run_cli("endpoints", "--json", "--home", home.folder).stdout)
    return row, run_cli("endpoints", "--home", home.folder).stdout


def post(port, body=b"x"):
    """A request of plain HTTP to an endpoint's port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/invocations", body)
    said = json.loads(connection.getresponse().read())
    connection.close()
    return said


def at_once(count, call):
    """What so many threads get that call at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def test_an_endpoint_whose_server_was_killed_is_asleep_and_the_next_invocations_wake_it_at_its_port(home):
    first = served(home, SECONDS_TO_START="0.3")
    url = f"http://127.0.0.1:{first['port']}"
    row, shown = listed(home)
    assert (row["status"], row["url"], row["note"]) == ("InService", url, None)
    kill(first)
    row, shown = listed(home)
    assert (row["status"], row["url"]) == ("Asleep", url)
    assert "ep: Its server has ended; wake it with: run_pipeline.py invoke --endpoint ep IMAGE" in shown
    assert home.describe()["EndpointStatus"] == "InService"  # the API has no other word
    pids = at_once(4, lambda: Home(home.folder).invoke()["pid"])
    assert set(pids) == {home.server()["pid"]} != {first["pid"]}
    assert len(processes_of(home.folder)) == 1
    assert (home.server()["port"], post(first["port"])["model"]) == (first["port"], "m")
    assert not Path(first["folder"]).exists()
    refused = refusal(home.invoke, b"crash 1")["Error"]
    found = ("ServiceUnavailable", "The server of endpoint 'ep' does not answer.")
    assert (refused["Code"], refused["Message"]) == found
    assert home.invoke()["model"] == "m"


def test_an_idle_server_ends_even_before_anybody_has_looked_at_it(home):
    home.state.put("Settings", "endpoints", {"idle_seconds": 0.7})
    home.plain("m")
    home.create("m")
    wait_until(lambda: not processes_of(home.folder))
    assert home.describe()["EndpointStatus"] == "Creating"
    assert home.invoke()["model"] == "m"
    assert home.describe()["EndpointStatus"] == "InService"


def test_a_connection_wakes_an_endpoint_while_a_process_of_ours_runs(home):
    first = served(home, SECONDS_TO_START="0.3")
    kill(first)
    with waking(home.folder):
        wait_until(lambda: not servers.is_free(first["port"]))
        assert at_once(5, lambda: post(first["port"])["model"]) == ["m"] * 5
    assert post(first["port"])["pid"] == home.server()["pid"]  # and serves on without that process
    kill(home.server())
    wait_until(lambda: not processes_of(home.folder))
    wait_until(lambda: servers.is_free(first["port"]))
    with waking(home.folder):  # whoever else starts the server meanwhile gets the port all the same
        wait_until(lambda: not servers.is_free(first["port"]))
        assert home.invoke()["model"] == "m"
        assert post(first["port"])["model"] == "m"
    wait_until(lambda: home.describe() and post(first["port"])["model"] == "m")


def test_a_run_in_progress_wakes_an_endpoint(home):
    first = served(home)
    kill(first)
    script = f"""
import http.client, time
connection = http.client.HTTPConnection("127.0.0.1", {first["port"]})
for attempt in range(100):
    try:
        connection.request("POST", "/invocations", b"x")
        break
    except OSError:
        time.sleep(0.1)
print(connection.getresponse().status)
"""
    file = home.folder.parent / "definition.json"
    file.write_text(json.dumps(definition(python_step("Ask", script))))
    done = run_cli("run", "--definition", file, "--home", home.folder, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert post(first["port"])["model"] == "m"


def test_the_port_stays_over_updates_and_what_takes_it_is_told(home, monkeypatch):
    monkeypatch.setattr(servers, "BIND_SECONDS", 0.5)
    first = served(home, "old")
    port = first["port"]
    home.plain("new")
    for name in ("new", "old"):
        home.update(name)
        home.settled()
        wait_until(lambda: not servers.is_free(port))
        assert post(port)["model"] == name
    kill(home.server())
    wait_until(lambda: servers.is_free(port) and not processes_of(home.folder))
    with socket.create_server(("127.0.0.1", port)):
        assert home.invoke()["model"] == "old"
        wait_until(lambda: "Another program has taken port" in listed(home)[1])
        row, shown = listed(home)
        assert row["url"] == f"http://127.0.0.1:{home.server()['port']}" != f"http://127.0.0.1:{port}"
        assert f"Another program has taken port {port}, so the endpoint has port" in shown


def test_a_server_that_does_not_come_up_again_is_told_and_ended(home):
    first = served(home)
    kill(first)
    code = model_archive("m", **{"code/serve.py": "raise SystemExit('the disk is full')"})
    home.storage.write("s3://bucket/m/model.tar.gz", code)
    refused = refusal(home.invoke)["Error"]
    assert refused["Code"] == "ServiceUnavailable"
    assert "'ep' did not start again: The server did not pass /ping: the disk is full (log: " in refused["Message"]
    assert not processes_of(home.folder)
    home.storage.write("s3://bucket/m/model.tar.gz", model_archive("m"))
    assert home.invoke()["model"] == "m"


def test_a_server_outlives_the_process_that_started_it_and_knows_nothing_of_it(home):
    home.plain("m")
    code = (
        "import boto3, sys; from pathlib import Path; from pipeline.local.sagemaker.session import local_session; "
        "from pipeline.local.store.state import State; "
        "client = local_session(State(Path(sys.argv[1]))).client('sagemaker'); "
        "client.create_endpoint(EndpointName='ep', EndpointConfigName='m')"
    )
    secrets = {
        "LOCAL_JOB_NAME": "pipelines-abc-Deploy-xyz",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_PROFILE": "mine",
        "SM_CHANNEL_TRAIN": "/nowhere",
        "GITHUB_TOKEN": "secret",
    }
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **secrets}
    subprocess.run([sys.executable, "-c", code, str(home.folder)], env=settings, cwd=ROOT, check=True)
    assert home.settled()["EndpointStatus"] == "InService"
    seen = home.invoke()["environment"]
    assert secrets.keys().isdisjoint(seen)
    assert str(ROOT) not in seen["PYTHONPATH"].split(os.pathsep)
    assert seen["HOME"].startswith(str(home.folder))
    assert (seen["AWS_REGION"], seen["AWS_ACCESS_KEY_ID"]) == ("us-east-1", "local")


def test_deleting_ends_whatever_serves_the_endpoint(home, monkeypatch):
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.3)
    stubborn = served(home, MODE="stubborn")
    home.delete()
    assert not servers.is_running(stubborn)
    home.plain("old")
    home.plain("new", SECONDS_TO_START="20")
    home.create("new", "young")
    home.create("old")
    home.settled()
    home.update("new")
    wait_until(lambda: len(processes_of(home.folder)) == 3)
    server = home.server()
    home.state.change("Endpoint", "ep", lambda document: document.update(Server=None))  # its starter was killed
    home.delete("young")
    home.delete()
    wait_until(lambda: not processes_of(home.folder))
    assert not servers.is_running(server)
    assert message(home.invoke) == "Endpoint ep of account 000000000000 not found."
