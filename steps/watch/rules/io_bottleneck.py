"""IOBottleneck: a GPU that waits because the disk is slow."""

from dataclasses import dataclass

from watch.rules.base import Profile
from watch.rules.figures import finite_curves, over_time, snapshots
from watch.rules.gpu_rule import GpuRule
from watch.rules.parameters import integer, number


@dataclass(kw_only=True)
class IOBottleneck(GpuRule):
    """Fires where in more than `threshold` % of the samples a GPU is below `gpu_threshold` while a core waits for
    input or output for more than `io_threshold` % of its time. Judges once there are more than `patience` samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", IOBottleneck; defaults of the rulesconfig package.
    """

    advice = (
        "The GPU waits while the machine reads or writes files. Copy the data to a local disk or into memory first, "
        "pack small files together, use more loader processes, and save checkpoints less often."
    )
    needs = "there are no more samples than patience"

    threshold: float = number(50, at_least=0, at_most=100)
    gpu_threshold: float = number(10, at_least=0, at_most=100)
    io_threshold: float = number(50, at_least=0, at_most=100)
    patience: int = integer(1000, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        times, gpu, waiting = snapshots(self.gpus(profile), finite_curves(profile, "I/OWaitPercentage"))
        if len(times) <= self.patience:
            return None
        self.judged += 1
        self.evidence = over_time(
            "GPU utilisation and time spent waiting for input and output",
            "share of time (%)",
            {"least busy GPU": (times, gpu), "core that waits most": (times, waiting)},
            {"gpu_threshold": self.gpu_threshold, "io_threshold": self.io_threshold},
        )
        percent = 100 * float(((gpu < self.gpu_threshold) & (waiting > self.io_threshold)).mean())
        if percent <= self.threshold:
            return None
        return (
            f"In {percent:.3g} % of {len(times)} samples a GPU was below {self.gpu_threshold:g} % while a core waited "
            f"for input or output more than {self.io_threshold:g} % of its time (threshold {self.threshold:g} %)."
        )
