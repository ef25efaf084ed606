"""The endpoint's server against others and against the bare limit of its machine.

    python benchmarks/serving.py                                     ours, and a plain ASGI server with eager PyTorch
    python benchmarks/serving.py --backbone resnet18 --seconds 4
    python benchmarks/serving.py --torchserve                        TorchServe too, where it is installed

All run the same network (random weights, 133 classes, 224 px) on the same JPEG of some 45 KB, over loopback, with the
load generator on the same cores. Every round measures everything in turn, so that what else the machine does falls on
all; ratios are medians over the rounds. `bare` runs decode, prepare and network in a loop without HTTP: one process
with all threads (against concurrency 1) and one single-threaded process for each core (against 8 and 32).
"""

import argparse
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = REPOSITORY / "steps"
sys.path[:0] = [str(STEPS), str(Path(__file__).parent)]

from load import HOST, Outcome, load, request_bytes  # noqa: E402 - found by the line above

from worker_process import ENVIRONMENT  # noqa: E402

CLASSES, IMAGE_SIZE, RESIZE_TO = 133, 224, 256
CONCURRENCIES = (1, 8, 32)
START_SECONDS = 90.0
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PATHS = {"ours": "/invocations", "plain": "/invocations", "torchserve": "/predictions/network"}


def main() -> None:
    """Builds a model, starts the servers and prints a table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        model_dir = Path(directory)
        build_model(arguments.backbone, model_dir)
        image = model_dir / "image.jpg"
        image.write_bytes(photograph())
        servers = {"ours": stack.enter_context(ours(model_dir, arguments.runtime))}
        runtime = chosen_runtime(servers["ours"])
        if not arguments.without_plain:
            servers["plain"] = stack.enter_context(plain(model_dir))
        if arguments.torchserve:
            servers["torchserve"] = stack.enter_context(torchserve(model_dir))
        wide = [stack.enter_context(bare(model_dir, runtime, CORES, image))]
        narrow = [stack.enter_context(bare(model_dir, runtime, 1, image)) for _ in range(CORES)]
        results = measure(servers, wide, narrow, image.read_bytes(), arguments)
    report(results, servers, runtime, arguments)


def measure(
    servers: dict[str, int],
    wide: list["subprocess.Popen[str]"],
    narrow: list["subprocess.Popen[str]"],
    body: bytes,
    arguments: argparse.Namespace,
) -> dict[tuple[str, int], list[Outcome]]:
    """Outcomes of all rounds by name and concurrency; those of `bare` have concurrency 1 and CORES."""
    results: dict[tuple[str, int], list[Outcome]] = {}
    limits = {1: (1, wide), 8: (CORES, narrow)}  # right before what is compared with them
    for name, port in servers.items():
        load(port, request_bytes(PATHS[name], "image/jpeg", body), connections=2, seconds=1)  # warms up
    for _ in range(arguments.rounds):
        for concurrency in CONCURRENCIES:
            if concurrency in limits:
                count, loops = limits[concurrency]
                results.setdefault(("bare", count), []).append(bare_outcome(loops, arguments.seconds))
            for name, port in servers.items():
                request = request_bytes(PATHS[name], "image/jpeg", body)
                outcome = load(port, request, connections=concurrency, seconds=arguments.seconds)
                results.setdefault((name, concurrency), []).append(outcome)
    return results


def report(
    results: dict[tuple[str, int], list[Outcome]], servers: dict[str, int], runtime: str, arguments: argparse.Namespace
) -> None:
    """Print every figure and the ratios."""
    rate = {key: median(outcome.per_second for outcome in outcomes) for key, outcomes in results.items()}
    print(
        f"\n{arguments.backbone}, runtime {runtime}, {CORES} cores, {arguments.rounds} x {arguments.seconds:g} s each"
    )
    print(f"{'':12}{'concurrency':>12}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'failures':>10}")
    for (name, concurrency), outcomes in results.items():
        p50, p99 = (median(outcome.percentile(percent) for outcome in outcomes) for percent in (50, 99))
        failures = sum(outcome.failures for outcome in outcomes)
        print(f"{name:12}{concurrency:>12}{rate[name, concurrency]:>12.1f}{p50:>9.1f}{p99:>9.1f}{failures:>10}")

    def rate_of(outcome: Outcome) -> float:
        return outcome.per_second

    share = ratio(results["ours", 8], results["bare", CORES], rate_of)
    slower = ratio(results["ours", 1], results["bare", 1], lambda outcome: outcome.percentile(50))
    waiting = [outcome.percentile(99) * outcome.per_second / (1000 * 32) for outcome in results["ours", 32]]
    print(f"\nconcurrency 8: {share:.0%} of the bare limit")
    print(f"concurrency 1: p50 is {slower:.2f} x bare")
    print(f"concurrency 32: p99 is {median(waiting):.2f} x 32 / throughput")
    for name in [name for name in servers if name != "ours"]:
        times = {
            c: ratio(results["ours", c], results[name, c], lambda outcome: outcome.per_second) for c in CONCURRENCIES
        }
        print(f"ours against {name}: {', '.join(f'{times[c]:.2f} x at {c}' for c in CONCURRENCIES)}")
    if arguments.json:
        print(json.dumps({f"{name}@{concurrency}": value for (name, concurrency), value in rate.items()}))


def ratio(ours: list[Outcome], theirs: list[Outcome], figure: Callable[[Outcome], float]) -> float:
    """The median over the rounds; within a round both had the same machine."""
    return median(figure(a) / figure(b) for a, b in zip(ours, theirs, strict=True))


# what is measured


def build_model(backbone: str, model_dir: Path) -> None:
    """A whole model directory, and eager.pt for the plain server."""
    import timm
    import torch

    from backbone import Backbone, feature_dim
    from export import Network, export_network
    from head import ClassifierHead
    from images import Preprocess

    torch.manual_seed(0)
    network = Backbone(timm.create_model(backbone, pretrained=False, num_classes=0).eval()).requires_grad_(False)
    head = ClassifierHead(feature_dim(network), CLASSES, hidden_units=512, dropout=0.0).eval()
    torch.save(Network(network, head), model_dir / "eager.pt")
    began = time.perf_counter()
    preprocess = Preprocess(IMAGE_SIZE, RESIZE_TO, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    export_network(network, head, preprocess, model_dir)
    print(f"exported and checked for every runtime in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    description = {"classes": [f"class {n}" for n in range(CLASSES)], "preprocess": preprocess.to_dict()}
    (model_dir / "model.json").write_text(json.dumps(description), encoding="utf-8")


def photograph() -> bytes:
    """A JPEG of 500 x 400 px and about 45 KB."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).resize((500, 400))
    noisy = np.asarray(coarse).astype(np.int16) + generator.integers(-6, 7, (400, 500, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def ours(model_dir: Path, runtime: str) -> Iterator[int]:
    """steps/serve.py; also says how long it took to be ready, and the memory it takes."""
    port, began = free_port(), time.perf_counter()
    environment = {"SM_MODEL_DIR": str(model_dir), "BIND_HOST": HOST, "SAGEMAKER_BIND_TO_PORT": str(port)}
    command = [sys.executable, str(STEPS / "serve.py"), "serve"]
    with process(command, environment | {"INFERENCE_RUNTIME": runtime}) as server:
        wait_for(port, server)
        ready = time.perf_counter() - began
        time.sleep(3)  # for the other workers, or another runtime
        print(f"ready in {ready:.2f} s; resident {resident_megabytes(server.pid):.0f} MB in all", file=sys.stderr)
        yield port


@contextmanager
def plain(model_dir: Path) -> Iterator[int]:
    """plain_server.py."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("plain_server.py")), str(model_dir), str(port)]
    with process(command, {}) as server:
        wait_for(port, server)
        yield port


@contextmanager
def torchserve(model_dir: Path) -> Iterator[int]:
    """TorchServe with its own image classifier, a worker for each core and a thread for each worker."""
    if not shutil.which("torchserve"):
        sys.exit("TorchServe is not installed: pip install torchserve torch-model-archiver, and Java 11 or later.")
    port, management, metrics = free_port(), free_port(), free_port()
    archive = ["torch-model-archiver", "--model-name", "network", "--version", "1", "--handler", "image_classifier"]
    subprocess.run(
        [*archive, "--serialized-file", str(model_dir / "model.pt"), "--export-path", str(model_dir)], check=True
    )
    config = model_dir / "torchserve.properties"
    config.write_text(
        f"inference_address=http://{HOST}:{port}\nmanagement_address=http://{HOST}:{management}\n"
        f"metrics_address=http://{HOST}:{metrics}\ndefault_workers_per_model={CORES}\ndisable_token_authorization=true\n"
    )
    command = ["torchserve", "--start", "--foreground", "--model-store", str(model_dir), "--models", "network.mar"]
    environment = {"OMP_NUM_THREADS": "1", "LOG_LOCATION": str(model_dir), "METRICS_LOCATION": str(model_dir)}
    with process([*command, "--ts-config", str(config)], environment) as server:
        wait_for(port, server)
        yield port


@contextmanager
def bare(model_dir: Path, runtime: str, threads: int, image: Path) -> Iterator["subprocess.Popen[str]"]:
    """bare_limit.py, ready."""
    program = str(Path(__file__).with_name("bare_limit.py"))
    command = [sys.executable, program, str(model_dir), runtime, str(threads), str(image)]
    environment = os.environ | ENVIRONMENT  # as our own workers have it
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as loop:
        assert loop.stdin and loop.stdout
        assert loop.stdout.readline() == "ready\n"
        yield loop
        loop.stdin.close()


def bare_outcome(loops: list["subprocess.Popen[str]"], seconds: float) -> Outcome:
    """Let all loops run at once."""
    for loop in loops:
        assert loop.stdin
        print(seconds, file=loop.stdin, flush=True)
    latencies = [json.loads(loop.stdout.readline()) for loop in loops if loop.stdout]
    return Outcome(seconds, [latency for each in latencies for latency in each])


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A server, ended afterwards; what it prints is dropped."""
    server = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield server
    finally:
        server.terminate()
        server.wait(30)


def wait_for(port: int, server: "subprocess.Popen[Any]") -> None:
    """Until /ping answers 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/ping", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    sys.exit(f"The server {' '.join(map(str, server.args))} did not start.")


def chosen_runtime(port: int) -> str:
    """Which runtime our server uses."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as answer:
        return str(answer.read().decode().partition('runtime="')[2].partition('"')[0])


def resident_megabytes(pid: int) -> float:
    """Of a process and its children; pages that they share count for each."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return own / 1024 + sum(resident_megabytes(int(child)) for child in children)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="any timm network")
    parser.add_argument("--runtime", default="auto", help="as deploy.runtime in pipeline.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement in each round")
    parser.add_argument("--without-plain", action="store_true", help="leave out the plain server")
    parser.add_argument("--torchserve", action="store_true", help="TorchServe too")
    parser.add_argument("--json", action="store_true", help="print the rates as JSON as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
