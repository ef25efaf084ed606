"""Rules on the profile of a run: what the machine did, how long steps took, and how long they waited for data.

AWS's are those of its guide, "List of Debugger built-in profiler rules", with the rulesconfig package's defaults but
the guide's patience where that is less (1000 samples are 500 seconds). Classes say where ours differ from `aws`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from watch.rules.base import Count, NotNegative, Percent, Positive, Profile, ProfilerRule, Severity, known, state

Floats = npt.NDArray[np.float64]
Curves = Mapping[str, tuple[Floats, Floats]]  # name -> (epoch seconds (N,), values (N,))
SNAPSHOT_SECONDS = 0.02  # figures this close together belong to one sample; the service's profiler takes the same
RESOURCES = ("CPUUtilization", "MemoryUsedPercent", "I/OWaitPercentage", "GPUUtilization", "GPUMemoryUtilization")


def mean_curve(curves: Curves) -> tuple[Floats, Floats]:
    """Return the mean over all names (cores, GPUs) at each moment: seconds and values, (N,) each."""
    times, values = (np.concatenate([np.array([]), *(curve[part] for curve in curves.values())]) for part in (0, 1))
    moments, place = np.unique(times, return_inverse=True)
    return moments, np.bincount(place, values) / np.maximum(1, np.bincount(place))


class _MachineRule(ProfilerRule):
    """A rule that judges several things, GPUs for example, and plots curves against time."""

    severity: Severity = known("hint")
    needs = "there are no more samples than patience"

    def evaluate(self, profile: Profile, now: float) -> str | None:
        found = list(self.verdicts(profile, now))
        self.judged += len(found)
        return " ".join(filter(None, found)) or None

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        """Yield a sentence, or None where nothing is wrong, of each thing that there is enough data of."""
        raise NotImplementedError

    def show(self, title: str, unit: str, curves: Curves, limits: Mapping[str, float] = {}) -> dict[str, float]:
        """Plot curves against the seconds since the first figure of them all, and return the limits, to add to."""
        self.evidence = None
        evidence = self.plot(title, unit, limits, "seconds since the first sample")
        start = min((times[0] for times, _ in curves.values() if len(times)), default=0.0)
        for name, (times, values) in curves.items():
            evidence.replace(name, (times - start).tolist(), values.tolist())
        return evidence.thresholds

    def gpus(self, profile: Profile, dimension: str = "GPUUtilization") -> dict[str, tuple[Floats, Floats]]:
        """Return the figures of each GPU, and plot them: seconds (N,) and percent (N,)."""
        if not profile.samples("GPUUtilization") and profile.samples("CPUUtilization"):
            self.needs = "there is no GPU here"
        if found := profile.samples(dimension):
            self.show(dimension, "share (%)", found)
        return found


class LowGPUUtilization(_MachineRule):
    """Fires where, of the last `window` samples of a GPU, the 95th percentile of its utilisation is below
    `threshold_p95`, or above it and the 5th below `threshold_p5`."""

    advice = "The GPU waits for the program: look for .item(), .cpu() or print in steps, slow data, small batches."
    threshold_p95: Percent = 70
    threshold_p5: Percent = 10
    window: Count = 500
    patience: Count = 1000

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        for name, (_, values) in self.gpus(profile).items():
            if len(values) > self.patience:
                p5, p95 = np.quantile(values[-self.window :], (0.05, 0.95))
                idle, uneven = p95 < self.threshold_p95, p95 > self.threshold_p95 and p5 < self.threshold_p5
                what = "is hardly used" if idle else "works by fits and starts"
                found = f"{name} {what}: the 95th percentile of its utilisation is {p95:.3g} %, the 5th {p5:.3g} % "
                found += f"(threshold_p95 {self.threshold_p95:g} %, threshold_p5 {self.threshold_p5:g} %)."
                yield found if idle or uneven else None


def low_gpus(rule: Any, profile: Profile, dimension: str, limit: float, busy: str) -> Iterator[str | None]:
    """Judge by the share of the samples in which a GPU is low and a core above the limit."""
    gpus, cores = rule.gpus(profile), profile.samples(dimension)
    times = np.sort(np.concatenate([np.array([0.0]), *(at for at, _ in (*gpus.values(), *cores.values()))]))
    starts = times[np.concatenate([[True], np.diff(times) > SNAPSHOT_SECONDS])]
    lowest, highest = np.full(len(starts), np.inf), np.full(len(starts), -np.inf)
    for curves, kept, better in ((gpus, lowest, np.minimum), (cores, highest, np.maximum)):
        for at, values in curves.values():
            better.at(kept, np.searchsorted(starts, at, side="right") - 1, values)
    both = np.isfinite(lowest) & np.isfinite(highest)
    times, gpu, core = starts[both], lowest[both], highest[both]
    if len(times) > rule.patience:
        curves = {"least busy GPU": (times, gpu), f"busiest core, {dimension}": (times, core)}
        rule.show("GPU and CPU", "share of time (%)", curves, {"gpu_threshold": rule.gpu_threshold, "core": limit})
        percent = 100 * float(((gpu < rule.gpu_threshold) & (core > limit)).mean())
        found = f"In {percent:.3g} % of {len(times)} samples a GPU was below {rule.gpu_threshold:g} % while a core "
        yield f"{found}{busy} (threshold {rule.threshold:g} %)." if percent > rule.threshold else None


class CPUBottleneck(_MachineRule):
    """Fires where in more than `threshold` % of the samples a GPU is below `gpu_threshold` and a core above
    `cpu_threshold`."""

    advice = "The GPU waits for the CPU: decode and augment beforehand, use more loader processes or more cores."
    threshold: Percent = 50
    gpu_threshold: Percent = 10
    cpu_threshold: Percent = 90
    patience: Count = 100

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        yield from low_gpus(self, profile, "CPUUtilization", self.cpu_threshold, f"was above {self.cpu_threshold:g} %")


class IOBottleneck(_MachineRule):
    """As CPUBottleneck, but the core waits for input or output for more than `io_threshold` % of its time."""

    advice = "The GPU waits for files: copy the data to a local disk or into memory, pack small files together."
    threshold: Percent = 50
    gpu_threshold: Percent = 10
    io_threshold: Percent = 50
    patience: Count = 1000

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        busy = f"waited for I/O above {self.io_threshold:g} %"
        yield from low_gpus(self, profile, "I/OWaitPercentage", self.io_threshold, busy)


class GPUMemoryIncrease(_MachineRule):
    """Fires where a GPU's memory keeps growing after `patience` samples, by more than `increase` percentage points;
    AWS's where a window of `window` samples is so much above the one before, as with one larger batch."""

    advice = "Something keeps tensors alive: keep losses and outputs as numbers (.item(), .detach()), collect none."
    needs = "there are no more samples than patience, or not two windows of them"
    increase: Positive = 5
    patience: Count = 100
    window: Count = 10

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        for name, (_, values) in self.gpus(profile, "GPUMemoryUtilization").items():
            if len(values) > self.patience and len(values) >= 2 * self.window:
                w, sums = self.window, np.concatenate([[0.0], np.cumsum(values)])
                growths = (sums[2 * w :] - 2 * sums[w:-w] + sums[: -2 * w]) / w  # [i] ends at sample i + 2 * window - 1
                growth = float(growths[max(0, self.patience + 1 - 2 * w) :].max())
                if not self.aws:  # what each third adds: growth that has ended is no leak
                    thirds = np.array_split(values[min(self.patience, len(values) - 3) :], 3)
                    growth = float(2 * np.diff([third.mean() for third in thirds]).min())
                found = f"The memory of {name} grew by {growth:.3g} percentage points (increase {self.increase:g})."
                yield found if growth > self.increase else None


