"""The endpoint's server against others and against the bare limit of its machine.

    python benchmarks/serving.py                                ours, and a plain ASGI server with eager PyTorch
    python benchmarks/serving.py --torchserve ENVIRONMENT       TorchServe too, from the environment it is installed in
    python benchmarks/serving.py --model model.tar.gz --image photo.jpg
    python benchmarks/serving.py --backbone resnet18 --rounds 5 --seconds 4

All run the same network (133 classes, 224 px, or your model) on the same JPEG of some 45 KB, over loopback, with the
load generator on the same cores. Every round measures everything in turn, so that what else the machine does falls on
all; ratios are medians over the rounds.

`bare` runs decode, prepare and network in a loop without HTTP: one process with all threads (against concurrency 1) and
one single-threaded process for each core (against 8 and 32). It has no load generator beside it. So the share of the
limit is given twice: as measured, and of the limit on what the generator left of the cores. Processor times tell where
the rest goes: they hardly depend on what else the machine does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps"), str(REPOSITORY / "benchmarks")]

from load import Outcome, load, request_bytes  # noqa: E402 - found by the line above
from process_tree import processor_seconds, proportional_megabytes, resident_megabytes  # noqa: E402
from servers import CORES, Running, ours, plain, torchserve, torchserve_of  # noqa: E402

from classifier.model.runtimes import has_bfloat16  # noqa: E402
from classifier.serving.pool import ENVIRONMENT  # noqa: E402
from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402

CONCURRENCIES = (1, 8, 32)
BUSY = (8, 32)
BARE = {1: "bare, all threads", 8: "bare, each core"}  # right before what is compared with them
OURS, PLAIN, TORCHSERVE = "ours", "plain", "torchserve"
SETTLED_SECONDS = 3.0  # for the other workers, or another runtime

LEAST_SHARE, MOST_SLOWER, MOST_WAITING = 0.92, 1.15, 1.3
MOST_READY_SECONDS, MOST_MEGABYTES = 1.2, 350
LEAST_TIMES_TORCHSERVE = {"tf_efficientnet_lite0": 2.4, "resnet18": 1.9 if has_bfloat16() else 1.45}


@dataclass
class Measured:
    """What was measured of one server at one concurrency, round by round."""

    outcomes: list[Outcome] = field(default_factory=list)
    server_seconds: list[float] = field(default_factory=list)  # processor time of all its processes
    generator_seconds: list[float] = field(default_factory=list)

    def middle(self, figure: Callable[[Outcome], float]) -> float:
        return median(figure(outcome) for outcome in self.outcomes)

    def per_request(self, seconds: list[float]) -> float:
        """Milliseconds of processor time."""
        answers = sum(len(outcome.latencies) for outcome in self.outcomes)
        return 1000 * sum(seconds) / max(1, answers)


Results = dict[tuple[str, int], Measured]


def main() -> None:
    """Builds a model, starts the servers and prints a table."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="serving-") as directory, ExitStack() as stack:
        model_dir, image = Path(directory) / "model", Path(directory) / "image"
        model_dir.mkdir()
        backbone = make_model(arguments, model_dir, image)
        print(f"{backbone}, {CORES} cores, {arguments.rounds} rounds of {arguments.seconds:g} s each")
        server = stack.enter_context(ours(model_dir, INFERENCE_RUNTIME=arguments.runtime))
        time.sleep(SETTLED_SECONDS)
        servers, runtime = {OURS: server}, server.runtime()
        if not arguments.without_plain:
            servers[PLAIN] = stack.enter_context(plain(model_dir))
        if arguments.torchserve:
            servers[TORCHSERVE] = stack.enter_context(torchserve(model_dir, arguments.torchserve, image.read_bytes()))
        loops = {
            1: [stack.enter_context(bare(model_dir, runtime, CORES, image))],
            8: [stack.enter_context(bare(model_dir, runtime, 1, image)) for _ in range(CORES)],
        }
        results = measure(servers, loops, image.read_bytes(), arguments)
        megabytes = resident_megabytes(server.process.pid), proportional_megabytes(server.process.pid)
    table(results, runtime)
    passed = judge(results, servers, backbone, megabytes)
    if arguments.json:
        rates = {f"{name}@{concurrency}": round(rate(found), 2) for (name, concurrency), found in results.items()}
        print(json.dumps(rates))
    sys.exit(0 if passed else 1)


def make_model(arguments: argparse.Namespace, model_dir: Path, image: Path) -> str:
    """The model and the picture that are served; the backbone's name."""
    from serving_model import build_model, photograph, unpack_model

    image.write_bytes(arguments.image.read_bytes() if arguments.image else photograph())
    if arguments.model:
        return unpack_model(arguments.model, model_dir)
    build_model(arguments.backbone, model_dir)
    return str(arguments.backbone)


def measure(
    servers: dict[str, Running],
    loops: dict[int, list["subprocess.Popen[str]"]],
    body: bytes,
    arguments: argparse.Namespace,
) -> Results:
    """Everything in turn, round by round."""
    results: Results = {}
    requests = {name: request_bytes(server.path, "image/jpeg", body) for name, server in servers.items()}
    for name, server in servers.items():
        load(server.port, requests[name], connections=CORES, seconds=1)  # warms up
    for _ in range(arguments.rounds):
        for concurrency in CONCURRENCIES:
            if concurrency in loops:
                found = results.setdefault((BARE[concurrency], concurrency), Measured())
                measure_bare(found, loops[concurrency], arguments.seconds)
            for name, server in servers.items():
                found = results.setdefault((name, concurrency), Measured())
                before = processor_seconds(server.process.pid), time.process_time()
                found.outcomes.append(
                    load(server.port, requests[name], connections=concurrency, seconds=arguments.seconds)
                )
                found.server_seconds.append(processor_seconds(server.process.pid) - before[0])
                found.generator_seconds.append(time.process_time() - before[1])
    return results


