"""An empty AWS account behind HTTP, for command lines that know of it by their environment alone."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

BRIDGE = Path(__file__).with_name("moto_bridge.py")
START_SECONDS = 60
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301010018dd8db00000"
    "000049454e44ae426082"
)


@dataclass(frozen=True)
class Account:
    """The account's address, and how a process reaches it."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that has nothing but these variables to find the account by."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {
            **ours,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str) -> Any:
        """A boto3 client of the account, for what AWS itself would do and moto does not."""
        session = boto3.Session("key", "secret", region_name="us-east-1")
        return session.client(service, endpoint_url=self.url)


@contextlib.contextmanager
def served_account() -> Iterator[Account]:
    """A bridged moto server of its own, ended with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(BRIDGE), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(server, port)
        yield Account(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(timeout=10)


def wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None, "moto's server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, "moto's server does not answer"
        time.sleep(0.05)


def small_photos(folder: Path) -> None:
    """Two classes of a few tiny images."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.png").write_bytes(PIXEL + bytes([number]))
