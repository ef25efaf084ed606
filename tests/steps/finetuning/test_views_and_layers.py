"""What fine-tuning is made of: views of images, which layers learn and how fast, what it chooses by itself."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from classifier.data.images import Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.finetuning.fine_tuning import learning_groups
from classifier.finetuning.images import Images, Views, augmentation, load, plain_views
from classifier.job.failures import StepError
from classifier.training.hyperparameters import Hyperparameters, settled
from classifier.training.job import ALONE
from tests.steps.prepared_data import Prepared

PREPROCESS = Preprocess(64, 72, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAIN = Hyperparameters(
    finetune="all", finetune_image_size=48, crop_area_min=1.0, randaugment_magnitude=0, erasing_probability=0.0
)
STRONG = replace(PLAIN, crop_area_min=0.4, randaugment_magnitude=9, erasing_probability=1.0)


@pytest.fixture(scope="module")
def images(prepared: Prepared) -> Images:
    splits = (PreparedImages(prepared.root / name, name) for name in ("train", "validation"))
    return Images(*splits, PREPROCESS, horizontal_flip=False)


def test_a_view_depends_on_seed_epoch_and_row_alone(images: Images) -> None:
    views, others = (Views(images.train, augmentation(images, STRONG), seed) for seed in (0, 1))
    first, label = views[0]
    assert (first.shape, first.dtype, label) == ((3, 48, 48), torch.float32, 0)
    assert torch.equal(views[0][0], first)
    assert not torch.equal(views[1][0], first) and not torch.equal(others[0][0], first)
    views.epoch = 1
    assert not torch.equal(views[0][0], first)


@pytest.mark.parametrize(("flip", "sides"), [(False, {0}), (True, {0, 1})])
def test_flip_happens_only_where_it_is_allowed(images: Images, flip: bool, sides: set[int]) -> None:
    marked = Image.new("RGB", (64, 64))
    marked.paste((255, 255, 255), (0, 0, 8, 64))  # bright on the left
    torch.manual_seed(0)
    views = [augmentation(replace(images, horizontal_flip=flip), PLAIN)(marked) for _ in range(20)]
    assert {int(view[0, :, -4:].mean() > view[0, :, :4].mean()) for view in views} == sides


def test_a_view_is_normalised_by_channel_and_erasing_paints_the_mean_colour(images: Images) -> None:
    colour = Image.new("RGB", (64, 64), (255, 127, 0))
    for probability, erased in ((0.0, set()), (1.0, {0})):
        view = augmentation(images, replace(PLAIN, erasing_probability=probability))(colour)
        found = [{round(value) for value in channel.unique().tolist()} for channel in view]
        assert found == [{2, *erased}, {0, *erased}, {-2, *erased}]


def test_worker_processes_make_the_batches_in_order(images: Images) -> None:
    views = plain_views(images.train, PREPROCESS)
    found = list(load(views, [70, 1, 30], 2, ALONE))
    assert [labels.tolist() for _, labels in found] == [[2, 0], [1]]
    assert torch.equal(found[0][0][1], views[1][0])


def test_an_image_that_is_damaged_or_missing_is_named_in_a_sentence(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.root / "train", tmp_path / "train")
    stored = PreparedImages(tmp_path / "train", "train")
    first, last = (tmp_path / "train" / f"train-{number:06d}.tar" for number in (0, 7))
    first.write_bytes(first.read_bytes().replace(b"IHDR", b"DRHI"))
    last.write_bytes(b"")
    for row, sentence in (
        (0, f"{stored.place(0)} cannot be used: "),
        (71, f"The shard ends before {stored.place(71)}"),
    ):
        with pytest.raises(StepError) as caught:
            list(load(plain_views(stored, PREPROCESS), [row], 1, ALONE))
        assert str(caught.value).startswith(sentence) and str(caught.value).endswith("Run PrepareData again.")
        assert "\n" not in str(caught.value)


CHOSEN = ("finetune_image_size", "finetune_epochs", "crop_area_min", "randaugment_magnitude", "frozen_stride")


@pytest.mark.parametrize(
    ("side", "tiny", "chosen"),
    [  # training sees a little less than the deployed network; tiny images nearly whole, and not as often
        *((side, False, [own, 12, 0.4, 5, 4]) for side, own in ((256, 224), (224, 192), (192, 160), (128, 96))),
        (32, False, [32, 12, 0.4, 5, 4]),
        (20, True, [20, 8, 0.75, 0, 0]),
    ],
)
def test_what_is_left_open_depends_on_the_images_and_what_is_asked_for_stays(
    side: int, tiny: bool, chosen: list[float]
) -> None:
    manifest = {"preprocess": {"image_size": side}, "tiny_images": tiny, "counts": {"train": {"cat": 900}}}
    found = settled(Hyperparameters(finetune="all"), manifest)
    assert [getattr(found, name) for name in CHOSEN] == chosen
    asked = replace(STRONG, finetune="last_block", finetune_epochs=3, randaugment_magnitude=0, frozen_stride=2)
    assert settled(asked, manifest) == asked
    assert settled(Hyperparameters(), manifest) == Hyperparameters()  # nothing is fine-tuned


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=0)


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
    decays = {(group["weight_decay"], parameter.ndim > 1) for group in groups for parameter in group["params"]}
    assert decays == {(0.3, True), (0.0, False)}


@pytest.mark.parametrize(
    ("stride", "first"),
    [(0, "conv1"), (2, "conv1"), (4, "layer2"), (8, "layer3"), (15, "layer3"), (16, "layer4"), (64, "layer4")],
)
def test_layers_up_to_a_stride_stay_as_they_are(network: nn.Module, stride: int, first: str) -> None:
    learn = {name.partition(".")[0] for name in learners(network, frozen_stride=stride)}
    order = ["conv1", "layer1", "layer2", "layer3", "layer4"]  # a ResNet's layers have strides 4, 8, 16, 32
    assert learn - {"bn1"} == set(order[order.index(first) :])


def test_last_block_of_a_network_that_does_not_tell_its_blocks_is_refused() -> None:
    plain = nn.Sequential(nn.Linear(3, 4))
    assert learners(plain, frozen_stride=4) == {"0.weight": 1.0, "0.bias": 1.0}
    with pytest.raises(StepError, match=r"^model\.finetune cannot be last_block: .*\.$"):
        learners(plain, finetune="last_block")
