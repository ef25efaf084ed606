"""BatchSize: a machine that could do much more at once."""

from dataclasses import dataclass

from watch.rules.base import Profile
from watch.rules.figures import Floats, finite_curves, mean_curve, over_time
from watch.rules.gpu_rule import GpuRule, quantile
from watch.rules.parameters import integer, number


@dataclass(kw_only=True)
class BatchSize(GpuRule):
    """Fires where, over the last `window` samples, the 95th percentiles of the CPU's utilisation (mean of its cores),
    of a GPU's and of that GPU's memory are all below their thresholds. Judges once there are more than `patience`
    samples.

    Source: AWS guide, "List of Debugger built-in profiler rules", BatchSize; defaults of the rulesconfig package, but
    the documented patience of 100 (the package's 1000 would never judge a run of minutes).
    """

    advice = (
        "CPU, GPU and GPU memory all have room. Raise the batch size (and the learning rate with it), or train on a "
        "smaller instance type."
    )
    needs = "there are no more samples than patience"

    cpu_threshold_p95: float = number(70, at_least=0, at_most=100)
    gpu_threshold_p95: float = number(70, at_least=0, at_most=100)
    gpu_memory_threshold_p95: float = number(70, at_least=0, at_most=100)
    patience: int = integer(100, at_least=1)
    window: int = integer(500, at_least=1)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        gpus, memories = self.gpus(profile), self.gpus(profile, "GPUMemoryUtilization")
        cpu_times, cpu = mean_curve(finite_curves(profile, "CPUUtilization"))
        if len(cpu) <= self.patience or not gpus:
            return None
        curves = {"CPU": (cpu_times, cpu)} | gpus | {f"{name} memory": curve for name, curve in memories.items()}
        self.evidence = over_time("CPU, GPU and GPU memory", "in use (%)", curves, self._thresholds())
        sentences = [self._judge(cpu, name, gpus[name][1], memories[name][1]) for name in gpus if name in memories]
        return " ".join(filter(None, sentences)) or None

    def _judge(self, cpu: Floats, name: str, gpu: Floats, memory: Floats) -> str | None:
        if min(len(gpu), len(memory)) <= self.patience:
            return None
        self.judged += 1
        found = [quantile(values, 0.95, self.window) for values in (cpu, gpu, memory)]
        if not all(p95 < threshold for p95, threshold in zip(found, self._thresholds().values(), strict=True)):
            return None
        return (
            f"The 95th percentiles of CPU ({found[0]:.3g} %), {name} ({found[1]:.3g} %) and its memory ({found[2]:.3g} "
            f"%) are all below their thresholds ({', '.join(f'{value:g} %' for value in self._thresholds().values())})."
        )

    def _thresholds(self) -> dict[str, float]:
        return {
            "cpu_threshold_p95": self.cpu_threshold_p95,
            "gpu_threshold_p95": self.gpu_threshold_p95,
            "gpu_memory_threshold_p95": self.gpu_memory_threshold_p95,
        }