class LoadBalancing(_MachineRule):
    """Fires where the histograms of two GPUs' utilisation are further than `threshold` apart: the Jensen-Shannon
    distance, 0 for equal ones and 0.833 (the root of ln 2) for those without any overlap."""

    advice = "Give every GPU as many images a step; look for what only one does: logging, saving, gathering outputs."
    needs = "there are not two GPUs with more samples than patience"
    threshold: NotNegative = 0.5
    patience: Count = 10

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        used = {name: values for name, (_, values) in self.gpus(profile).items() if len(values) > self.patience}
        found = []
        for names in itertools.combinations(used, 2):
            values = (np.clip(used[name], 0, 100) for name in names)
            p, q = (np.histogram(each, np.arange(0, 101, 2))[0] / len(each) for each in values)
            shares = np.array([(p + q) / 2, p, q])
            entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
            found.append((max(0.0, entropy[0] - entropy[1:].mean()) ** 0.5, *names))
        if found:
            distance, one, other = max(found)
            apart = f"the histograms of their utilisation are {distance:.3g} apart (threshold {self.threshold:g})"
            yield f"{one} and {other} are not equally busy: {apart}." if distance > self.threshold else None


class BatchSize(_MachineRule):
    """Fires where, of the last `window` samples, the 95th percentiles of the CPU's utilisation (mean of its cores), of
    a GPU's and of that GPU's memory are all below their thresholds."""

    advice = "CPU, GPU and GPU memory have room. Raise the batch size (and the learning rate), or take a smaller type."
    cpu_threshold_p95: Percent = 70
    gpu_threshold_p95: Percent = 70
    gpu_memory_threshold_p95: Percent = 70
    patience: Count = 100
    window: Count = 500

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        cpu, memories = mean_curve(profile.samples("CPUUtilization")), profile.samples("GPUMemoryUtilization")
        limits = (self.cpu_threshold_p95, self.gpu_threshold_p95, self.gpu_memory_threshold_p95)
        for name, gpu in self.gpus(profile).items():
            used = [values for _, values in (cpu, gpu, memories.get(name, (gpu[0], gpu[1][:0])))]
            if min(map(len, used)) > self.patience:
                p95 = [float(np.quantile(values[-self.window :], 0.95)) for values in used]
                found = "The 95th percentiles of CPU ({:.3g} %), {} ({:.3g} %) and its memory ({:.3g} %) are all below"
                below = ", ".join(f"{limit:g} %" for limit in limits)
                found = f"{found.format(p95[0], name, *p95[1:])} their thresholds ({below})."
                yield found if all(value < limit for value, limit in zip(p95, limits, strict=True)) else None


