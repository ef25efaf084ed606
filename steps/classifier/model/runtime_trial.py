"""Measures runtimes on the model's sample images: `python runtime_trial.py MODEL_DIR RUNTIME...` prints a Measurement.

Times are processor time of one thread, so what else the machine does hardly matters.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from classifier.job.failures import StepError, run
from classifier.model.runtime_choice import Measurement
from classifier.model.runtimes import Runtime, load_runtime, processor_name
from classifier.model.samples import Samples, disagreement

ROUNDS = 8
WARM_UP_RUNS = 2
NICENESS = 10  # of the process


def main() -> None:
    os.nice(NICENESS)
    print(json.dumps(asdict(measure(Path(sys.argv[1]), sys.argv[2:]))))


def measure(model_dir: Path, names: Sequence[str]) -> Measurement:
    """The time that each takes for one image on one core; those that disagree with the trained network are left out."""
    samples = Samples.load(model_dir)
    runtimes: dict[str, Runtime] = {}
    disagreements: dict[str, str] = {}
    for name in names:
        try:
            runtime = load_runtime(name, model_dir)
        except StepError as error:
            disagreements[name] = str(error)
            continue
        if difference := disagreement(runtime, samples):
            disagreements[name] = difference
        else:
            runtimes[name] = runtime
    return Measurement(processor_name(), times(runtimes, samples), disagreements)


def times(runtimes: dict[str, Runtime], samples: Samples) -> dict[str, float]:
    """Milliseconds for one image, by name; the runtimes take turns."""
    image = samples.images()[:1]
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(WARM_UP_RUNS + ROUNDS):
        for name, runtime in runtimes.items():
            started = time.thread_time()
            runtime.run(image, threads=1)
            seconds[name].append(time.thread_time() - started)
    return {name: round(1000 * statistics.median(values[WARM_UP_RUNS:]), 3) for name, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(run(main))
