"""The cache of embeddings: what one run adds, the next finds, and nothing else."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from classifier.preparation import embedding_cache
from classifier.preparation.embedding_cache import EmbeddingCache

RECIPE = {"backbone": "test_resnet", "seed": 0}


def sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def features(number: int, views: int = 3) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(3, 5)).astype(np.float16)[:views]


def means(number: int) -> np.ndarray:
    return np.full(3, number, np.float32)


def filled(folder: Path, numbers: range, *, views: int = 3, recipe: dict[str, object] = RECIPE) -> None:
    """Let a run add these images to the cache."""
    cache = EmbeddingCache(folder, folder, recipe)
    for number in numbers:
        cache.add(sha256(number), features(number, views), means(number))
    cache.write()


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    filled(tmp_path, range(5))
    filled(tmp_path, range(5, 8))
    cache = EmbeddingCache(tmp_path, None, RECIPE)
    assert len(cache) == 8
    for number in range(8):
        found = cache.find(sha256(number), 3)
        assert found is not None
        np.testing.assert_array_equal(found[0], features(number))
        np.testing.assert_array_equal(found[1], means(number))
    assert cache.find(sha256(8), 3) is None


def test_the_first_views_are_found_where_fewer_are_needed_and_none_where_more_are(tmp_path: Path) -> None:
    filled(tmp_path, range(2), views=1)
    filled(tmp_path, range(1, 3), views=3)
    cache = EmbeddingCache(tmp_path, None, RECIPE)
    assert cache.find(sha256(0), 3) is None
    for number in (1, 2):
        for views in (1, 2, 3):
            found = cache.find(sha256(number), views)
            assert found is not None
            np.testing.assert_array_equal(found[0], features(number, views))


def test_another_recipe_finds_nothing(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    assert len(EmbeddingCache(tmp_path, None, {**RECIPE, "seed": 1})) == 0


def test_images_of_different_numbers_of_views_may_be_added_by_turns(tmp_path: Path) -> None:
    cache = EmbeddingCache(None, tmp_path, RECIPE)
    for number in range(6):
        cache.add(sha256(number), features(number, 1 + 2 * (number % 2)), means(number))
    cache.write()
    again = EmbeddingCache(tmp_path, None, RECIPE)
    assert [again.find(sha256(number), 3) is not None for number in range(6)] == [False, True] * 3


def test_files_are_written_as_images_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "ROWS_PER_FILE", 4)
    cache = EmbeddingCache(None, tmp_path, RECIPE)
    for number in range(11):
        cache.add(sha256(number), features(number), means(number))
    assert len(EmbeddingCache(tmp_path, None, RECIPE)) == 8
    monkeypatch.setattr(embedding_cache, "SECONDS_PER_FILE", 0.0)
    cache.add(sha256(11), features(11), means(11))
    assert len(EmbeddingCache(tmp_path, None, RECIPE)) == 12


def test_a_damaged_file_and_half_a_file_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, range(3))
    filled(tmp_path, range(3, 5))
    first, second = sorted(tmp_path.rglob("*.npy"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    cache = EmbeddingCache(tmp_path, None, RECIPE)
    assert len(cache) == len(np.load(second))
    assert capsys.readouterr().out == (
        f"the embedding cache's file {first.name} is damaged; its images are embedded again\n"
    )
    (first.parent / ".unfinished").write_bytes(b"half")
    (tmp_path / "README").write_text("about")
    first.write_bytes(whole)
    assert len(EmbeddingCache(tmp_path, None, RECIPE)) == 5


def test_a_missing_cache_is_empty(tmp_path: Path) -> None:
    assert len(EmbeddingCache(tmp_path / "none", None, RECIPE)) == 0