class StepOutlier(_MachineRule):
    """Fires where more than `n_outliers` steps of a mode exceed the mean by `stddev` standard deviations and cost more
    than a second and a tenth of all the time; AWS's by their number alone, which logging and checkpoints reach."""

    advice = "Look at what happens at these steps: checkpoints, logs that wait for the disk, other processes."
    needs = "no mode has more than 100 steps in the profile"
    stddev: Positive = 3
    mode: Literal["TRAIN", "EVAL", "PREDICT", "GLOBAL"] | None = None
    n_outliers: NotNegative = 10

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        timed = {mode: (starts, 1000 * seconds) for mode, (starts, seconds, _) in profile.timed_steps().items()}
        limits = self.show("Step durations", "duration (ms)", timed)
        for mode, (_, ms) in timed.items():
            if len(ms) > 100 and self.mode in (None, mode):
                limits[f"limit of {mode}"] = limit = float(ms.mean() + self.stddev * ms.std())
                outliers = ms[ms > limit]
                cost = float((outliers - np.median(ms)).sum())
                matters = self.aws or cost > max(1000.0, ms.sum() / 10)
                found = f"{len(outliers)} of {len(ms)} {mode} steps took longer than {limit:.3g} ms, the mean of "
                found += f"{ms.mean():.3g} ms and {self.stddev:g} standard deviations (n_outliers {self.n_outliers:g})."
                yield found if len(outliers) > self.n_outliers and matters else None


class MaxInitializationTime(_MachineRule):
    """Fires where the first step began more than `threshold` minutes after the first sample of the machine. AWS's also
    where none has begun yet, and so on every script whose steps nobody times."""

    advice = "Do once, beforehand, what the training does each time: download, decode, build caches."
    needs = "the machine was not sampled, or no step was timed"
    threshold: Positive = 20

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        sampled = [times[0] for times, _ in profile.samples("CPUUtilization").values()]
        starts = sorted(start for found in profile.timed_steps().values() for start in found[0].tolist())
        if sampled and (starts or self.aws):
            minutes = ((starts or [now])[0] - min(sampled)) / 60
            found = f"{'The first step began after' if starts else 'No step began in'} {minutes:.3g} minutes"
            yield f"{found} (threshold {self.threshold:g} minutes)." if minutes > self.threshold else None


class OverallSystemUsage(_MachineRule):
    """Never fires: its evidence is the mean use of every resource over time."""

    advice = "Compare what is used with what is paid for: a resource that is never near 100 % can be smaller."
    needs = "the machine was not sampled"

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        curves = {name: mean_curve(profile.samples(name)) for name in RESOURCES}
        self.show("Use of the machine", "in use (%)", {name: curve for name, curve in curves.items() if len(curve[0])})
        yield from [None] * len(profile.samples("CPUUtilization"))


