"""The second stage: the backbone, or its last block, learns from images together with the head that it was given.

The head comes from the first stage, so that its first gradients do not spoil the backbone (Kumar et al. 2022). Layers
learn the more slowly the earlier they are; an average of the weights is what is validated and kept.
"""

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm  # torch's own drops the activation in timm's batch norms
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from classifier.data.images import Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.finetuning.augmentation import Augmentation, strength_for
from classifier.finetuning.folding import Folding
from classifier.finetuning.image_batches import (
    EpochBatches,
    PlainViews,
    Shares,
    TrainingViews,
    loaded,
    loading_for,
    shuffled,
)
from classifier.finetuning.layer_rates import layer_scales
from classifier.finetuning.mixing import PAIR, draw_mixes, mixed
from classifier.finetuning.shared_dropout import share_dropout
from classifier.finetuning.weight_average import WeightAverage
from classifier.model.backbone import Backbone
from classifier.model.head import ClassifierHead
from classifier.training.head_training import EVALUATION_ROWS
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.loop import Mode, Parts, TrainingBatch, Validation, Watcher, steps_per_epoch
from classifier.training.optimizer import AdamW, RatedParameters
from classifier.training.processes import Processes

FEW_IMAGES = 10_000  # of fewer, batch statistics are noise: those of the weights' own training set are kept
PLAIN_ROWS = 64  # images of one pass through the backbone in validation
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Images:
    """What fine-tuning reads."""

    train: PreparedImages
    validation: PreparedImages
    preprocess: Preprocess  # of the deployed network
    horizontal_flip: bool


