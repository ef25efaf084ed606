"""The endpoint's counters, as Prometheus reads them (text exposition format 0.0.4)."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES = ("decode", "queue", "infer", "total")
LOW_CONFIDENCE = 0.5  # a best score below this is counted


class Histogram:
    """Counts by upper bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum += seconds


class ServerMetrics:
    """What the endpoint did since it started."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._requests: Counter[int] = Counter()
        self._predictions: Counter[int] = Counter()
        self._low_confidence = 0
        self._bytes = 0
        self._stages = {stage: Histogram() for stage in STAGES}

    def count_request(self, status: int, body_bytes: int, milliseconds: Mapping[str, float]) -> None:
        """A request to /invocations has been answered."""
        self._requests[status] += 1
        self._bytes += body_bytes
        if status == 200:
            for stage, value in milliseconds.items():
                self._stages[stage].add(value / 1000)

    def count_predictions(self, best: Iterable[int], scores: Iterable[float]) -> None:
        """Images were classified."""
        for index, score in zip(best, scores, strict=True):
            self._predictions[index] += 1
            self._low_confidence += score < LOW_CONFIDENCE

    def render(self, gauges: Mapping[str, float], runtime: str) -> str:
        """The page; `gauges` are values of this moment by name, without the prefix."""
        lines = [
            "# TYPE classifier_requests_total counter",
            *(f'classifier_requests_total{{status="{status}"}} {n}' for status, n in sorted(self._requests.items())),
            "# TYPE classifier_request_bytes_total counter",
            f"classifier_request_bytes_total {self._bytes}",
            "# TYPE classifier_predictions_total counter",
            *(
                f'classifier_predictions_total{{class="{escaped(name)}"}} {self._predictions[index]}'
                for index, name in enumerate(self._classes)
            ),
            "# TYPE classifier_low_confidence_total counter",
            f"classifier_low_confidence_total {self._low_confidence}",
            "# TYPE classifier_seconds histogram",
            *(line for stage, histogram in self._stages.items() for line in _histogram(stage, histogram)),
            "# TYPE classifier_runtime_info gauge",
            f'classifier_runtime_info{{runtime="{runtime}"}} 1',
        ]
        for name, value in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE classifier_{name} {kind}", f"classifier_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def escaped(label: str) -> str:
    """A label's value between double quotes."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(stage: str, histogram: Histogram) -> Iterable[str]:
    for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), accumulate(histogram.counts), strict=True):
        yield f'classifier_seconds_bucket{{stage="{stage}",le="{bound}"}} {count}'
    yield f'classifier_seconds_sum{{stage="{stage}"}} {histogram.sum:.6f}'
    yield f'classifier_seconds_count{{stage="{stage}"}} {sum(histogram.counts)}'
