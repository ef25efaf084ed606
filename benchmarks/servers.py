"""Servers that benchmarks start, each with its port and its process."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STEPS = Path(__file__).resolve().parents[1] / "steps"
sys.path.insert(0, str(STEPS))

from classifier.job.system import core_count  # noqa: E402 - found by the line above

HOST = "127.0.0.1"
START_SECONDS = 90.0
END_SECONDS = 40.0
CORES = core_count()
INFERENCE_PATH = "/invocations"
TORCHSERVE_PATH = "/predictions/network"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    process: "subprocess.Popen[bytes]"
    port: int
    path: str  # of its predictions
    ready_seconds: float  # from the start of its process to the first good ping

    def page(self, path: str) -> str:
        """What it answers to GET."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def runtime(self) -> str:
        """Of ours: what runs the network."""
        return self.page("/metrics").partition('runtime="')[2].partition('"')[0]


@contextmanager
def ours(model_dir: Path, *, log: Path | None = None, **settings: str) -> Iterator[Running]:
    """steps/serve.py, as the container runs it; `settings` are environment variables."""
    port = free_port()
    environment = {"SM_MODEL_DIR": str(model_dir), "BIND_HOST": HOST, "SAGEMAKER_BIND_TO_PORT": str(port)}
    command = [sys.executable, str(STEPS / "serve.py"), "serve"]
    with started(command, environment | settings, port, INFERENCE_PATH, log) as server:
        yield server


@contextmanager
def plain(model_dir: Path) -> Iterator[Running]:
    """plain_server.py with a thread of PyTorch's for each request, which serves it best when there are several."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("plain_server.py")), str(model_dir), str(port)]
    with started(command, {"OMP_NUM_THREADS": "1"}, port, INFERENCE_PATH) as server:
        yield server


@contextmanager
def torchserve(model_dir: Path, installation: Path, image: bytes) -> Iterator[Running]:
    """TorchServe with its own image classifier, a worker for each core and a thread for each worker.

    Args:
        installation: The environment that it is installed in, beside torch-model-archiver.
        image: A JPEG; it is ready when it answers for that, since it answers pings before.
    """
    port, management, metrics = free_port(), free_port(), free_port()
    store = model_dir / "store"
    store.mkdir()
    archive = [str(installation / "bin" / "torch-model-archiver"), "--model-name", "network", "--version", "1"]
    archive += ["--handler", "image_classifier", "--serialized-file", str(model_dir / "model.pt")]
    path = os.pathsep.join([str(installation / "bin"), os.environ["PATH"]])
    subprocess.run([*archive, "--export-path", str(store)], check=True, env=os.environ | {"PATH": path})
    config = model_dir / "torchserve.properties"
    config.write_text(
        f"inference_address=http://{HOST}:{port}\nmanagement_address=http://{HOST}:{management}\n"
        f"metrics_address=http://{HOST}:{metrics}\ndefault_workers_per_model={CORES}\n"
        "disable_token_authorization=true\ndisable_system_metrics=true\n"
    )
    command = [str(installation / "bin" / "torchserve"), "--start", "--foreground", "--model-store", str(store)]
    command += ["--models", "network=network.mar", "--ts-config", str(config), "--disable-token-auth"]
    environment = {"OMP_NUM_THREADS": "1", "LOG_LOCATION": str(model_dir), "METRICS_LOCATION": str(model_dir)}
    environment |= {"PATH": path, "TMPDIR": str(model_dir)}
    with started(command, environment, port, TORCHSERVE_PATH, model_dir / "torchserve.log") as server:
        wait_for(port, server.process, TORCHSERVE_PATH, image)
        yield server


def torchserve_of(argument: str) -> Path:
    """The environment that holds TorchServe; refused with a sentence if it does not."""
    installation = Path(argument)
    missing = [
        name for name in ("torchserve", "torch-model-archiver") if not (installation / "bin" / name).is_file()
    ] + ([] if shutil.which("java") else ["java"])
    if missing:
        sys.exit(
            f"{installation} has no {', '.join(missing)}: python -m venv {installation}, then "
            f"{installation}/bin/pip install torchserve torch-model-archiver torch torchvision captum matplotlib, "
            "and Java 11 or later."
        )
    return installation


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], port: int, path: str, log: Path | None = None
) -> Iterator[Running]:
    """A server once it answers, ended afterwards; what it prints goes to `log`."""
    began = time.perf_counter()
    with (log or Path(os.devnull)).open("ab") as output:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(port, process)
        yield Running(process, port, path, time.perf_counter() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # TorchServe is the child of its launcher
        process.wait(END_SECONDS)


def wait_for(port: int, process: "subprocess.Popen[bytes]", path: str = "/ping", body: bytes | None = None) -> None:
    """Until it answers 200."""
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", body, {"Content-Type": "image/jpeg"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    sys.exit(f"The server {' '.join(map(str, process.args))} did not start.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
