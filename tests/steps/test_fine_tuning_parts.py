"""What fine-tuning is made of: views, mixtures, averages, rates, orders, shares, and the start under torchrun."""

import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from classifier.data.images import Preprocess
from classifier.finetuning.augmentation import ASPECT, Augmentation, Strength, seed_of, strength_for
from classifier.finetuning.choices import settled
from classifier.finetuning.fine_tuning import Body
from classifier.finetuning.image_batches import RUN_ROWS, WINDOW_RUNS, shuffled
from classifier.finetuning.layer_rates import layer_scales
from classifier.finetuning.mixing import Mixes, draw_mixes, mixed
from classifier.finetuning.shared_dropout import share_dropout
from classifier.finetuning.weight_average import WeightAverage
from classifier.job.failures import StepError
from classifier.model.backbone import Backbone
from classifier.model.head import ClassifierHead
from classifier.training.hyperparameters import Hyperparameters
from classifier.training.processes import Processes
from classifier.training.torchrun import torchrun_command

PREPROCESS = Preprocess(64, 72, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAIN = Strength(crop_area_min=1.0, randaugment_magnitude=0, erasing_probability=0.0, horizontal_flip=False)
STRONG = Strength(crop_area_min=0.4, randaugment_magnitude=9, erasing_probability=1.0, horizontal_flip=True)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8))


