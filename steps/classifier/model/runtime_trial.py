"""Measures runtimes on the model's sample images: `python -m classifier.model.runtime_trial MODEL_DIR RUNTIME...`.

Its last line is a Measurement as JSON. Times are processor time of one thread, so what else the machine does hardly
matters. A process of its own measures, since a runtime's fault shall not end the training.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from classifier.job.failures import StepError, run, say
from classifier.job.system import module_command, module_environment
from classifier.model.runtime_choice import Measurement
from classifier.model.runtimes import Runtime, load_runtime
from classifier.model.samples import Samples, disagreement

ROUNDS, WARM_UP_ROUNDS = 8, 2


def measured_apart(model_dir: Path, names: Sequence[str]) -> Measurement | None:
    """Measure in a process of its own; None if that fails, which costs the model its choice and nothing else."""
    command = [*module_command("classifier.model.runtime_trial"), str(model_dir), *names]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=module_environment(), check=False)
    *_, last = ["", *process.stdout.splitlines()]  # libraries may have printed lines before it
    if process.returncode or not (measurement := Measurement.read(last)):
        say(f"The runtimes were not measured: their process ended with status {process.returncode}")
        return None
    return measurement


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
    return Measurement(times(runtimes, samples), disagreements)


def times(runtimes: dict[str, Runtime], samples: Samples) -> dict[str, float]:
    """Milliseconds for one image, by name; the runtimes take turns."""
    image = samples.images()[:1]
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(WARM_UP_ROUNDS + ROUNDS):
        for name, runtime in runtimes.items():
            started = time.thread_time()
            runtime.run(image, threads=1)
            seconds[name].append(time.thread_time() - started)
    return {name: round(1000 * statistics.median(values[WARM_UP_ROUNDS:]), 3) for name, values in seconds.items()}


def main() -> None:
    print(json.dumps(asdict(measure(Path(sys.argv[1]), sys.argv[2:]))))


if __name__ == "__main__":
    sys.exit(run(main))
