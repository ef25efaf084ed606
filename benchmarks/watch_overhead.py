"""What three lines of watch cost somebody else's training with short steps: the same loop with them and without.

    python benchmarks/watch_overhead.py                    steps of about 4 ms, 5,000 of them, five times each way
    python benchmarks/watch_overhead.py --steps 1000 --repeat 3

Each training is a process of its own, in turn without and with `watch(model, loss, optimizer)`: its hook, observer,
sampler, all rules. Of the loop alone, wall seconds and, where others use the machine too, the process's CPU seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev

STEPS = Path(__file__).resolve().parents[1] / "steps"
T_VALUES = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}  # two-sided 95 %, by degrees - 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=5, help="trainings each way (5)")
    parser.add_argument("--train", choices=("with", "without"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        train(asked.steps, watched=asked.train == "with")
        return
    found: dict[str, list[float]] = {"wall": [], "cpu": []}
    for repetition in range(asked.repeat):
        ways = ("without", "with") if repetition % 2 == 0 else ("with", "without")
        took = {way: run(way, asked.steps) for way in ways}
        for clock, differences in found.items():
            differences.append(took["with"][clock] / took["without"][clock] - 1)
        shown = ", ".join(f"{clock} {took['without'][clock]:.2f} -> {took['with'][clock]:.2f} s" for clock in found)
        rest = f"{took['with']['saved']:.0f} steps saved, {took['with']['end']:.1f} s for verdicts and report"
        print(
            f"{repetition + 1}. {shown} ({1000 * took['without']['cpu'] / asked.steps:.1f} ms a step), {rest}",
            flush=True,
        )
    for clock, differences in found.items():
        half = T_VALUES.get(len(differences) - 1, 2.0) * stdev(differences) / len(differences) ** 0.5
        print(f"{clock}: {mean(differences):+.1%} (95 %: {half:.1%} either way)")


def run(way: str, steps: int) -> dict[str, float]:
    """Seconds of one training's loop and of its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--train", way, "--steps", str(steps)]
        environment = os.environ | {"PYTHONPATH": str(STEPS), "WATCH_DIR": folder, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def train(steps: int, *, watched: bool) -> None:
    """A small convolutional network on made-up images."""
    import torch
    from torch import nn

    from watch import watch

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    net, criterion = nn.Sequential(*layers, nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    data = [(torch.randn(12, 3, 24, 24), torch.randint(0, 10, (12,))) for _ in range(50)]
    watcher = watch(net, criterion, optimizer) if watched else None
    loader = (data[step % 50] for step in range(steps))
    began, began_cpu = time.perf_counter(), time.process_time()
    for images, labels in watcher.batches(loader) if watcher else loader:
        optimizer.zero_grad()
        criterion(net(images), labels).backward()
        optimizer.step()
    ended, cpu = time.perf_counter(), time.process_time() - began_cpu
    saved = len(list((Path(os.environ["WATCH_DIR"]) / "tensors/events").glob("*")))
    if watcher:
        watcher.close()
    print(json.dumps({"wall": ended - began, "cpu": cpu, "end": time.perf_counter() - ended, "saved": saved}))


if __name__ == "__main__":
    main()
