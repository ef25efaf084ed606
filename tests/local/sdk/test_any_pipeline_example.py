"""The example of docs/any-pipeline.md, run as it stands, in a shell that is set up for AWS in another region."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.lab import ROOT
from tests.local.sdk.conftest import FOREIGN


def test_the_example_runs_as_it_stands_and_sends_nothing(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = {**os.environ, **FOREIGN, "PYTHONPATH": str(ROOT), "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    example = (ROOT / "docs/any-pipeline.md").read_text().partition("```python\nfrom pathlib")[2].partition("```")[0]
    words = [sys.executable, "-c", f"from pathlib{example}"]
    with listener:
        done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
        assert done.stdout.splitlines()[-2:] == ["['Succeeded']", "45"], done.stderr[-2000:]
        with pytest.raises(TimeoutError):  # nobody has connected
            listener.accept()
