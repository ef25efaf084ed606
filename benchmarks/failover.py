"""What a worker that is killed costs, and the server's end, both under load.

    python benchmarks/failover.py        a worker killed five times, with a worker for each core and with one alone

Clients send one request after the other on connections that stay open; a worker is killed with SIGKILL. Its requests
are tried once more, so even those are answered. The gap is the longest time without any answer after a kill: with a
single worker that is how long the service takes to be back. At last the server gets SIGTERM while each of 100 clients
waits for an answer: every one has to come.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps"), str(REPOSITORY / "benchmarks")]

from process_tree import descendants  # noqa: E402 - found by the line above
from raw_client import HOST, ask, read_reply, request  # noqa: E402
from servers import CORES, Running, ours  # noqa: E402

from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402

CONCURRENCY, WAITING = 8, 100
KILLS, CALM_SECONDS = 5, 2.5
BACK_SECONDS = 1.0
PATIENCE_SECONDS = 30.0


async def client(port: int, content: bytes, end: float, answers: list[tuple[float, int]]) -> None:
    """One request after the other; notes when each was answered, and how."""
    reader, writer = await asyncio.open_connection(HOST, port)
    while time.monotonic() < end:
        writer.write(content)
        reply = await read_reply(reader)
        answers.append((time.monotonic(), reply.status))
    writer.close()


async def kill_workers(server: Running, content: bytes) -> tuple[list[float], Counter[int]]:
    """The longest gap after each kill, seconds, and the answers by status."""
    answers: list[tuple[float, int]] = []
    end = time.monotonic() + (KILLS + 1) * CALM_SECONDS
    clients = [asyncio.create_task(client(server.port, content, end, answers)) for _ in range(CONCURRENCY)]
    gaps = []
    for _ in range(KILLS):
        await asyncio.sleep(CALM_SECONDS)
        killed = time.monotonic()
        os.kill(descendants(server.process.pid)[1], signal.SIGKILL)
        gaps.append(killed)
    await asyncio.gather(*clients)
    times = sorted(at for at, _ in answers)
    longest = [
        max(later - earlier for earlier, later in pairwise(times) if later > killed and earlier < killed + CALM_SECONDS)
        for killed in gaps
    ]
    return longest, Counter(status for _, status in answers)


async def terminate(server: Running, content: bytes) -> Counter[int]:
    """The answers to requests that were on their way at SIGTERM, by status; 0 is none."""
    waiting = [
        asyncio.create_task(ask(server.port, content, patience_seconds=PATIENCE_SECONDS)) for _ in range(WAITING)
    ]
    await asyncio.sleep(0.2)  # all have been sent; a few are answered
    server.process.send_signal(signal.SIGTERM)
    return Counter(reply.status for reply in await asyncio.gather(*waiting))


def main() -> None:
    """Builds a model, serves it, and prints what happened."""
    arguments = parse_arguments()
    from serving_model import build_model, photograph

    passed = []
    with tempfile.TemporaryDirectory(prefix="failover-") as directory:
        model_dir = Path(directory)
        build_model(arguments.backbone, model_dir)
        content = request(photograph())
        for workers in sorted({1, CORES}, reverse=True):
            settings = {"INFERENCE_RUNTIME": arguments.runtime, "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers)}
            with ours(model_dir, **settings) as server:
                time.sleep(3)  # for all workers
                gaps, statuses = asyncio.run(kill_workers(server, content))
                ended = asyncio.run(terminate(server, content))
            print(f"{workers} worker(s): killed {len(gaps)} times at concurrency {CONCURRENCY}")
            said = ", ".join(f"{gap:.2f}" for gap in gaps)
            passed += [
                verdict(max(gaps) <= BACK_SECONDS, f"longest gap without an answer after each, s: {said}"),
                verdict(set(statuses) == {200}, f"answers: {dict(statuses)}"),
                verdict(ended == {200: WAITING}, f"SIGTERM with {WAITING} requests on their way: {dict(ended)}"),
                verdict(server.process.returncode == 0, f"exit status {server.process.returncode}"),
            ]
    sys.exit(0 if all(passed) else 1)


def verdict(passed: bool, sentence: str) -> bool:
    print(f"{'PASS' if passed else 'FAIL'}  {sentence}")
    return passed


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="any timm network")
    parser.add_argument("--runtime", default="onnxruntime", help="as deploy.runtime in pipeline.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    main()
