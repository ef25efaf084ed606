"""CPUBottleneck: a GPU that waits because the CPU is busy."""

from dataclasses import dataclass

from watch.rules.base import Profile
from watch.rules.figures import finite_curves, over_time, snapshots
from watch.rules.gpu_rule import GpuRule
from watch.rules.parameters import integer, number


@dataclass(kw_only=True)
class CPUBottleneck(GpuRule):
    """Fires where in more than `threshold` % of the samples a GPU is below `gpu_threshold` while a core is above
    `cpu_threshold`. Judges once there are more than `patience` samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", CPUBottleneck; defaults of the rulesconfig package,
    but the documented patience of 100 (the package's 1000 would never judge a run of minutes).
    """

    advice = (
        "The GPU waits while the CPU works. Move work out of the training loop (decode and augment beforehand, or on "
        "the GPU), use more loader processes, or take an instance type with more CPU cores per GPU."
    )
    needs = "there are no more samples than patience"

    threshold: float = number(50, at_least=0, at_most=100)
    gpu_threshold: float = number(10, at_least=0, at_most=100)
    cpu_threshold: float = number(90, at_least=0, at_most=100)
    patience: int = integer(100, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        times, gpu, cpu = snapshots(self.gpus(profile), finite_curves(profile, "CPUUtilization"))
        if len(times) <= self.patience:
            return None
        self.judged += 1
        self.evidence = over_time(
            "GPU and CPU utilisation",
            "utilisation (%)",
            {"least busy GPU": (times, gpu), "busiest core": (times, cpu)},
            {"gpu_threshold": self.gpu_threshold, "cpu_threshold": self.cpu_threshold},
        )
        percent = 100 * float(((gpu < self.gpu_threshold) & (cpu > self.cpu_threshold)).mean())
        if percent <= self.threshold:
            return None
        return (
            f"In {percent:.3g} % of {len(times)} samples a GPU was below {self.gpu_threshold:g} % while a core was "
            f"above {self.cpu_threshold:g} % (threshold {self.threshold:g} %)."
        )
