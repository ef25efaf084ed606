"""Writing parts: one after the other without a pause, each of them whole or not at all."""

import threading
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare
from classifier.data.catalogue import Entry
from classifier.data.images import Picture, Preprocess
from classifier.data.prepared_images import PreparedImages
from classifier.job.failures import StepError
from classifier.job.workers import Progress
from classifier.model.backbone import load_backbone
from classifier.preparation.choices import Part, Preparation
from classifier.preparation.embedding import Embedder
from classifier.preparation.embedding_cache import EmbeddingCache
from classifier.preparation.part_writer import write_parts

PREPROCESS = Preprocess(image_size=32, resize_to=36, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SIZES = (5, 40, 3)


@dataclass(frozen=True)
class Watched(Preparation):
    """Tells which images were begun; one of them may wait for another, or fail."""

    begun: dict[str, threading.Event] = field(default_factory=dict)
    waiting: str = ""
    awaited: str = ""
    failing: str = ""

    def encoded(self, entry: Entry) -> tuple[Picture, bytes]:
        self.begun[entry.source].set()
        if entry.source == self.waiting:
            assert self.begun[self.awaited].wait(30), f"{self.awaited} was not begun"
        if entry.source == self.failing:
            raise StepError(f"{entry.source} was changed.")
        return super().encoded(entry)


@pytest.fixture(scope="module")
def embedder(weights_dir: Path) -> Embedder:
    return Embedder(load_backbone("test_resnet", weights_dir), PREPROCESS, workers=2)


@pytest.fixture
def parts(tmp_path: Path) -> list[Part]:
    """Images 0.png to 47.png in three parts of one split."""
    entries = []
    for number in range(sum(SIZES)):
        path = tmp_path / f"{number}.png"
        grid = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(grid).resize((60, 48), Image.Resampling.BILINEAR).save(path)
        digest = sha256(path.read_bytes()).hexdigest()
        entries.append(Entry(path, path.name, digest, "PNG", "validation", number % 2))
    starts = np.cumsum([0, *SIZES])
    return [
        Part("validation", number, entries[start : start + SIZES[number]]) for number, start in enumerate(starts[:-1])
    ]


def write(parts: list[Part], output: Path, embedder: Embedder, earlier: Path | None = None, **watch: str) -> Progress:
    output.mkdir()
    prepare.make_output_folders(output)
    begun = {entry.source: threading.Event() for part in parts for entry in part.entries}
    preparation = Watched(PREPROCESS, 1, True, 0, 10**6, output, begun=begun, **watch)
    progress = Progress("embedded", len(begun))
    cache = EmbeddingCache(earlier, output / "embedding_cache", {})
    write_parts(parts, preparation, embedder, cache, progress)
    return progress


def files(output: Path) -> dict[str, bytes]:
    """All but the cache."""
    paths = [path for path in output.rglob("*") if path.is_file() and "embedding_cache" not in path.parts]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def test_a_worker_begins_the_next_part_while_another_is_at_the_last_one(
    tmp_path: Path, parts: list[Part], embedder: Embedder
) -> None:
    write(parts, tmp_path / "out", embedder, waiting="4.png", awaited="5.png")
    images = PreparedImages(tmp_path / "out/validation", "validation")
    assert images.labels.tolist() == [number % 2 for number in range(48)]


def test_the_files_are_the_same_whatever_was_known(tmp_path: Path, parts: list[Part], embedder: Embedder) -> None:
    write(parts, tmp_path / "fresh", embedder)
    some = [Part("validation", 0, [entry for part in parts for entry in part.entries][7:45:3])]
    write(some, tmp_path / "some", embedder)
    assert write(parts, tmp_path / "again", embedder, tmp_path / "some/embedding_cache").known == 13
    assert write(parts, tmp_path / "known", embedder, tmp_path / "fresh/embedding_cache").known == 48
    assert files(tmp_path / "fresh") == files(tmp_path / "again") == files(tmp_path / "known")


def test_what_an_error_leaves_is_whole(tmp_path: Path, parts: list[Part], embedder: Embedder) -> None:
    with pytest.raises(StepError, match=r"^44.png was changed\.$"):
        write(parts, tmp_path / "out", embedder, failing="44.png")
    written = {path.name for path in (tmp_path / "out/validation").iterdir()}
    assert written == {"validation-000000.tar", "validation-000000.index"}
    assert write(parts, tmp_path / "again", embedder, tmp_path / "out/embedding_cache").known >= 5
