"""Embeddings: the backbone's features of every view, the same however many workers make them."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.data.images import Pixels, Preprocess, normalise, to_pixels
from classifier.data.views import random_box, views
from classifier.job.failures import StepError
from classifier.model.backbone import load_backbone
from classifier.preparation.embedding import BATCH, Embedder

HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(image_size=32, resize_to=36, mean=HALF, std=HALF)
BACKBONE = "test_resnet"
FEATURES = 96 + 48 + 192  # the last three stages


def picture(number: int, size: tuple[int, int] = (60, 48)) -> Image.Image:
    """A smooth picture that no other number gives."""
    grid = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR)


def pixels_of(row: int) -> Pixels:
    return views(picture(row), PREPROCESS, count=2, key=f"0:{row}", flip=True)


@pytest.fixture(scope="module")
def embedder(weights_dir: Path) -> Embedder:
    return Embedder(load_backbone(BACKBONE, weights_dir), PREPROCESS, workers=2)


def embeddings(embedder: Embedder, rows: Sequence[int], *, workers: int = 2) -> np.ndarray:
    """(rows, 3, D) float16."""
    embedder.workers = workers
    images = list(embedder.embed(pixels_of, rows, views=3))
    assert [image.row for image in images] == list(rows)
    return np.stack([image.features for image in images])


def test_each_row_holds_the_backbones_features_of_the_images_views(embedder: Embedder, weights_dir: Path) -> None:
    found = embeddings(embedder, range(11))
    assert (found.shape, found.dtype) == ((11, 3, FEATURES), np.float16)
    backbone = load_backbone(BACKBONE, weights_dir)
    for row in range(11):
        expected = backbone(torch.from_numpy(normalise(pixels_of(row), PREPROCESS))).numpy()
        np.testing.assert_allclose(found[row].astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    assert len(np.unique(found.reshape(33, FEATURES), axis=0)) == 33


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_the_number_of_workers_changes_no_bit(embedder: Embedder, workers: int) -> None:
    expected = embeddings(embedder, range(23))
    np.testing.assert_array_equal(embeddings(embedder, range(23), workers=workers), expected)


def test_the_other_images_of_a_batch_change_no_bit(embedder: Embedder) -> None:
    expected = embeddings(embedder, range(20))
    np.testing.assert_array_equal(embeddings(embedder, range(9)), expected[:9])
    for rows in ([13], [2, 19, 0, 1, 7], list(reversed(range(20)))):
        np.testing.assert_array_equal(embeddings(embedder, rows), expected[rows])


def test_the_means_are_those_of_the_plain_view_as_the_network_sees_it(embedder: Embedder) -> None:
    for image in embedder.embed(pixels_of, range(5), views=3):
        expected = normalise(pixels_of(image.row)[0], PREPROCESS).mean(axis=(1, 2))
        assert (image.means.shape, image.means.dtype) == ((3,), np.float32)
        np.testing.assert_allclose(image.means, expected, atol=1e-5)


def test_each_image_is_decoded_once_for_all_its_views(embedder: Embedder) -> None:
    decoded, lock = [], threading.Lock()

    def counting(row: int) -> Pixels:
        with lock:
            decoded.append(row)
        return pixels_of(row)

    list(embedder.embed(counting, range(17), views=3))
    assert sorted(decoded) == list(range(17))


def test_more_views_than_a_batch_are_embedded_too(embedder: Embedder) -> None:
    count = BATCH + 3
    many = views(picture(1), PREPROCESS, count=count, key="0:1", flip=False)
    found = list(embedder.embed(lambda row: many, range(2), views=1 + count))
    assert [image.features.shape for image in found] == [(1 + count, FEATURES)] * 2
    np.testing.assert_array_equal(found[1].features, embedder.features(many))


def test_an_error_in_a_worker_is_raised(embedder: Embedder) -> None:
    def failing(row: int) -> Pixels:
        if row == 30:
            raise StepError("cat/30.png was changed.")
        return pixels_of(row)

    with pytest.raises(StepError, match=r"^cat/30.png was changed\.$"):
        list(embedder.embed(failing, range(40), views=3))


def test_an_image_size_that_the_backbone_cannot_take_is_refused(weights_dir: Path) -> None:
    backbone = load_backbone(BACKBONE, weights_dir)
    backbone.register_forward_pre_hook(refuse_all_but_64_px)
    Embedder(backbone, Preprocess(64, 64, HALF, HALF), workers=1)
    with pytest.raises(StepError) as error:
        Embedder(backbone, PREPROCESS, workers=1)
    assert str(error.value) == (
        "The backbone does not accept images of 32 x 32 px (Input height (32) doesn't match model (64)); set "
        "data.image_size_px or another model.backbone."
    )


def refuse_all_but_64_px(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """As timm's vision transformers do."""
    assert inputs[0].shape[2] == 64, f"Input height ({inputs[0].shape[2]}) doesn't match model (64)."


def test_features_that_float16_cannot_hold_are_refused(weights_dir: Path) -> None:
    backbone = load_backbone(BACKBONE, weights_dir)
    backbone.register_forward_hook(lambda module, inputs, output: (output + 1) * 1e6)
    loud = Embedder(backbone, PREPROCESS, workers=1)
    with pytest.raises(StepError) as error:
        loud.features(pixels_of(0))
    assert str(error.value) == ("The backbone yields features that float16 cannot hold; choose another model.backbone.")


def test_view_0_is_the_plain_centre_crop() -> None:
    made = views(picture(3), PREPROCESS, count=3, key="0:3", flip=True)
    assert (made.shape, made.dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(made[0], to_pixels(picture(3), PREPROCESS))
    np.testing.assert_array_equal(views(picture(3), PREPROCESS, count=0, key="0:3", flip=True), made[:1])


def test_views_depend_on_seed_image_and_number_only() -> None:
    made = views(picture(3), PREPROCESS, count=3, key="0:abc", flip=True)
    np.testing.assert_array_equal(views(picture(3), PREPROCESS, count=3, key="0:abc", flip=True), made)
    np.testing.assert_array_equal(views(picture(3), PREPROCESS, count=2, key="0:abc", flip=True), made[:3])
    other_seed = views(picture(3), PREPROCESS, count=3, key="1:abc", flip=True)
    assert all((made[n] != other_seed[n]).any() for n in (1, 2, 3))
    assert len({made[n].tobytes() for n in range(4)}) == 4


def test_half_of_the_views_are_mirrored_where_that_is_allowed() -> None:
    slope = Image.fromarray(np.tile(np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None], (48, 1, 3)))
    falling = {
        flip: sum(int(view[16, 0, 0]) > int(view[16, -1, 0]) for view in views_of(slope, flip))
        for flip in (True, False)
    }
    assert falling[False] == 0
    assert 70 < falling[True] < 130


def views_of(image: Image.Image, flip: bool) -> Pixels:
    return views(image, PREPROCESS, count=200, key="0:slope", flip=flip)[1:]


@pytest.mark.parametrize("size", [(8, 8), (300, 201), (256, 1024), (1, 4)])
def test_views_show_most_of_an_image_and_nothing_outside_of_it(size: tuple[int, int]) -> None:
    shares = []
    for number in range(300):
        left, top, right, bottom = random_box(size, random.Random(number))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        shares.append((right - left) * (bottom - top) / (size[0] * size[1]))
    if max(size) < 2 * min(size):  # in a strip, a part that is about square shows less
        assert min(shares) > 0.65
        assert 0.75 < np.mean(shares) < 0.9
