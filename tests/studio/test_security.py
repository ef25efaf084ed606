"""Who may ask the server, which files it shows, and what becomes of it when it is ended or started twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.local.samples import command_line, run_cli
from tests.studio.conftest import Studio

SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/sagemaker/aws4_request", "X-Amz-Target":
          "SageMaker.ListPipelines", "Content-Type": "application/x-amz-json-1.1"}  # fmt: skip
EMPTY, ROLE = '{"Version": "2020-12-01", "Steps": []}', "arn:aws:iam::000000000000:role/any"
FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example:{port}"},
    {"Host": "127.0.0.1"},
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Host": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
]


def asked(studio: Studio, method: str, headers: dict[str, str], path: str = "/executions") -> requests.Response:
    port = studio.url.rpartition(":")[2]
    given = {name: text.format(port=port) for name, text in headers.items()}
    cookies = studio.browser.cookies
    return requests.request(method, studio.url + path, headers=given, cookies=cookies, timeout=10, data="{}")


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_site_is_answered_nothing_though_the_browser_has_the_cookie(
    studio: Studio, method: str, headers: dict[str, str]
) -> None:
    assert asked(studio, method, headers).status_code == 403
    assert asked(studio, method, {**SIGNED, **headers}, "/").status_code == 403


@pytest.mark.parametrize("more", ["Host: evil.example", "Origin: https://evil.example"])
def test_a_second_host_or_origin_is_not_passed_over(studio: Studio, more: str) -> None:
    port, cookies = int(studio.url.rpartition(":")[2]), "; ".join(map("=".join, studio.browser.cookies.items()))
    lines = ["POST /schedules HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: {studio.url}", more, f"Cookie: {cookies}"]
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode())
        assert client.recv(99).startswith(b"HTTP/1.1 403")


def test_a_form_of_another_site_is_refused_and_so_is_a_request_to_the_api_from_any_page(studio: Studio) -> None:
    assert asked(studio, "POST", {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert asked(studio, "POST", {**SIGNED, "Sec-Fetch-Site": "same-origin"}, "/").status_code == 403
    assert asked(studio, "OPTIONS", {"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("cookie", [{}, {"studio": "x"}, {"studio-{port}": "wrong"}, {"studio-{port}": "\u00e9"}])
def test_without_the_token_no_page_is_shown(studio: Studio, cookie: dict[str, str]) -> None:
    port = studio.url.rpartition(":")[2]
    text = "; ".join(f"{name.format(port=port)}={value}" for name, value in cookie.items())
    for path in ("/", "/executions", "/static/studio.css", "/objects/local/x", f"/?token=x{studio.token}", "/?token="):
        found = requests.get(studio.url + path, headers={"Cookie": text.encode()}, timeout=10)
        assert (found.status_code, "run_pipeline.py studio" in found.text) == (403, True)


OTHER_USER = """
import os, socket, struct, sys
way, port, request = sys.argv[1], int(sys.argv[2]), sys.stdin.buffer.read()
os.setgid(65534)
os.setuid(65534)
client = socket.socket(socket.AF_INET6 if way == "IPv6" else socket.AF_INET)
client.connect(("::ffff:127.0.0.1" if way == "IPv6" else b"127.0.0.1", port))
if way == "reset":
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.sendall(request)
print(client.recv(9999).decode() if way.startswith("IP") else client.close())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user: run as root")
@pytest.mark.parametrize("way", ["IPv4", "IPv6", "close", "reset"])
def test_the_api_answers_no_other_user(studio: Studio, way: str) -> None:
    port, name = studio.url.rpartition(":")[2], f"by-{way}"
    body = json.dumps(
        {"PipelineName": name, "PipelineDefinition": EMPTY, "RoleArn": ROLE, "ClientRequestToken": "t" * 32}
    )
    headers = {**SIGNED, "X-Amz-Target": "SageMaker.CreatePipeline", "Host": f"127.0.0.1:{port}"}
    headers["Content-Length"] = str(len(body))
    lines = ["POST / HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()), "", body]
    for _ in range(3):
        words = [sys.executable, "-c", OTHER_USER, way, port]
        said = subprocess.run(words, input="\r\n".join(lines), capture_output=True, text=True, timeout=10, check=True)
        assert not way.startswith("IP") or said.stdout.startswith("HTTP/1.1 403")
    time.sleep(0.2)
    known = studio.client("sagemaker").list_pipelines(PipelineNamePrefix=name)["PipelineSummaries"]
    assert known == []


def test_files_are_the_homes_objects_and_reports_alone_and_can_do_nothing(studio: Studio, tmp_path: Path) -> None:
    bucket, secret = studio.home / "s3/bucket", tmp_path / "secret"
    (bucket / "folder").mkdir(parents=True)
    secret.write_text("hidden words")
    (bucket / "page.html").write_text("<script>fetch('/')</script>")
    (bucket / "picture.svg").write_text("<svg/>")
    (bucket / "link").symlink_to(secret)
    (bucket / "away").symlink_to(tmp_path)
    shown = studio.get("/objects/bucket/page.html")
    assert shown.ok
    assert shown.headers["Content-Security-Policy"].startswith("sandbox ")
    assert "allow-same-origin" not in shown.headers["Content-Security-Policy"]
    assert studio.get("/objects/bucket/picture.svg").headers["Content-Disposition"].startswith("attachment")
    paths = ["link", "away/secret", "../../state.db", "..%2f..%2fstate.db", "%2e%2e/%2e%2e/studio.json",
             f"/{secret}", "page.html%00", "x" * 5000]  # fmt: skip
    for path in paths:
        cookie = "; ".join(f"{name}={value}" for name, value in studio.browser.cookies.items())
        request = requests.Request("GET", studio.url, headers={"Cookie": cookie}).prepare()
        request.url = f"{studio.url}/objects/bucket/{path}"
        found = requests.Session().send(request, timeout=10)
        assert found.status_code == 404, path
        assert "hidden words" not in found.text


def test_a_page_that_is_not_there_says_so(studio: Studio) -> None:
    found = studio.get("/nowhere")
    assert (found.status_code, "This cannot be shown" in found.text) == (404, True)


def test_two_homes_have_two_servers_and_one_home_has_one(studio: Studio, tmp_path: Path) -> None:
    again = subprocess.run(
        command_line("studio", "--home", studio.home), capture_output=True, text=True, timeout=30, check=False
    )
    assert again.returncode == 1
    assert again.stderr == f"A server of this home is running: {studio.url}/?token={studio.token}\n"
    other = Studio(tmp_path / "home", tmp_path / "log")
    assert other.url != studio.url
    other.browser.cookies.update(studio.browser.cookies)
    assert other.token != studio.token
    other.end()


def test_the_link_works_again_after_a_kill(tmp_path: Path) -> None:
    port = str(9000 + os.getpid() % 1000)  # which no other server takes meanwhile
    server = Studio(tmp_path / "home", tmp_path / "log", "--port", port)
    link, record = (server.url, server.token), server.home / "studio.json"
    server.options = ()
    assert record.stat().st_mode & 0o777 == 0o600
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    server.start()
    assert (server.url, server.token) == link
    record.write_text("{")
    server.end()
    server.start()
    assert server.token != link[1]
    server.end()


def test_teardown_ends_the_server_and_leaves_nothing(tmp_path: Path) -> None:
    server = Studio(tmp_path / "home", tmp_path / "log")
    done = run_cli("teardown", "--yes", "--home", server.home)
    assert (done.returncode, server.process.wait(10), server.home.exists()) == (0, 0, False)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = command_line("studio", "--home", tmp_path / "home", "--port", port)
        tried = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert tried.returncode == 2
    assert f"--port: {port} cannot be had" in tried.stderr
    asked_of_aws = subprocess.run(
        command_line("studio", "--target", "aws"), capture_output=True, text=True, timeout=30, check=False
    )
    assert (asked_of_aws.returncode, "SageMaker Studio" in asked_of_aws.stderr) == (2, True)
