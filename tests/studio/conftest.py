"""A server of `run_pipeline.py studio` on a home of its own, asked by browsers' requests and by boto3."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config

from pipeline.local.store.state import State
from tests.local.samples import command_line, wait_until

SESSION = boto3.Session("any", "thing", region_name="us-east-1")  # keeps the services' models


class Studio:
    """The server, started; `process` may be ended and `start` called again."""

    def __init__(self, home: Path, log: Path, *options: str) -> None:
        self.home, self.log, self.options = home, log, options
        self.browser = requests.Session()
        self.start()

    def start(self) -> None:
        """Start the server and follow its link, as a browser does."""
        self.log.write_text("")
        words = command_line("studio", "--home", self.home, "--no-open", *self.options)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=clean_environment())
        wait_until(lambda: "token=" in self.log.read_text() or self.process.poll() is not None)
        found = re.search(r"Page +(http://\S+?)/\?token=(\S+)", self.log.read_text())
        assert found, self.log.read_text()
        self.url, self.token = found.groups()
        assert self.get(f"/?token={self.token}", allow_redirects=False).status_code == 303

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET with the browser's cookie."""
        return self.browser.get(self.url + path, timeout=30, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        """Send a form as the page would."""
        headers = {"Origin": self.url, "Sec-Fetch-Site": "same-origin", **options.pop("headers", {})}
        return self.browser.post(self.url + path, data, timeout=30, headers=headers, **options)

    def client(self, service: str, **settings: Any) -> Any:
        """A boto3 client that knows the address and any credentials, nothing else."""
        return SESSION.client(service, endpoint_url=self.url, config=Config(retries={"max_attempts": 0}, **settings))

    def variables(self) -> dict[str, str]:
        """What a client has to have in its environment."""
        credentials = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "thing"}
        return {"AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1", **credentials}

    def state(self) -> State:
        """The home's records, to be filled by a test."""
        return State(self.home)

    def end(self) -> None:
        """End the server as Ctrl-C does; it has printed no traceback."""
        self.process.terminate()
        assert self.process.wait(10) == 0
        assert "Traceback" not in self.log.read_text()


def clean_environment() -> dict[str, str]:
    """The environment without what it says about AWS."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server on an empty home."""
    folder = tmp_path_factory.mktemp("studio")
    server = Studio(folder / "home", folder / "log")
    yield server
    server.end()