def test_a_view_depends_on_its_key_alone_and_leaves_the_random_numbers_alone() -> None:
    augmentation = Augmentation(PREPROCESS, 48, STRONG)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = augmentation(picture(), (0, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert (first.shape, first.dtype) == ((3, 48, 48), torch.uint8)
    assert torch.equal(augmentation(picture(), (0, 1, 2)), first)
    assert not torch.equal(augmentation(picture(), (0, 2, 2)), first)


def test_a_crop_is_torchvisions() -> None:
    """Ours differs in how it lies in memory."""
    crop = v2.RandomResizedCrop(48, scale=(0.4, 1.0), ratio=ASPECT, interpolation=v2.InterpolationMode.BICUBIC)
    theirs = v2.Compose([v2.PILToTensor(), crop])
    ours = Augmentation(PREPROCESS, 48, Strength(0.4, 0, 0.0, False))
    for row in range(10):
        torch.manual_seed(seed_of((row,)))
        expected = theirs(picture())
        view = ours(picture(), (row,))
        assert torch.equal(view, expected)
        assert view.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_normalised_by_channel(memory_format: torch.memory_format) -> None:
    preprocess = Preprocess(5, 5, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    body = Body(nn.Identity(), ClassifierHead(3, 2), preprocess, mixed_precision=False)
    pixels = torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8).contiguous(memory_format=memory_format)
    found = body.normalised(pixels)
    means, deviations = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    torch.testing.assert_close(found, (pixels / 255 - means) / deviations)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_flip_happens_only_where_it_is_allowed() -> None:
    marked = Image.new("RGB", (64, 64))
    marked.paste((255, 255, 255), (0, 0, 8, 64))  # bright on the left
    for flip, sides in ((False, {0}), (True, {0, 1})):
        augmentation = Augmentation(PREPROCESS, 64, Strength(1.0, 0, 0.0, flip))
        views = [augmentation(marked, (0, 0, row)) for row in range(20)]
        assert {int(view[0, :, -4:].float().mean() > view[0, :, :4].float().mean()) for view in views} == sides


def test_erasing_paints_the_mean_colour() -> None:
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    erased = Augmentation(PREPROCESS, 64, Strength(1.0, 0, 1.0, False))(white, (0, 0, 0))
    assert set(erased.unique().tolist()) == {128, 255}
    assert Augmentation(PREPROCESS, 64, PLAIN)(white, (0, 0, 0)).unique().tolist() == [255]


def manifest_of(side: int, *, tiny: bool) -> dict[str, object]:
    return {"preprocess": {"image_size": side}, "tiny_images": tiny}


@pytest.mark.parametrize(("side", "expected"), [(256, 224), (128, 96), (32, 32), (20, 20), (224, 192), (192, 160)])
def test_training_side_is_a_little_below_the_deployed_one(side: int, expected: int) -> None:
    assert settled(Hyperparameters(finetune="all"), manifest_of(side, tiny=False)).finetune_image_size == expected


def test_tiny_images_are_seen_nearly_whole_and_not_as_often() -> None:
    photos, tiny = (settled(Hyperparameters(finetune="all"), manifest_of(128, tiny=tiny)) for tiny in (False, True))

    assert strength_for(photos, horizontal_flip=True) == Strength(0.4, 5, 0.1, True)
    assert strength_for(tiny, horizontal_flip=False) == Strength(0.75, 0, 0.1, False)
    assert (photos.finetune_epochs, tiny.finetune_epochs) == (12, 8)
    assert (photos.frozen_stride, tiny.frozen_stride) == (4, 0)


def test_what_is_asked_for_is_not_chosen() -> None:
    asked = Hyperparameters(
        finetune="last_block",
        finetune_epochs=3,
        finetune_image_size=40,
        crop_area_min=0.2,
        randaugment_magnitude=0,
        frozen_stride=2,
    )
    assert settled(asked, manifest_of(128, tiny=False)) == settled(asked, manifest_of(64, tiny=True)) == asked
    assert strength_for(asked, horizontal_flip=True) == Strength(0.2, 0, 0.1, True)
    assert settled(Hyperparameters(), manifest_of(128, tiny=True)) == Hyperparameters()  # nothing is fine-tuned


def test_mixup_mixes_each_pair_and_leaves_an_odd_image() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4).clone()
    targets = torch.eye(3)
    found, labels = mixed(images, targets, Mixes(False, np.array([0.75]), np.zeros((1, 2))))
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.25, 0.75, 2.0])
    assert labels.tolist() == [[0.75, 0.25, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]


def test_cutmix_exchanges_a_box_and_counts_its_pixels() -> None:
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 8, 8).clone()
    found, labels = mixed(images, torch.eye(2), Mixes(True, np.array([0.75]), np.array([[0.0, 1.0]])))
    assert found[0, 0].sum() == 16  # a box of 4 by 4
    assert found[0, 0, :4, 4:].min() == 1
    assert torch.equal(found[0] + found[1], torch.ones(3, 8, 8))
    assert labels.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_shares_of_a_batch_are_mixed_as_the_whole() -> None:
    images, targets = torch.rand(10, 3, 6, 6), torch.eye(10)
    for alphas in ((0.2, 0.0), (0.0, 1.0)):
        mixes = draw_mixes(5, mixup_alpha=alphas[0], cutmix_alpha=alphas[1], draw=np.random.default_rng(0))
        assert mixes is not None
        assert mixes.shares.min() >= 0.5
        whole = mixed(images.clone(), targets, mixes)
        shared = []
        for rank in range(2):
            rows = Processes(rank, 2).share(range(10), 2)
            part = mixes.of(slice(rows.start // 2, rows.stop // 2))
            shared.append(mixed(images[rows.start : rows.stop].clone(), targets[rows.start : rows.stop], part))
        assert torch.equal(torch.cat([part[0] for part in shared]), whole[0])
        assert torch.equal(torch.cat([part[1] for part in shared]), whole[1])


def test_nothing_is_mixed_where_both_alphas_are_0() -> None:
    assert draw_mixes(5, mixup_alpha=0, cutmix_alpha=0, draw=np.random.default_rng(0)) is None


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 5, 12])
def test_shares_together_are_the_whole_and_pairs_stay_together(count: int, items: int) -> None:
    shares = [Processes(rank, count).share(range(items), 2) for rank in range(count)]
    assert [item for share in shares for item in share] == list(range(items))
    assert all(share.start % 2 == 0 for share in shares if share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_average_follows_and_changes_places_with_the_weights() -> None:
    weight = torch.zeros(2)
    average = WeightAverage([weight], 0.5)
    weight.fill_(1.0)
    average.update()  # the first step counts for 9/11: a short history must not remember the start for long
    average.update()
    average.exchange(True)
    average.exchange(True)
    assert weight.tolist() == pytest.approx([1 - (2 / 11) * (3 / 12)] * 2)
    average.exchange(False)
    assert weight.tolist() == [1.0, 1.0]


def names_of(backbone: Backbone, tensors: Sequence[torch.Tensor]) -> set[str]:
    return {name for name, parameter in backbone.network.named_parameters() if any(parameter is one for one in tensors)}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    network = timm.create_model("test_resnet", pretrained=False)
    network.reset_classifier(0)
    return Backbone(network.eval())


def test_earlier_layers_learn_more_slowly_and_the_slowest_not_at_all(backbone: Backbone) -> None:
    scaled = layer_scales(backbone, "all", 0.5)
    assert [scale for _, scale in scaled] == [1.0, 0.5, 0.25, 0.125, 0.0625]
    assert all(name.startswith("layer4") for name in names_of(backbone, scaled[0][0]))
    assert any(name.startswith("conv1") for name in names_of(backbone, scaled[-1][0]))
    assert [scale for _, scale in layer_scales(backbone, "all", 0.2)] == [1.0, 0.2]
    [(last, scale)] = layer_scales(backbone, "last_block", 0.5)
    assert (scale, {name.partition(".")[0] for name in names_of(backbone, last)}) == (1.0, {"layer4"})


@pytest.mark.parametrize(
    "stride, first",
    [(0, "conv1"), (2, "conv1"), (4, "layer2"), (8, "layer3"), (15, "layer3"), (16, "layer4"), (64, "layer4")],
)
def test_layers_up_to_a_stride_stay_as_they_are(backbone: Backbone, stride: int, first: str) -> None:
    scaled = layer_scales(backbone, "all", 0.9, frozen_stride=stride)  # a ResNet's layers have strides 4, 8, 16, 32
    assert {name.partition(".")[0] for name in names_of(backbone, scaled[-1][0])} >= {first}
    assert [scale for _, scale in scaled] == pytest.approx([0.9**distance for distance in range(len(scaled))])


class Shapeless(nn.Module):
    """A network that does not tell its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8)}
        self.layer = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.mean(dim=(2, 3)))


def test_last_block_of_a_network_that_does_not_tell_its_blocks_is_refused() -> None:
    shapeless = Backbone(Shapeless().eval())
    assert [scale for _, scale in layer_scales(shapeless, "all", 0.5, frozen_stride=4)] == [1.0]
    with pytest.raises(StepError) as caught:
        layer_scales(shapeless, "last_block", 0.5)
    assert str(caught.value) == (
        "model.finetune must be none or all with this backbone, whose blocks timm cannot tell apart, "
        "but got last_block."
    )


def test_orders_hold_every_row_once_and_long_ones_stay_near_where_they_read() -> None:
    rows = 3 * RUN_ROWS * WINDOW_RUNS + 17
    order = shuffled(rows, np.random.default_rng(0))
    assert sorted(order) == list(range(rows))
    windows = [order[start : start + RUN_ROWS * WINDOW_RUNS] for start in range(0, rows, RUN_ROWS * WINDOW_RUNS)]
    assert all(len({row // RUN_ROWS for row in window}) <= WINDOW_RUNS + 1 for window in windows)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.5  # neighbours come from anywhere in the window
    assert not any(np.array_equal(one, other) for one, other in pairwise(windows[:-1]))


def test_shared_dropout_drops_what_one_process_would() -> None:
    values = torch.ones(9, 6)
    results = []
    for count in (1, 2):
        head = ClassifierHead(6, 3, hidden_units=4, dropout=0.5)
        [dropout, _] = share_dropout(head)
        parts = []
        for rank in range(count):
            rows = Processes(rank, count).share(range(9), 2)
            torch.manual_seed(0)
            dropout.rows, dropout.first = 9, rows.start
            parts.append(dropout(values[rows.start : rows.stop]))
        results.append(torch.cat(parts))
    assert torch.equal(results[0], results[1])
    assert set(results[0].unique().tolist()) == {0.0, 2.0}
    dropout.eval()
    assert torch.equal(dropout(values), values)


def test_torchrun_starts_a_process_for_each_gpu_of_each_instance() -> None:
    environment = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "4"}
    command = torchrun_command(environment, ["train.py", "--lr", "0.1"])
    assert command is not None
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert command[-3:] == ["train.py", "--lr", "0.1"]
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--master-addr=algo-1"} < set(command)


@pytest.mark.parametrize(
    "environment",
    [{}, {"SM_HOSTS": '["algo-1"]', "SM_NUM_GPUS": "1"}, {"SM_NUM_GPUS": "8", "WORLD_SIZE": "8"}, {"SM_NUM_GPUS": "0"}],
    ids=str,
)
def test_one_process_needs_no_torchrun_nor_does_one_that_it_started(environment: dict[str, str]) -> None:
    assert torchrun_command(environment, ["train.py"]) is None