class Body(nn.Module):
    """Backbone and head: (N, 3, H, W) float32, normalised -> (N, C) float32 logits.

    Args:
        mixed_precision: Whether the backbone computes in bfloat16 where that bears it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, backbone: Backbone, head: ClassifierHead, preprocess: Preprocess, *, mixed_precision: bool
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.mixed_precision = backbone, head, mixed_precision
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 with mean 0 and deviation 1, channels last in memory."""
        count, channels, height, width = pixels.shape
        rows = pixels.permute(0, 2, 3, 1).reshape(count, height, width * channels)  # over three channels it takes long
        normalised = rows.float().sub_(self.mean.repeat(width)).mul_(self.scale.repeat(width))
        return normalised.view(count, height, width, channels).permute(0, 3, 1, 2)

    def features(self, images: Tensor) -> Tensor:
        """(N, D) float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed_precision):
            features: Tensor = self.backbone(images)
        return features.float()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class FineTuning:
    """The stage.

    Args:
        backbone, head: Are trained in place.
        criterion: (N, C) logits and targets -> scalar loss.
        images: Both splits.
        hyperparameters: With nothing left open (fine_tuning_choices.py).
        processes: All that take part; a batch is shared among them.
    """

    lr_name = "finetune_lr"

    def __init__(
        self,
        backbone: Backbone,
        head: ClassifierHead,
        criterion: nn.Module,
        images: Images,
        hyperparameters: Hyperparameters,
        processes: Processes,
    ) -> None:
        self.hyperparameters, self.processes, self.images = hyperparameters, processes, images
        self.backbone, self.head, self.criterion = backbone, head, criterion
        self.epochs, self.batch_size = hyperparameters.finetune_epochs, hyperparameters.finetune_batch_size
        self.steps = steps_per_epoch(len(images.train), self.batch_size)
        self.device = torch.device("cuda", processes.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        self.train_statistics = trains_statistics(hyperparameters.batchnorm, len(images.train))
        self.dropouts = share_dropout(head)
        self.class_count = head.classifier.out_features
        mixed_precision = in_bfloat16(hyperparameters.precision, self.device)
        body = Body(backbone, head, images.preprocess, mixed_precision=mixed_precision)
        self.body: Body = body.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        criterion.to(self.device)
        rated = self._rated()
        self.optimizer = AdamW(
            rated,
            lr=hyperparameters.finetune_lr,
            weight_decay=hyperparameters.weight_decay,
            total_steps=self.epochs * self.steps,
        )
        learned = [parameter for some in rated for parameter in some.parameters]
        self.average = WeightAverage([*learned, *self._statistics()], hyperparameters.ema_decay)
        self.side = hyperparameters.finetune_image_size
        self.folding = self._folding()
        self.network = self._network()
        self.loading = loading_for(processes_on_host(), on_gpu=self.device.type == "cuda")
        strength = strength_for(hyperparameters, horizontal_flip=images.horizontal_flip)
        self.views = TrainingViews(
            images.train, Augmentation(images.preprocess, self.side, strength), hyperparameters.seed
        )
        self.plain_views = PlainViews(images.validation, images.preprocess)

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """This process's share of each batch; inputs are normalised and mixed, labels those of the images."""
        order = shuffled(len(self.images.train), np.random.default_rng((self.hyperparameters.seed, epoch)))
        batches = EpochBatches(epoch, order[first_step * self.batch_size :], self.batch_size)
        loader = loaded(self.views, Shares(batches, self.processes), loading=self.loading)
        waits = Waits()
        for step, (size, (pixels, labels)) in enumerate(
            zip(batches.sizes, waits.measured(loader), strict=True), first_step
        ):
            pixels, labels = (tensor.to(self.device, non_blocking=True) for tensor in (pixels, labels))
            images, targets = self.body.normalised(pixels), F.one_hot(labels, self.class_count).float()
            images, targets = self._mix(images, targets, size, step=(self.hyperparameters.seed, epoch, step))
            share, copies = self.processes.spread(range(size), PAIR)
            means = images.mean(dim=(2, 3)).cpu().numpy()
            yield TrainingBatch(images, labels, size, means, targets, share.start, copies)
        self.processes.say(f"Fine-tuning, epoch {epoch} of {self.epochs}: {waits}")

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """This share's part of the batch's mean loss."""
        for dropout in self.dropouts:
            dropout.rows, dropout.first = batch.size, batch.first
        logits = self.network(batch.inputs)
        share = len(batch.labels) / batch.size / batch.copies
        return self.criterion(logits, batch.targets) * share, logits

    def backward(self, loss: Tensor) -> None:
        """Gradients of the whole batch: DistributedDataParallel averages what has to be added up."""
        (loss * self.processes.count).backward()  # type: ignore[no-untyped-call]

    def updated(self) -> None:
        """The average follows the weights."""
        self.average.update()

    def set_mode(self, mode: Mode) -> None:
        """Training with its own weights, validation with their average."""
        training = mode == "TRAIN"
        self.body.train(training)
        if not self.train_statistics:
            freeze_statistics(self.backbone)
        self.average.exchange(not training)

    @torch.no_grad()
    def validate(self, watcher: Watcher) -> Validation:
        """The plain views, at the side at which the network is deployed; a step is as many images as the head's."""
        rows = self.processes.share(range(len(self.images.validation)))
        loss_sum, answers = 0.0, [torch.empty(0, self.class_count)]
        for pixel_batches, labels in watcher.batches(self._plain_steps(rows), "EVAL"):
            with watcher.phase("Forward"):
                images = (self.body.normalised(pixels.to(self.device)) for pixels, _ in pixel_batches)
                logits = self.head(torch.cat([self.body.features(some) for some in images]))
                watcher.see(labels, logits.cpu())
                loss_sum += float(self.criterion(logits, labels.to(self.device))) * len(labels)
            answers.append(logits.cpu())
        [loss_sum] = self.processes.sum([loss_sum])
        labels = torch.from_numpy(self.images.validation.labels)
        return Validation(loss_sum / len(labels), self.processes.gather(torch.cat(answers)), labels)

    def _plain_steps(self, rows: range) -> Iterator[tuple[Iterator[tuple[Tensor, Tensor]], Tensor]]:
        """Batches of pixels for EVALUATION_ROWS images at a time, and their labels; the same workers load all."""
        labels = torch.from_numpy(self.images.validation.labels)
        steps = [rows[start : start + EVALUATION_ROWS] for start in range(0, len(rows), EVALUATION_ROWS)]
        batches = [[list(step[at : at + PLAIN_ROWS]) for at in range(0, len(step), PLAIN_ROWS)] for step in steps]
        images = loaded(self.plain_views, list(chain.from_iterable(batches)), loading=self.loading)
        for step, of_step in zip(steps, batches, strict=True):
            yield islice(images, len(of_step)), labels[step.start : step.stop]

    def parts(self) -> Parts:
        """Backbone and head as they are validated."""
        self.average.exchange(True)
        return {
            name: {key: tensor.detach().cpu().clone() for key, tensor in module.state_dict().items()}
            for name, module in (("head", self.head), ("backbone", self.backbone))
        }

    def state(self) -> dict[str, Any]:
        """The weights, their average, and whether they have changed places."""
        average = self.average
        return {
            "weights": [tensor.detach().clone() for tensor in average.tensors],
            "averages": [tensor.clone() for tensor in average.averages],
            "exchanged": average.exchanged,
            "steps": average.steps,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for ours, kept in ((self.average.tensors, "weights"), (self.average.averages, "averages")):
            for tensor, value in zip(ours, state[kept], strict=True):
                tensor.copy_(value)
        self.average.exchanged, self.average.steps = state["exchanged"], state["steps"]

    def _rated(self) -> list[RatedParameters]:
        asked = self.hyperparameters
        scaled = layer_scales(self.backbone, asked.finetune, asked.layer_lr_decay, frozen_stride=asked.frozen_stride)
        self.backbone.requires_grad_(False)
        for parameters, _ in scaled:
            for parameter in parameters:
                parameter.requires_grad_(True)
        return [RatedParameters(self.head.parameters()), *(RatedParameters(some, scale) for some, scale in scaled)]

    def _statistics(self) -> list[Tensor]:
        """What batch norms learn in their forward passes, if they do."""
        if not self.train_statistics:
            return []
        norms = [module for module in self.backbone.modules() if isinstance(module, BATCH_NORMS)]
        buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        return [buffer for buffer in buffers if buffer is not None]

    def _folding(self) -> Folding | None:
        """Where nothing else makes batch norms cheap: torch.compile does, and bfloat16 would round folded weights."""
        if self.train_statistics or self.hyperparameters.compile or self.body.mixed_precision:
            return None
        drawn = torch.randn(1, 3, self.side, self.side, generator=torch.Generator().manual_seed(0))
        example = drawn.to(self.device).contiguous(memory_format=torch.channels_last)
        folding = Folding(self.backbone.eval(), example)
        folding.set(True)
        return folding

    def _network(self) -> nn.Module:
        """The body, compiled and distributed as asked for; its parameters are the body's own."""
        network: nn.Module = self.body
        if self.processes.count > 1:
            if self.train_statistics and self.device.type == "cuda":
                network = convert_sync_batchnorm(network)
            devices = [self.device.index] if self.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=devices)
        return torch.compile(network) if self.hyperparameters.compile else network  # type: ignore[return-value]

    def _mix(self, images: Tensor, targets: Tensor, whole: int, *, step: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Mix this process's share of a batch of `whole` images."""
        hyperparameters = self.hyperparameters
        mixes = draw_mixes(
            whole // PAIR,
            mixup_alpha=hyperparameters.mixup_alpha,
            cutmix_alpha=hyperparameters.cutmix_alpha,
            draw=np.random.default_rng(step),
        )
        if mixes is None:
            return images, targets
        pairs, _ = self.processes.spread(range(whole), PAIR)
        return mixed(images, targets, mixes.of(slice(pairs.start // PAIR, pairs.stop // PAIR)))


def trains_statistics(batchnorm: str, images: int) -> bool:
    """Whether batch norms go on learning their means and deviations."""
    return batchnorm == "train" or (batchnorm == "auto" and images >= FEW_IMAGES)


def freeze_statistics(module: nn.Module) -> None:
    """Batch norms normalise with what they know, and learn nothing."""
    for child in module.modules():
        if isinstance(child, BATCH_NORMS):
            child.eval()


def processes_on_host() -> int:
    """As torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def in_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in mixed precision; `auto` does so on a GPU."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


class Waits:
    """How long an epoch's steps took, and how long of that they waited for images."""

    def __init__(self) -> None:
        self.began, self.waited, self.steps = monotonic(), 0.0, 0

    def measured(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The batches."""
        while True:
            before = monotonic()
            batch = next(batches, None)
            self.waited += monotonic() - before
            if batch is None:
                return
            self.steps += 1
            yield batch

    def __str__(self) -> str:
        took = monotonic() - self.began
        per_step, share = took / max(1, self.steps), self.waited / took if took else 0.0
        return f"{self.steps} steps of {per_step:.3g} s, of which {per_step * share:.2g} s for data ({share:.0%})"
