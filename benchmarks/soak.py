"""The endpoint's server for a long time under load, with hostile requests among the good ones.

    python benchmarks/soak.py                              10 minutes at concurrency 16, one request in 20 hostile
    python benchmarks/soak.py --seconds 60 --seed 7 --model model.tar.gz --image photo.jpg

Good requests go over connections that stay open, and each answer is compared with the first. A hostile request has a
connection of its own, and has to be refused in its own words; hostile.py lists the kinds. A slow client keeps none of
the 16 waiting. Memory is that of the server and its workers together, read every second.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "steps"), str(REPOSITORY / "benchmarks")]

from hostile import KINDS, Hostile  # noqa: E402 - found by the line above
from process_tree import proportional_megabytes, resident_megabytes  # noqa: E402
from raw_client import HOST, read_reply, request  # noqa: E402
from servers import Running, ours  # noqa: E402

from pipeline.config.backbones import DEFAULT_BACKBONE  # noqa: E402

GROWTH_MEGABYTES = 10.0  # from the second minute to the last one
PEAK_MEGABYTES = 200.0  # above what it had before
TOLERANCE = 1e-4  # of a probability: one thread and several do not sum in the same order
SETTLED_SECONDS = 3.0


@dataclass
class Watched:
    """What has been seen."""

    good: int = 0
    slowest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    resident: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, megabytes


class Soak:
    """Clients of one server."""

    def __init__(self, server: Running, image: bytes, arguments: argparse.Namespace) -> None:
        self.watched = Watched()
        self._server, self._image = server, image
        self._request = request(image)
        self._arguments = arguments
        self._expected: np.ndarray | None = None
        self._aside: set[asyncio.Task[None]] = set()  # slow clients

    async def run(self) -> None:
        began = time.monotonic()
        end = began + self._arguments.seconds
        watching = asyncio.create_task(self._watch(began))
        clients = [self._client(Random(f"{self._arguments.seed}:{n}"), end) for n in range(self._arguments.concurrency)]
        await asyncio.gather(*clients)
        await asyncio.gather(*self._aside)
        watching.cancel()

    async def _client(self, chance: Random, end: float) -> None:
        kinds = chance.sample(KINDS, len(KINDS))
        reader, writer = await asyncio.open_connection(HOST, self._server.port)
        while time.monotonic() < end:
            if chance.random() >= self._arguments.hostile_share:
                await self._good(reader, writer)
                continue
            kind = kinds.pop() if kinds else chance.choice(KINDS)
            hostile = asyncio.create_task(self._hostile(kind, chance))
            if kind.name == "slow client":
                self._aside.add(hostile)
                hostile.add_done_callback(self._aside.discard)
            else:
                await hostile
        writer.close()

    async def _good(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        writer.write(self._request)
        reply = await read_reply(reader)
        answer = np.array(json.loads(reply.body)) if reply.status == 200 else None
        if self._expected is None:
            self._expected = answer
        if answer is None or not np.allclose(answer, self._expected, atol=TOLERANCE):
            self.watched.failures.append(f"a good request was answered {reply.status} {reply.body[:200]!r}")
        self.watched.good += 1
        self.watched.slowest_seconds = max(self.watched.slowest_seconds, time.monotonic() - began)

    async def _hostile(self, kind: Hostile, chance: Random) -> None:
        reply = await kind.send(self._server.port, chance, self._image)
        self.watched.refused[kind.name] += 1
        if not kind.is_refused(reply):
            self.watched.failures.append(f"{kind.name} was answered {reply.status} {reply.body[:200]!r}")

    async def _watch(self, began: float) -> None:
        minute = 0
        while True:
            elapsed = time.monotonic() - began
            self.watched.resident.append((elapsed, resident_megabytes(self._server.process.pid)))
            if elapsed >= 60 * minute:
                shared_once = proportional_megabytes(self._server.process.pid)
                print(
                    f"{minute:3} min  {self.watched.good:8} good  {self.watched.refused.total():6} hostile  "
                    f"{len(self.watched.failures):4} failures  resident {self.watched.resident[-1][1]:.0f} MB, "
                    f"{shared_once:.0f} MB with shared pages once",
                    flush=True,
                )
                minute += 1
            await asyncio.sleep(1)


def main() -> None:
    """Builds a model, serves it, and prints what happened."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        model_dir, image = make_model(arguments, Path(directory) / "model")
        log = Path(directory) / "log"
        with ours(model_dir, log=log, INFERENCE_RUNTIME=arguments.runtime) as server:
            time.sleep(SETTLED_SECONDS)
            print(f"seed {arguments.seed}, concurrency {arguments.concurrency}, runtime {server.runtime()}", flush=True)
            soak = Soak(server, image, arguments)
            asyncio.run(soak.run())
            restarts = float(server.page("/metrics").partition("\nclassifier_worker_restarts_total ")[2].split()[0])
        clean = server.process.returncode == 0
    sys.exit(0 if judge(soak.watched, restarts, clean) else 1)


def make_model(arguments: argparse.Namespace, model_dir: Path) -> tuple[Path, bytes]:
    """The model directory and the JPEG that good requests hold."""
    from serving_model import build_model, photograph, unpack_model

    model_dir.mkdir()
    if arguments.model:
        unpack_model(arguments.model, model_dir)
    else:
        build_model(arguments.backbone, model_dir)
    return model_dir, arguments.image.read_bytes() if arguments.image else photograph()


def judge(watched: Watched, restarts: float, clean: bool) -> bool:
    """Each demand and whether it is met; whether all are."""
    for failure, count in Counter(watched.failures).most_common(20):
        print(f"  {count} x {failure}")
    print(
        "hostile requests refused: " + ", ".join(f"{count} {name}" for name, count in sorted(watched.refused.items()))
    )
    last = watched.resident[-1][0]
    second = [megabytes for at, megabytes in watched.resident if 60 <= at < 120 or last < 120]
    end = [megabytes for at, megabytes in watched.resident if at >= last - 60]
    growth = median(end) - median(second)
    peak = max(megabytes for _, megabytes in watched.resident) - watched.resident[0][1]
    verdicts = {
        f"{watched.good} good requests and {watched.refused.total()} hostile ones, "
        f"{len(watched.failures)} answered otherwise than they should": not watched.failures,
        f"resident memory grew by {growth:.1f} MB from the second minute to the last": growth <= GROWTH_MEGABYTES,
        f"its peak was {peak:.0f} MB above the start": peak <= PEAK_MEGABYTES,
        f"{restarts:g} workers had to be replaced": restarts == 0,
        "the server ended with status 0": clean,
        f"the slowest good answer took {watched.slowest_seconds:.2f} s": True,
    }
    for sentence, passed in verdicts.items():
        print(f"{'PASS' if passed else 'FAIL'}  {sentence}")
    return all(verdicts.values())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--hostile-share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="any timm network")
    parser.add_argument("--model", type=Path, help="a trained model instead: its directory or model.tar.gz")
    parser.add_argument("--image", type=Path, help="a JPEG to send instead of the synthetic one")
    parser.add_argument("--runtime", default="auto", help="as deploy.runtime in pipeline.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    main()
