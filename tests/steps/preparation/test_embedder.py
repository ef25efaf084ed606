"""Embeddings: the backbone's own features of each view, whoever computes them and whatever else is in the batch."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.data.images import Pixels, Preprocess, normalise, to_pixels
from classifier.job.failures import StepError
from classifier.job.system import each
from classifier.model.backbone import load_backbone
from classifier.preparation.embedding import BATCH, Embedder, Recipe, channel_means, random_box
from tests.steps.prepare_job import BACKBONE

HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(32, 32, HALF, HALF)


def picture(number: int) -> Image.Image:
    grid = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((60, 48), Image.Resampling.BILINEAR)


def recipe_of(size: int = 32, *, flip: bool = True, seed: int = 0) -> Recipe:
    return Recipe(Preprocess(size, size, HALF, HALF), 2, flip, seed, max_pixels=10**6)


def views(number: int, count: int = 3, *, seed: int = 0) -> Pixels:
    return recipe_of(seed=seed).views(picture(number), f"{number:064x}", count)


def test_features_are_the_backbones_whoever_computes_them_with_whatever_else(weights_dir: Path) -> None:
    pixels, backbone = np.concatenate([views(number) for number in range(11)]), load_backbone(BACKBONE, weights_dir)
    expected = backbone(torch.from_numpy(normalise(pixels, PREPROCESS))).numpy()
    embedder = Embedder(backbone, recipe_of())
    found = embedder.features(pixels)
    assert (found.shape, found.dtype) == ((33, embedder.feature_dim), np.float16)
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    for workers in (1, 3):
        for together in (1, 5, BATCH + 3):
            pieces = [pixels[start : start + together] for start in range(0, len(pixels), together)]
            again = np.concatenate(list(each(embedder.features, pieces, workers=workers)))
            np.testing.assert_array_equal(again, found)


def test_a_backbone_that_cannot_take_the_images_is_refused(weights_dir: Path) -> None:
    def refuse_all_but_64_px(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        """As timm's vision transformers do."""
        assert inputs[0].shape[2] == 64, f"Input height ({inputs[0].shape[2]}) doesn't match model (64)."

    backbone = load_backbone(BACKBONE, weights_dir)
    backbone.register_forward_pre_hook(refuse_all_but_64_px)
    Embedder(backbone, recipe_of(64))
    with pytest.raises(StepError) as error:
        Embedder(backbone, recipe_of(32))
    assert str(error.value) == (
        "The backbone does not accept images of 32 x 32 px (Input height (32) doesn't match model (64)); set "
        "data.image_size_px or another model.backbone."
    )
    backbone.register_forward_hook(lambda module, inputs, output: (output + 1) * 1e6)
    with pytest.raises(StepError, match=r"features that float16 cannot hold; choose another model\.backbone\.$"):
        Embedder(backbone, recipe_of(64)).features(np.zeros((1, 64, 64, 3), np.uint8))


def test_the_first_view_is_plain_and_the_others_depend_on_seed_image_and_number_only() -> None:
    made = views(3, 4)
    assert (made.shape, made.dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(made[0], to_pixels(picture(3), PREPROCESS))
    np.testing.assert_array_equal(views(3, 3), made[:3])
    assert len({view.tobytes() for view in [*made, *views(3, 4, seed=1)]}) == 7
    expected = normalise(made[0], PREPROCESS).mean(axis=(1, 2))
    np.testing.assert_allclose(channel_means(made[0], PREPROCESS), expected, atol=1e-5)


@pytest.mark.parametrize(("flip", "least", "most"), [(True, 70, 130), (False, 0, 0)])
def test_half_of_the_views_are_mirrored_where_that_is_allowed(flip: bool, least: int, most: int) -> None:
    slope = Image.fromarray(np.tile(np.linspace(0, 255, 60, dtype=np.uint8)[None, :, None], (48, 1, 3)))
    made = recipe_of(flip=flip).views(slope, "0" * 64, 201)[1:]
    assert least <= sum(int(view[16, 0, 0]) > int(view[16, -1, 0]) for view in made) <= most


@pytest.mark.parametrize("size", [(8, 8), (300, 201), (256, 1024), (1, 4)])
def test_views_show_most_of_an_image_and_nothing_outside_of_it(size: tuple[int, int]) -> None:
    shares = []
    for number in range(300):
        left, top, right, bottom = random_box(size, random.Random(number))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        shares.append((right - left) * (bottom - top) / (size[0] * size[1]))
    if max(size) < 2 * min(size):  # in a strip, a part that is about square shows less
        assert min(shares) > 0.65 and 0.75 < np.mean(shares) < 0.9
