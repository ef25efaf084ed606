"""CheckInputImages: images that were not normalised."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from watch.rules.base import Mode, TensorRule, Trial
from watch.rules.parameters import integer, number, patterns, state


@dataclass(kw_only=True)
class CheckInputImages(TensorRule):
    """Fires at a step where, over all images so far and at least `threshold_samples`, the mean of a colour channel is
    further than `threshold_mean` from 0.

    Images are saved tensors of four dimensions whose name matches `regex`; `channel` is the position of the colours
    among them. AWS's default pattern is the name of an MXNet network's input; ours is that of the product's hook.

    Source: AWS guide, "List of Debugger built-in rules", CheckInputImages.
    """

    advice = (
        "Subtract the mean of the images and divide by their deviation, channel by channel, with the figures that the "
        "backbone was trained with."
    )
    needs = "no images are saved, or fewer than threshold_samples"

    threshold_mean: float = number(0.2, at_least=0)
    threshold_samples: int = integer(500, at_least=1)
    regex: tuple[str, ...] = patterns((".*input_image",))
    channel: int = integer(1, at_least=0, at_most=3)

    images: int = state(int)
    values: int = state(int)  # of one channel
    totals: npt.NDArray[np.float64] = state(lambda: np.zeros(1))  # of each channel

    def evaluate(self, trial: Trial, step: int, mode: Mode) -> str | None:
        for _, batch in self.tensors(trial, step, mode, regex=self.regex):
            if batch.ndim == 4 and batch.size:
                by_channel = np.moveaxis(batch, self.channel, 0).reshape(batch.shape[self.channel], -1)
                self.totals = self.totals + by_channel.sum(axis=1, dtype=np.float64)
                self.values += by_channel.shape[1]
                self.images += len(batch)
        if self.images < self.threshold_samples:
            return None
        self.judged += 1
        means = self.totals / self.values
        channel = int(np.abs(means).argmax())
        limits = {"threshold_mean": self.threshold_mean}
        plot = self.plot("Mean of the channel furthest from 0", "|mean|", limits, f"{mode.name} step")
        plot.add("mean", step, abs(means[channel]))
        if not abs(means[channel]) > self.threshold_mean:
            return None
        return (
            f"Channel {channel} of the input images averages {means[channel]:.3g} over {self.images} images up to step "
            f"{step} of mode {mode.name} (threshold_mean {self.threshold_mean:g})."
        )
