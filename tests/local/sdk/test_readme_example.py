"""The README's example, run as a program of its own, in a shell that is set up for AWS in another region."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.local.lab import ROOT


def test_the_example_runs_as_it_stands_and_sends_nothing(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIAREAL",
        "AWS_SECRET_ACCESS_KEY": "real",
        "HTTPS_PROXY": proxy,
        "HTTP_PROXY": proxy,
    }
    example = (ROOT / "README.md").read_text().partition("```python\nfrom pathlib")[2].partition("```")[0]
    with listener:
        done = subprocess.run(
            [sys.executable, "-c", f"from pathlib{example}"],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.splitlines()[-2:] == ["['Succeeded']", "45"], done.stderr[-2000:]
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return
        raise AssertionError(f"the SDK sent {connection.recv(1000)!r}")
