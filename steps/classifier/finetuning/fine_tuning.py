"""The second stage: the backbone, or its last block, learns from images together with the head that it was given.

The head comes from the first stage, so that its first gradients do not spoil the backbone (Kumar et al. 2022). Layers
learn the more slowly the earlier they are; an average of the weights is what is validated and kept.
"""

import math
import os
from collections.abc import Generator
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.layers import convert_sync_batchnorm  # torch's own drops the activation in timm's batch norms
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from classifier.drift.baseline import DriftBaseline, fit, spread
from classifier.finetuning.depthwise import patch
from classifier.finetuning.images import Images, Views, augmentation, load, plain_views, seed_of
from classifier.job.failures import StepError
from classifier.job.system import core_count
from classifier.model.backbone import Backbone, frozen
from classifier.model.head import ClassifierHead
from classifier.training.head_training import EVALUATION_ROWS, HeadTraining, weights_of
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.job import ALONE, Processes
from classifier.training.loop import Mode, TrainingBatch, Watcher
from classifier.training.optimizer import AdamW, decay_weights
from classifier.training.results import Validation

FEW_IMAGES = 10_000  # of fewer, batch statistics are noise: those of the weights' own training set are kept
PLAIN_ROWS = 64  # images of one pass through the backbone in validation
SMALLEST_SCALE = 0.05  # layers that would learn more slowly are frozen, which spares their backward pass
FITTED_ROWS, REFERENCE_ROWS = 512, 1024  # images of the drift baseline: each is embedded anew
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Body(nn.Module):
    """Backbone, in bfloat16 where that is asked for and bears it, and head: (N, 3, H, W) -> (N, C) float32 logits."""

    def __init__(self, backbone: Backbone, head: ClassifierHead, *, mixed_precision: bool) -> None:
        super().__init__()
        self.backbone, self.head, self.mixed_precision = backbone, head, mixed_precision

    def features(self, images: Tensor) -> Tensor:
        """(N, D) float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed_precision):
            features: Tensor = self.backbone(images)
        return features.float()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class FineTuning:
    """The stage: trains in place the backbone, and the first stage's head by its loss and hyperparameters (`settled`).

    Each of the processes takes its own images of a step.
    """

    lr_name = "finetune_lr"

    def __init__(
        self, first_stage: HeadTraining, backbone: Backbone, images: Images, processes: Processes = ALONE
    ) -> None:
        # Cores for a backbone that learns, unless told otherwise; the head had one. torchrun sets OMP_NUM_THREADS to 1.
        told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0] if processes.local_count == 1 else ""
        torch.set_num_threads(int(told) if told else max(1, core_count() // processes.local_count))
        asked = self.hyperparameters = first_stage.hyperparameters
        head = first_stage.head
        self.processes, self.images = processes, images
        self.device = torch.device("cuda", processes.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        side, deployed_side = asked.finetune_image_size, images.preprocess.image_size
        if hasattr(backbone.network, "set_input_size") and side != deployed_side:
            raise StepError(
                f"finetuning.image_size_px must be {deployed_side}, as deployed, with a transformer "
                f"that learns, which takes one size of images, but got {side}."
            )
        few = len(images.train) < FEW_IMAGES
        self.freezes_statistics = asked.batchnorm == "frozen" or (asked.batchnorm == "auto" and few)
        mixed_precision = asked.precision == "bf16" or (asked.precision == "auto" and self.device.type == "cuda")
        place: Any = {"device": self.device, "memory_format": torch.channels_last}
        self.body: Body = Body(backbone, head, mixed_precision=mixed_precision).to(**place)
        self.criterion = first_stage.criterion.to(self.device)
        self.views = Views(images.train, augmentation(images, asked), asked.seed)
        self.sampler = DistributedSampler[int](self.views, processes.count, processes.rank, seed=asked.seed)
        self.share = math.ceil(asked.finetune_batch_size / processes.count)
        self.epochs, self.steps = asked.finetune_epochs, math.ceil(len(self.sampler) / self.share)
        groups = decay_weights(head, asked.weight_decay) + learning_groups(backbone.network, asked)
        self.optimizer = AdamW(groups, lr=asked.finetune_lr, total_steps=self.epochs * self.steps)
        if not asked.compile:
            patch(backbone)
        unwatched = Body(backbone, head.copy(), mixed_precision=mixed_precision).to(**place)
        self.average = ModelEmaV3(unwatched, asked.ema_decay, use_warmup=True)
        averaged = self.average.module
        self.modules = {"body": self.body, "average": averaged}
        self.deployed = {"head": averaged.head, "backbone": averaged.backbone}
        self.classes = head.class_count
        # One share for all of a batch: a share for each pair would be a tensor, which a GPU is waited for to copy.
        self.mixup = Mixup(
            asked.mixup_alpha, asked.cutmix_alpha, mode="batch", label_smoothing=0.0, num_classes=self.classes
        )
        self.network: nn.Module = self.body
        if processes.count > 1:
            if not self.freezes_statistics and self.device.type == "cuda":
                self.network = convert_sync_batchnorm(self.network)
            devices = [self.device.index] if self.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=devices, static_graph=True)
        if asked.compile:
            self.network.compile()
        what = "the last block" if asked.finetune == "last_block" else "the backbone"
        size = f"{len(images.train)} images of {asked.finetune_image_size} px, {asked.finetune_batch_size} a step"
        processes.say(
            f"Fine-tuning {what} on {size}" + (f", {processes.count} processes" if processes.count > 1 else "")
        )

    def batches(self, epoch: int, first_step: int) -> Generator[TrainingBatch, None, None]:
        """This process's share of each batch; what is drawn depends on seed, epoch, step and process."""
        asked = self.hyperparameters
        self.views.epoch = epoch
        self.sampler.set_epoch(epoch)
        rows = list(self.sampler)[first_step * self.share :]
        for step, (pixels, labels) in enumerate(load(self.views, rows, self.share, self.processes), first_step):
            seed = seed_of(asked.seed, epoch, step, self.processes.rank)
            torch.manual_seed(seed)  # dropout
            np.random.seed(seed)  # timm's Mixup
            means = pixels.mean(dim=(2, 3)).numpy()
            images = pixels.to(self.device, memory_format=torch.channels_last, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            targets = F.one_hot(labels, self.classes).float()
            paired = len(images) // 2 * 2  # of an odd number the last image stays as it is
            if paired and (asked.mixup_alpha or asked.cutmix_alpha):
                images[:paired], targets[:paired] = self.mixup(images[:paired], labels[:paired])
            yield TrainingBatch(images, labels, means, targets)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """The batch's mean loss; DistributedDataParallel averages the gradients of all processes."""
        logits = self.network(batch.inputs)
        return self.criterion(logits, batch.targets), logits

    def updated(self) -> None:
        """The average follows the weights."""
        self.average.update(self.body, self.optimizer.step_count)

    def set_mode(self, mode: Mode) -> None:
        """Dropout on or off; batch norms learn only where they shall."""
        self.body.train(mode == "TRAIN")
        if self.freezes_statistics:
            for module in self.body.backbone.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()

    @torch.no_grad()
    def validate(self, watcher: Watcher) -> Validation:
        """The averaged network on the plain views; a step's are as many as the head's, which the debugger watches."""
        split, processes, head, averaged = self.images.validation, self.processes, self.body.head, self.average.module
        rows = np.array_split(np.arange(len(split)), processes.count)[processes.rank]
        loader = load(plain_views(split, self.images.preprocess), rows.tolist(), PLAIN_ROWS, processes)
        batches = (pixels.to(self.device, memory_format=torch.channels_last) for pixels, _ in loader)
        features = map(averaged.features, batches)  # of a batch when its step begins
        loss_sum, answers = 0.0, [torch.empty(0, self.classes)]
        chunks = [rows[start : start + EVALUATION_ROWS] for start in range(0, len(rows), EVALUATION_ROWS)]
        with weights_of(head, averaged.head):
            for chunk in watcher.batches(chunks, "EVAL"):
                labels = torch.from_numpy(split.labels[chunk])
                with watcher.phase("Forward"):
                    logits = head(torch.cat(list(islice(features, math.ceil(len(chunk) / PLAIN_ROWS)))))
                    watcher.see(labels, logits.cpu())
                    loss_sum += float(self.criterion(logits, labels.to(self.device))) * len(chunk)
                answers.append(logits.cpu())
        [loss_sum] = processes.sum([loss_sum])
        logits = torch.cat(processes.gather(torch.cat(answers)))
        return Validation(loss_sum / len(split), logits, torch.from_numpy(split.labels))


def learning_groups(network: nn.Module, asked: Hyperparameters) -> list[dict[str, Any]]:
    """The parameters of a backbone that learn, in groups by layer, with their shares of the rate; others are frozen.

    Layers down to `frozen_stride` do not learn, where timm tells (`feature_info`); the last block always does.
    """
    parameters: dict[str, Any] = dict(network.named_parameters())
    matcher: Any = getattr(network, "group_matcher", None)
    depths = group_parameters(network, matcher(coarse=True), reverse=True) if matcher else dict.fromkeys(parameters, 0)
    last = max(depths[name] for name in parameters)
    first, layer_decay = 0, asked.layer_lr_decay
    if asked.finetune == "last_block":
        if last == 0:
            raise StepError("model.finetune cannot be last_block: timm cannot tell the blocks of this backbone apart.")
        first, layer_decay = last, 1.0
    elif matcher:
        stages: Any = getattr(network, "feature_info", ())
        early = tuple(f"{stage['module']}." for stage in stages if stage["reduction"] <= asked.frozen_stride)
        first = min(1 + max((depths[name] for name in parameters if name.startswith(early)), default=-1), last)
    for name, parameter in parameters.items():
        parameter.requires_grad_(depths[name] >= first)
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, asked.weight_decay, layer_decay=layer_decay, no_opt_scale=SMALLEST_SCALE
    )
    return groups


@torch.no_grad()
def fine_tuned_baseline(backbone: Backbone, images: Images) -> DriftBaseline:
    """The drift baseline of a fine-tuned network, whose embeddings PrepareData could not know.

    It has learned the training images by heart: only validation images show what an unseen one looks like.
    """
    side = images.preprocess.image_size
    network = frozen(backbone.cpu().eval(), torch.zeros(1, 3, side, side))
    features = []
    for split, count in ((images.train, FITTED_ROWS), (images.validation, REFERENCE_ROWS)):
        rows = spread(np.arange(len(split)), count).tolist()
        batches = load(plain_views(split, images.preprocess), rows, PLAIN_ROWS, ALONE)
        features.append(np.concatenate([network(pixels).numpy() for pixels, _ in batches]))
    return fit(*features)
