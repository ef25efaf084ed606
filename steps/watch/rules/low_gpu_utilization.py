"""LowGPUUtilization: a GPU that waits most of the time, or every now and then."""

from dataclasses import dataclass

from watch.rules.base import Profile
from watch.rules.figures import over_time
from watch.rules.gpu_rule import GpuRule, quantile
from watch.rules.parameters import integer, number


@dataclass(kw_only=True)
class LowGPUUtilization(GpuRule):
    """Fires where, over the last `window` samples of a GPU, the 95th percentile of its utilisation is below
    `threshold_p95` (it is never busy), or above that with a 5th percentile below `threshold_p5` (it is busy by fits and
    starts). A GPU is judged once it has more than `patience` samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", LowGPUUtilization; defaults of the rulesconfig
    package, which are the documented ones.
    """

    advice = (
        "The GPU waits for the program. Look for blocking calls in every step (.item(), .cpu(), print of a tensor), "
        "for slow data loading (more loader processes, pinned memory, data prepared beforehand), and for a batch size "
        "that is too small; or take a smaller instance type."
    )
    needs = "no GPU has more samples than patience"

    threshold_p95: float = number(70, at_least=0, at_most=100)
    threshold_p5: float = number(10, at_least=0, at_most=100)
    window: int = integer(500, at_least=1)
    patience: int = integer(1000, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        gpus = self.gpus(profile)
        thresholds = {"threshold_p95": self.threshold_p95, "threshold_p5": self.threshold_p5}
        self.evidence = over_time("GPU utilisation", "utilisation (%)", gpus, thresholds) if gpus else None
        sentences = []
        for name, (_, values) in gpus.items():
            if len(values) > self.patience:
                self.judged += 1
                sentences.append(
                    self._judge(name, quantile(values, 0.95, self.window), quantile(values, 0.05, self.window))
                )
        return " ".join(filter(None, sentences)) or None

    def _judge(self, gpu: str, p95: float, p5: float) -> str | None:
        if p95 < self.threshold_p95:
            return (
                f"{gpu} is hardly used: the 95th percentile of its utilisation is {p95:.3g} %, below threshold_p95 of "
                f"{self.threshold_p95:g} %."
            )
        if p95 > self.threshold_p95 and p5 < self.threshold_p5:
            return (
                f"{gpu} works by fits and starts: the 95th percentile of its utilisation is {p95:.3g} %, but the 5th "
                f"is {p5:.3g} %, below threshold_p5 of {self.threshold_p5:g} %."
            )
        return None
