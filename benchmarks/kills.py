"""PrepareData killed at random moments, then run to the end: the same bytes as if nothing had happened.

    python benchmarks/kills.py                           10 kills, SIGKILL and SIGTERM by turns
    python benchmarks/kills.py --kills 40 --images 5000  more and later ones
    python benchmarks/kills.py --data FOLDER             your own images

Each kill hits a run of its own, at a moment drawn from the time that an undisturbed run takes. What survives a job
that is killed is its embedding cache, which SageMaker uploads while the job runs. A second run is given that, and
nothing else; every file that it leaves is compared with the undisturbed run's. "kept" are the images whose embeddings
the killed run had written, all of which the second run must find. Exit status 1 if anything differs.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scale import STEPS, write_images

BACKBONE, IMAGE_PX = "test_resnet", 32  # small, so that all that can be interrupted takes its share of the time
CACHE = "embedding_cache"
KNOWN = re.compile(r"(\d+) of \d+ images were embedded before")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# Of a run that was killed; SIGTERM is handled once PyTorch has been imported.
STATUSES = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {128 + signal.SIGTERM, -signal.SIGTERM}}


@dataclass(frozen=True)
class Outcome:
    """One kill, and the run that followed."""

    signal: signal.Signals
    second: float  # after the start
    status: int  # of the killed run; 0 if it ended first
    kept: int  # images in the cache that it left
    known: int  # images that the second run did not embed
    differing: list[str]  # files that are not the undisturbed run's

    @property
    def is_good(self) -> bool:
        return self.status in {0, *STATUSES[self.signal]} and self.known == self.kept and not self.differing


def main() -> None:
    """Kills and compares."""
    arguments = parse_arguments()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        data = arguments.data or root / "data"
        if arguments.data is None:
            write_images(data, arguments.images)
        write_weights(root / "weights")
        undisturbed(data, root)  # the first one finds nothing in the kernel's cache, and takes longer
        seconds, expected = undisturbed(data, root)
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files")
        outcomes = []
        for number in range(arguments.kills):
            moment = draw.uniform(0, seconds)
            outcomes.append(killed(data, root, SIGNALS[number % 2], moment, expected))
            show(outcomes[-1])
    good = sum(outcome.is_good for outcome in outcomes)
    print(f"{good} of {len(outcomes)} ended with the undisturbed run's bytes, and nothing was embedded twice")
    sys.exit(good < len(outcomes))


def undisturbed(data: Path, root: Path) -> tuple[float, dict[str, str]]:
    """Seconds, and the hashes of what is left."""
    began = time.perf_counter()
    if finish(start(data, root, "undisturbed"))[0]:
        sys.exit("The undisturbed run failed.")
    seconds, found = time.perf_counter() - began, hashes(root / "undisturbed")
    shutil.rmtree(root / "undisturbed")
    return seconds, found


def killed(data: Path, root: Path, number: signal.Signals, moment: float, expected: dict[str, str]) -> Outcome:
    """Kill a run, have another one finish its work, and compare."""
    victim = start(data, root, "killed")
    began = time.perf_counter()
    try:
        victim.wait(moment)
    except subprocess.TimeoutExpired:
        victim.send_signal(number)
    second = time.perf_counter() - began
    status, _ = finish(victim)
    cache = root / "killed" / CACHE
    kept = cached_images(cache)
    status_again, said = finish(start(data, root, "again", cache=cache))
    found = hashes(root / "again") if status_again == 0 else {}
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    matched = KNOWN.search(said)
    for name in ("killed", "again"):
        shutil.rmtree(root / name, ignore_errors=True)
    return Outcome(number, second, status, kept, int(matched[1]) if matched else 0, differing)


def write_weights(folder: Path) -> None:
    """Random ones, as the command line stages weights."""
    torch.manual_seed(0)
    folder.mkdir()
    torch.save(timm.create_model(BACKBONE, pretrained=False).state_dict(), folder / "weights.pth")
    digest = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()
    half = [0.5, 0.5, 0.5]
    described = {"backbone": BACKBONE, "file": "weights.pth", "sha256": digest, "format": "state_dict"}
    (folder / "weights.json").write_text(json.dumps({**described, "mean": half, "std": half}))


def start(data: Path, root: Path, name: str, *, cache: Path | None = None) -> subprocess.Popen[str]:
    """prepare.py, writing to `root/name`."""
    command: list[Any] = [sys.executable, STEPS / "prepare.py", "--data-dir", data, "--weights-dir", root / "weights"]
    command += ["--output-dir", root / name, "--backbone", BACKBONE, "--image-size", IMAGE_PX]
    command += ["--embedding-cache", cache] if cache else []
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    said, _ = process.communicate()
    if process.returncode not in {0}.union(*STATUSES.values()):
        print(said, file=sys.stderr)
    return process.returncode, said


def hashes(output: Path) -> dict[str, str]:
    """Path -> SHA-256 of all that a run left for later steps."""
    files = [path for path in output.rglob("*") if path.is_file() and CACHE not in path.parts]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cached_images(cache: Path) -> int:
    """Images whose embeddings a run had written whole."""
    found: set[bytes] = set()
    for path in cache.glob("*/[0-9a-f]*.npy"):
        found.update(sha256.tobytes() for sha256 in np.load(path, mmap_mode="r")["sha256"])
    return len(found)


def show(outcome: Outcome) -> None:
    """A line."""
    verdict = "identical" if outcome.is_good else f"DIFFERS: status {outcome.status}, known {outcome.known}"
    files = f" {', '.join(outcome.differing[:3])}" if outcome.differing else ""
    ended = "  (had ended)" if outcome.status == 0 else ""
    print(
        f"{outcome.signal.name} after {outcome.second:5.1f} s  kept {outcome.kept:6,}  {verdict}{files}{ended}",
        flush=True,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="default 10")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="synthetic ones (default 2000)")
    parser.add_argument("--data", type=Path, default=None, metavar="FOLDER", help="class folders or split folders")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
