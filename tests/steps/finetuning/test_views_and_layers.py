"""What fine-tuning is made of: views of images, which layers learn and how fast, what it chooses by itself."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from classifier.data.images import Preprocess
from classifier.finetuning.fine_tuning import learning_groups
from classifier.finetuning.images import Images, Views, augmentation, load, plain_views
from classifier.job.failures import StepError
from classifier.training.hyperparameters import Hyperparameters, settled
from classifier.training.job import ALONE
from tests.steps.prepared_data import png

PREPROCESS = Preprocess(64, 72, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAIN = Hyperparameters(
    finetune="all", finetune_image_size=48, crop_area_min=1.0, randaugment_magnitude=0, erasing_probability=0.0
)
STRONG = replace(PLAIN, crop_area_min=0.4, randaugment_magnitude=9, erasing_probability=1.0)


class Pictures:
    """Encoded pictures by row, as prepared images are."""

    def __init__(self, *contents: bytes) -> None:
        self.contents, self.labels = contents, np.arange(len(contents))

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, row: int) -> bytes:
        return self.contents[row]

    def place(self, row: int) -> str:
        return f"image {row}"


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8))


def images_of(*contents: bytes, flip: bool = False) -> Images:
    return Images(Pictures(*contents), Pictures(*contents), PREPROCESS, horizontal_flip=flip)


def test_a_view_depends_on_seed_epoch_and_row_alone() -> None:
    content = png(noise())
    images = images_of(content, content, flip=True)
    views, others = (Views(images.train, augmentation(images, STRONG), seed) for seed in (0, 1))
    first, label = views[0]
    assert (first.shape, first.dtype, label) == ((3, 48, 48), torch.float32, 0)
    assert torch.equal(views[0][0], first)
    assert not torch.equal(views[1][0], first) and not torch.equal(others[0][0], first)
    views.epoch = 1
    assert not torch.equal(views[0][0], first)


def test_a_view_is_normalised_by_channel() -> None:
    colour = Image.new("RGB", (64, 64), (255, 128, 0))
    view = augmentation(images_of(), PLAIN)(colour)
    assert view.mean(dim=(1, 2)).tolist() == pytest.approx(
        [(value / 255 - 0.5) / 0.25 for value in (255, 128, 0)], abs=1e-3
    )


@pytest.mark.parametrize(("flip", "sides"), [(False, {0}), (True, {0, 1})])
def test_flip_happens_only_where_it_is_allowed(flip: bool, sides: set[int]) -> None:
    marked = Image.new("RGB", (64, 64))
    marked.paste((255, 255, 255), (0, 0, 8, 64))  # bright on the left
    torch.manual_seed(0)
    views = [augmentation(images_of(flip=flip), PLAIN)(marked) for _ in range(20)]
    assert {int(view[0, :, -4:].mean() > view[0, :, :4].mean()) for view in views} == sides


def test_erasing_paints_the_mean_colour() -> None:
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    erased = augmentation(images_of(), replace(PLAIN, erasing_probability=1.0))(white)
    assert [round(value, 1) for value in erased.unique().tolist()] == [0.0, 2.0]


def test_worker_processes_make_the_batches_in_order_and_say_which_image_is_broken() -> None:
    pictures = Pictures(*(png(noise(seed)) for seed in range(5)))
    views = plain_views(pictures, PREPROCESS)  # type: ignore[arg-type]
    found = list(load(views, [4, 1, 0], 2, ALONE))
    assert [labels.tolist() for _, labels in found] == [[4, 1], [0]]
    assert torch.equal(found[0][0][1], views[1][0])
    views.images = Pictures(b"no image")  # type: ignore[assignment]
    with pytest.raises(StepError, match=r"^image 0 cannot be used: .*Run PrepareData again\.$"):
        list(load(views, [0], 2, ALONE))


def manifest_of(side: int, *, tiny: bool) -> dict[str, object]:
    return {"preprocess": {"image_size": side}, "tiny_images": tiny}


@pytest.mark.parametrize(("side", "expected"), [(256, 224), (128, 96), (32, 32), (20, 20), (224, 192), (192, 160)])
def test_training_side_is_a_little_below_the_deployed_one(side: int, expected: int) -> None:
    assert settled(Hyperparameters(finetune="all"), manifest_of(side, tiny=False)).finetune_image_size == expected


def test_tiny_images_are_seen_nearly_whole_and_not_as_often_and_what_is_asked_for_is_not_chosen() -> None:
    photos, tiny = (settled(Hyperparameters(finetune="all"), manifest_of(128, tiny=tiny)) for tiny in (False, True))
    names = ("finetune_epochs", "crop_area_min", "randaugment_magnitude", "frozen_stride")
    assert [getattr(photos, name) for name in names] == [12, 0.4, 5, 4]
    assert [getattr(tiny, name) for name in names] == [8, 0.75, 0, 0]
    asked = replace(
        STRONG,
        finetune="last_block",
        finetune_epochs=3,
        finetune_image_size=40,
        randaugment_magnitude=0,
        frozen_stride=2,
    )
    assert settled(asked, manifest_of(128, tiny=False)) == settled(asked, manifest_of(64, tiny=True)) == asked
    assert settled(Hyperparameters(), manifest_of(128, tiny=True)) == Hyperparameters()  # nothing is fine-tuned


@pytest.fixture(scope="module")
def network() -> nn.Module:
    made = timm.create_model("test_resnet", pretrained=False)
    made.reset_classifier(0)
    return made


def learners(network: nn.Module, **asked: object) -> dict[str, float]:
    """Each parameter that learns, and its share of the rate."""
    groups = learning_groups(network, Hyperparameters(**{"finetune": "all", "frozen_stride": 0, **asked}))  # type: ignore[arg-type]
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}


def test_earlier_layers_learn_more_slowly_and_the_slowest_not_at_all(network: nn.Module) -> None:
    scales = learners(network, layer_lr_decay=0.7)
    assert scales["layer4.0.conv1.weight"] == 1.0
    assert 1.0 > scales["layer3.0.conv1.weight"] > scales["layer2.0.conv1.weight"] > scales["layer1.0.conv1.weight"]
    slowest = learners(network, layer_lr_decay=0.2)
    assert {name.partition(".")[0] for name in slowest} == {"layer3", "layer4"}
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == slowest.keys()
    last = learners(network, finetune="last_block", layer_lr_decay=0.5)
    assert {name.partition(".")[0] for name in last} == {"layer4"} and set(last.values()) == {1.0}


def test_vectors_are_not_decayed(network: nn.Module) -> None:
    groups = learning_groups(network, Hyperparameters(finetune="all", weight_decay=0.3, frozen_stride=0))
    assert {(group["weight_decay"], parameter.ndim > 1) for group in groups for parameter in group["params"]} == {
        (0.3, True),
        (0.0, False),
    }


@pytest.mark.parametrize(
    ("stride", "first"),
    [(0, "conv1"), (2, "conv1"), (4, "layer2"), (8, "layer3"), (15, "layer3"), (16, "layer4"), (64, "layer4")],
)
def test_layers_up_to_a_stride_stay_as_they_are(network: nn.Module, stride: int, first: str) -> None:
    learn = {name.partition(".")[0] for name in learners(network, frozen_stride=stride)}
    order = ["conv1", "layer1", "layer2", "layer3", "layer4"]  # a ResNet's layers have strides 4, 8, 16, 32
    assert learn - {"bn1"} == set(order[order.index(first) :])


class Shapeless(nn.Module):
    """A network that does not tell its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8), "classifier": "fc"}
        self.layer = nn.Linear(3, 4)


def test_last_block_of_a_network_that_does_not_tell_its_blocks_is_refused() -> None:
    assert learners(Shapeless(), frozen_stride=4) == {"layer.weight": 1.0, "layer.bias": 1.0}
    with pytest.raises(StepError, match=r"^model.finetune must be none or all with .* but got last_block\.$"):
        learners(Shapeless(), finetune="last_block")