class OverallFrameworkMetrics(_MachineRule):
    """Never fires: its evidence is the duration of the steps over time."""

    advice = "Steps that grow longer, or are long in one mode only, show where a training can become faster."
    needs = "no step was timed"

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        timed = {mode: (starts, 1000 * seconds) for mode, (starts, seconds, _) in profile.timed_steps().items()}
        self.show("Step durations", "duration (ms)", timed)
        yield from [None] * len(timed)


class DataWait(_MachineRule):
    """Fires where more than `threshold` % of the time of the last `window` training steps went by waiting for data. The
    first `patience` steps, in which loader processes start, are left out; waits below `least_ms` a step count from a
    minute in all, others from a second: less is not worth a change."""

    advice = "Load faster: more loader processes (num_workers), images decoded and resized beforehand, a local disk."
    needs = "no step's wait for its data was timed, or there are no more training steps than patience"
    severity, cause = "problem", "waits_for_data"
    threshold: Percent = 50
    window: Count = 100
    patience: Count = 10
    least_ms: NotNegative = 20

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        starts, seconds, waits = profile.timed_steps().get("TRAIN", np.zeros((3, 0)))[:, self.patience :]
        total = profile.phases().get("DataWait")
        if len(waits) and total is not None:
            shares, limit = 100 * waits / np.maximum(seconds, 1e-9), {"threshold": self.threshold}
            self.show("Waiting for data", "share of the step (%)", {"training steps": (starts, shares)}, limit)
            last = waits[-self.window :]
            percent = 100 * last.sum() / max(seconds[-self.window :].sum(), 1e-9)
            wait_ms = 1000 * last.mean()
            matters = total > (1.0 if wait_ms >= self.least_ms else 60.0)
            found = f"Of the last {len(last)} training steps, {percent:.3g} % of the time was spent waiting for data, "
            found += f"{wait_ms:.3g} ms a step (threshold {self.threshold:g} %); {total:.3g} s in all."
            yield found if percent > self.threshold and matters else None


class Dataloader(_MachineRule):
    """Fires where the median number of loader processes is below `min_threshold` % of the cores while the training
    waits for data for a fifth of its time, or above `max_threshold` %. AWS's asks for no waiting."""

    advice = "Set the number of loader processes (num_workers) to about the number of cores, and not above."
    needs = "no loader process ran beside the training"
    cause = "waits_for_data"
    min_threshold: NotNegative = 70
    max_threshold: NotNegative = 200

    def verdicts(self, profile: Profile, now: float) -> Iterator[str | None]:
        cores, workers = len(profile.samples("CPUUtilization")), profile.samples("ProcessWorkers")
        counts = np.concatenate([np.array([]), *(values[values > 0] for _, values in workers.values())])
        if cores and len(counts):
            fewest, most = (cores * share / 100 for share in (self.min_threshold, self.max_threshold))
            self.show("Loader processes", "processes", workers, {"min_threshold": fewest, "max_threshold": most})
            _, seconds, waits = profile.timed_steps().get("TRAIN", np.zeros((3, 0)))
            waiting = self.aws or waits.sum() > max(1.0, seconds.sum() / 5)
            median = float(np.median(counts))
            word, limit = ("few", fewest) if median < fewest else ("many", most)
            found = f"Too {word} loader processes for {cores} cores: {median:g} in the median (limit {limit:g})."
            yield found if median > most or (median < fewest and waiting) else None


class ProfilerReport(ProfilerRule):
    """Fires where another profiler rule did. With AWS's semantics it runs them all itself where it stands alone.
    `opt_out_telemetry` is accepted and means nothing: nothing is sent anywhere."""

    advice = "See the rules it names: each says what it found and what to do about it."
    needs = "no other profiler rule is configured"
    severity = "hint"
    opt_out_telemetry: bool = False
    found: dict[str, Sequence[str]] = state(dict)

    def evaluate(self, profile: Profile, now: float) -> str | None:
        kinds = [kind for kind in _MachineRule.__subclasses__() if self.aws and kind is not DataWait]
        sentences = {kind.__name__: kind(semantics="aws").evaluate(profile, now) for kind in kinds}
        self.found = {name: [sentence] if sentence else [] for name, sentence in sentences.items()}
        return None

    def summarise(self, fired: Mapping[str, Sequence[str]]) -> str | None:
        fired = fired or self.found
        self.judged += bool(fired)
        found = [name for name, sentences in fired.items() if sentences]
        return f"{len(found)} of {len(fired)} profiler rules found issues: {', '.join(found)}." if found else None
