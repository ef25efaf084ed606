"""What a run of the default pipeline loses by 50 open pages that show it: pairs of runs, alone and watched, in turn.

    python benchmarks/studio_polling.py [--pairs 5] [--clients 50]

A client does what a browser does: it loads the execution's page and asks for each live part of it, with the ETag that
it has, as often as the part says. Alone, no server runs. Printed are the ratio of the seconds with its 95 % interval,
and what the server takes of the machine's processors meanwhile; the exit status is 1 if the ratio is surely above 1.05.
"""

import argparse
import asyncio
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.05
PART = re.compile(r'data-live="([^"]+)"(?: data-every="(\d+)")?')
Answer = tuple[int, dict[str, str], str]


def command(home: Path, *words: str) -> list[str]:
    """Return a command line on a home."""
    return [sys.executable, str(ROOT / "run_pipeline.py"), *words, "--home", str(home)]


def run(home: Path) -> float:
    """Run every step; return the seconds."""
    began = time.perf_counter()
    subprocess.run(command(home, "run", "--no-cache", "--json"), stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - began


class Watchers:
    """Clients that show the newest execution as soon as it is there, from now until `end`."""

    def __init__(self, home: Path, count: int) -> None:
        self.server = subprocess.Popen(command(home, "studio", "--no-open"), stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        link = next(line.split()[1] for line in self.server.stdout if "token=" in line)
        self.port, self.token = urlsplit(link).port, link.rpartition("=")[2]
        self.answers: list[int] = []
        self.ended = threading.Event()
        self.known = self.newest(home)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.watch(home, count)))
        self.thread.start()

    def newest(self, home: Path) -> str:
        """Return the name of the newest execution."""
        done = subprocess.run(command(home, "list", "--last", "1", "--json"), stdout=subprocess.PIPE, check=True)
        return str((json.loads(done.stdout) or [{"execution": ""}])[0]["execution"])

    async def watch(self, home: Path, count: int) -> None:
        """Wait for the execution, then look at it with all clients."""
        while (name := await asyncio.to_thread(self.newest, home)) == self.known:
            await asyncio.sleep(0.5)
        await asyncio.gather(*(self.look(f"/executions/image-classification/{name}") for _ in range(count)))

    async def look(self, page: str) -> None:
        """Load a page, and its live parts again and again."""
        parts = PART.findall((await self.get(page))[2])
        await asyncio.gather(*(self.renew(place.replace("&amp;", "&"), int(every or 1000)) for place, every in parts))

    async def renew(self, place: str, every: int) -> None:
        """Ask for one part until the end."""
        etag = ""
        while not self.ended.is_set():
            status, headers, _ = await self.get(place, etag)
            self.answers.append(status)
            etag = headers.get("etag", etag)
            await asyncio.sleep(every / 1000)

    async def get(self, path: str, etag: str = "") -> Answer:
        """Return status, headers and body of a GET; with little work, as the run shares the processor."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Cookie: studio-{self.port}={self.token}"]
        lines += [f"If-None-Match: {etag}"] if etag else []
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
        writer.close()
        first, *rest = head.split("\r\n")
        return (
            int(first.split()[1]),
            {name.lower(): value for name, _, value in (r.partition(": ") for r in rest)},
            body,
        )

    def end(self) -> float:
        """End clients and server; return the processor's seconds that the server has taken."""
        times = psutil.Process(self.server.pid).cpu_times()
        self.ended.set()
        self.thread.join()
        self.server.terminate()
        self.server.wait()
        assert self.answers and set(self.answers) <= {200, 304}
        return float(times.user + times.system)


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=50)
    options = parser.parse_args()
    ratios = list[float]()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        try:
            run(home)  # the files are read, the endpoint is there
            for pair in range(options.pairs):
                seconds = {}
                for is_watched in (pair % 2 == 0, pair % 2 == 1):
                    watchers = Watchers(home, options.clients) if is_watched else None
                    seconds[is_watched] = run(home)
                    if watchers:
                        share = watchers.end() / seconds[True] / psutil.cpu_count()
                        asked = len(watchers.answers)
                ratios.append(math.log(seconds[True] / seconds[False]))
                print(f"alone {seconds[False]:.1f} s, watched {seconds[True]:.1f} s; {asked} answers, the server took "
                      f"{share:.1%} of the processors", flush=True)  # fmt: skip
        finally:
            subprocess.run(command(home, "teardown", "--yes"), stdout=subprocess.DEVNULL, check=False)
    middle = statistics.mean(ratios)
    half = student.ppf(0.975, len(ratios) - 1) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    low, ratio, high = (math.exp(value) for value in (middle - half, middle, middle + half))
    print(f"ratio {ratio:.3f} (95 %: {low:.3f} to {high:.3f}); limit {LIMIT}")
    return int(low > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
