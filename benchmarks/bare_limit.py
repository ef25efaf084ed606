"""The limit that no server can beat: decode, prepare and run in a loop, without HTTP.

    python benchmarks/bare_limit.py MODEL_DIR RUNTIME THREADS IMAGE

prints `ready`, then for each line on stdin, a number of seconds, the latencies in that time as JSON.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

from classifier.model.predictor import Predictor
from classifier.model.runtimes import load_runtime


def main() -> None:
    model_dir, runtime, threads, image = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    predictor = Predictor(model_dir, threads, runtime=load_runtime(runtime, model_dir, threads))
    body = image.read_bytes()
    print("ready", flush=True)
    for line in sys.stdin:
        latencies, end = [], time.perf_counter() + float(line)
        while (began := time.perf_counter()) < end:
            predictor.predict([body])
            latencies.append(time.perf_counter() - began)
        print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    main()