def measure_bare(found: Measured, loops: list["subprocess.Popen[str]"], seconds: float) -> None:
    """Let all loops run at once."""
    before = sum(processor_seconds(loop.pid) for loop in loops)
    for loop in loops:
        assert loop.stdin
        print(seconds, file=loop.stdin, flush=True)
    latencies = [json.loads(loop.stdout.readline()) for loop in loops if loop.stdout]
    found.outcomes.append(Outcome(seconds, [latency for each in latencies for latency in each]))
    found.server_seconds.append(sum(processor_seconds(loop.pid) for loop in loops) - before)
    found.generator_seconds.append(0.0)


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


# what is printed


def table(results: Results, runtime: str) -> None:
    """Every figure."""
    print(f"\nruntime {runtime}; processor time in ms per request\n")
    print(
        f"{'':20}{'concurrency':>12}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'server':>9}{'generator':>11}"
        f"{'failures':>10}"
    )
    for (name, concurrency), found in results.items():
        p50, p99 = (found.middle(lambda outcome, p=percent: outcome.percentile(p)) for percent in (50, 99))  # type: ignore[misc]
        server, generator = found.per_request(found.server_seconds), found.per_request(found.generator_seconds)
        failures = sum(outcome.failures for outcome in found.outcomes)
        print(
            f"{name:20}{concurrency:>12}{rate(found):>12.1f}{p50:>9.1f}{p99:>9.1f}{server:>9.2f}{generator:>11.2f}"
            f"{failures:>10}"
        )
    print()


def judge(results: Results, servers: dict[str, Running], backbone: str, megabytes: tuple[float, float]) -> bool:
    """Each demand, what was found, and whether that is enough; whether all was."""
    busy, limit = results[OURS, 8], results[BARE[8], 8]
    shares = {c: ratio(results[OURS, c], limit, lambda outcome: outcome.per_second) for c in BUSY}
    left = {c: share_left(results[OURS, c]) for c in BUSY}  # by the generator
    slower = ratio(results[OURS, 1], results[BARE[1], 1], lambda outcome: outcome.percentile(50))
    waiting = results[OURS, 32].middle(lambda outcome: outcome.percentile(99) * outcome.per_second / (1000 * 32))
    failures = sum(outcome.failures for outcome in results[OURS, 32].outcomes)
    ready = servers[OURS].ready_seconds
    verdicts = [
        *(
            verdict(
                f"at {c}, of the bare limit on what the generator left ({left[c]:.1%})",
                shares[c] / left[c],
                least=LEAST_SHARE,
            )
            for c in BUSY
        ),
        verdict("at 1, p50 against bare", slower, most=MOST_SLOWER),
        verdict("at 32, p99 against 32 / throughput", waiting, most=MOST_WAITING),
        verdict("at 32, failures", failures, most=0),
        verdict("ready after, s", ready, most=MOST_READY_SECONDS),
        verdict(f"resident, MB ({megabytes[0]:.0f} with shared pages twice)", megabytes[1], most=MOST_MEGABYTES),
    ]
    for name in [name for name in servers if name != OURS]:
        times = {c: ratio(results[OURS, c], results[name, c], lambda o: o.per_second) for c in CONCURRENCIES}
        others = ", ".join(f"{times[c]:.2f} at {c}" for c in CONCURRENCIES if c != 8)
        least = LEAST_TIMES_TORCHSERVE.get(backbone) if name == TORCHSERVE else None
        verdicts.append(verdict(f"at 8, times {name} ({others})", times[8], least=least))
    print(f"          of the bare limit as measured: {', '.join(f'{shares[c]:.3f} at {c}' for c in BUSY)}")
    work = limit.per_request(limit.server_seconds)
    server, generator = (busy.per_request(of) for of in (busy.server_seconds, busy.generator_seconds))
    spent = f"{work:.2f} bare + {server - work:.2f} server + {generator:.2f} generator"
    print(f"          at 8, ms of processor time for each request: {spent}")
    return all(verdicts)


def share_left(busy: Measured) -> float:
    """The share of the cores that the load generator did not take."""
    return 1 - median(busy.generator_seconds) / (CORES * median(outcome.seconds for outcome in busy.outcomes))


def verdict(what: str, found: float, *, least: float | None = None, most: float | None = None) -> bool:
    """Print it; a figure without a bound passes."""
    passed = (least is None or found >= least) and (most is None or found <= most)
    bound = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
    mark = ("PASS" if passed else "FAIL") if bound else "-"
    print(f"{mark:10}{what}: {found:.3g}{f' ({bound})' if bound else ''}")
    return passed


def rate(found: Measured) -> float:
    return found.middle(lambda outcome: outcome.per_second)


def ratio(one: Measured, other: Measured, figure: Callable[[Outcome], float]) -> float:
    """The median over the rounds; within a round both had the same machine."""
    return median(figure(a) / figure(b) for a, b in zip(one.outcomes, other.outcomes, strict=True))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="any timm network")
    parser.add_argument("--model", type=Path, help="a trained model instead: its directory or model.tar.gz")
    parser.add_argument("--image", type=Path, help="a JPEG to send instead of the synthetic one")
    parser.add_argument("--runtime", default="auto", help="as deploy.runtime in pipeline.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement in each round")
    parser.add_argument("--without-plain", action="store_true", help="leave out the plain server")
    parser.add_argument("--torchserve", type=torchserve_of, metavar="ENVIRONMENT", help="where TorchServe is installed")
    parser.add_argument("--json", action="store_true", help="print the rates as JSON as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
