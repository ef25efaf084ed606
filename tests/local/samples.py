"""What tests of the local target run: steps of a line of Python, a model served by the standard library, processes."""

import contextlib
import io
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.local.lab import ROOT, packed, processing_step

SERVER = (ROOT / "tests/local/cases/serve.py").read_text()


def model_archive(name: str, **files: str | bytes) -> bytes:
    """A model.tar.gz whose server says its name."""
    return packed({"name.txt": name, "code/serve.py": SERVER, **files})


def wheel(name: str, version: str) -> tuple[str, bytes]:
    """A wheel of one module and one program; its file's name and its bytes."""
    module, stream = name.replace("-", "_"), io.BytesIO()
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"VERSION = {version!r}\ndef main():\n    print('tool', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    return f"{module}-{version}-py3-none-any.whl", stream.getvalue()


def python_step(name: str, code: str, *, depends_on: Sequence[str] = (), **members: Any) -> dict[str, Any]:
    """A Processing step that runs a line of Python."""
    return processing_step(name, ["python3", "-c", code], DependsOn=list(depends_on), **members)


def definition(*steps: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"Version": "2020-12-01", "Metadata": {}, "Parameters": [], "Steps": list(steps), **members}


def command_line(*words: object) -> list[str]:
    """The words that start run_pipeline.py."""
    return [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)]


def run_cli(*words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
    """run_pipeline.py, to its end."""
    how = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL, **settings}
    return subprocess.run(command_line(*words), **how)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until the condition holds; a failure when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def processes_of(folder: Path) -> list[int]:
    """Processes that were told of a folder, by their arguments or their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if os.fsencode(folder) in told and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def zombies() -> list[int]:
    """Children of this process that have ended and that nobody has waited for."""
    return [child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]
