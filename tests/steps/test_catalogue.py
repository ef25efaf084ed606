"""The catalogue: files and images in their orders, and no memory that grows with them."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from classifier.data.catalogue import Catalogue, Found
from classifier.data.dataset import SPLITS, ImageFile

ALLOWED_BYTES = 8_000_000  # 20,000 images as objects would take several times that
CLASSES = 2


def files(per_class: int) -> Iterator[ImageFile]:
    """Folder by folder, the names in no order."""
    for label in range(CLASSES):
        for number in reversed(range(per_class)):
            source = f"class {label}/{number}.png"
            yield ImageFile(Path("/data") / source, source, label, None)


def found(catalogue: Catalogue) -> Iterator[Found]:
    for number, file in catalogue.files():
        yield Found(number, hashlib.sha256(file.source.encode()).hexdigest(), "JPEG", 100 + number)


def split_of(sha256: str) -> str:
    return SPLITS[int(sha256[0], 16) % 3]


def filled(path: Path, per_class: int) -> Catalogue:
    """As PrepareData goes about it, up to the manifest's order."""
    catalogue = Catalogue(path)
    catalogue.add_files(files(per_class))
    catalogue.describe(list(found(catalogue)))
    catalogue.assign(split_of)
    catalogue.arrange()
    return catalogue


def test_images_come_in_the_manifests_order(tmp_path: Path) -> None:
    with filled(tmp_path / "catalogue.db", 30) as catalogue:
        entries = list(catalogue.entries())
        assert len(entries) == catalogue.count_images() == 60
        assert {entry.split for entry in entries} == set(SPLITS)
        keys = [(SPLITS.index(entry.split), entry.label, int(Path(entry.source).stem)) for entry in entries]
        assert keys == sorted(keys)
        assert all(split_of(entry.sha256) == entry.split for entry in entries)
        for split in SPLITS:
            rows = [entry for entry in entries if entry.split == split]
            assert list(catalogue.entries(split, 3, 7)) == rows[3:7]
            assert list(catalogue.entries(split, 3, 10_000)) == rows[3:]
            assert catalogue.labels(split).tolist() == [entry.label for entry in rows]
            assert catalogue.sizes()[split] == len(rows)
        assert [sha256 for sha256, _ in catalogue.labelled_hashes()] == sorted(entry.sha256 for entry in entries)
        assert sorted(catalogue.shorter_sides().tolist()) == list(range(101, 161))


def test_a_file_name_that_is_not_utf_8_comes_back(tmp_path: Path) -> None:
    with Catalogue(tmp_path / "catalogue.db") as catalogue:
        catalogue.add_files([ImageFile(Path("/data/a/\udcff.png"), "a/\\udcff.png", 0, "test")])
        assert [file.path for _, file in catalogue.files()] == [Path("/data/a/\udcff.png")]
        assert catalogue.given_splits() == {"test"}


def test_no_object_per_image_is_kept(tmp_path: Path) -> None:
    """In a process of its own: threads that other tests left allocate, too."""
    words = [sys.executable, __file__, str(tmp_path / "catalogue.db")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "steps")}
    measured = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert int(measured.stdout) < ALLOWED_BYTES


def peak_bytes(path: Path) -> int:
    """What Python allocates at most while a catalogue of 20,000 images is made and read."""
    with Catalogue(path) as catalogue:
        tracemalloc.start()
        catalogue.add_files(files(10_000))
        for block in range(1, 20_001, 1000):
            catalogue.describe(Found(n, f"{n:064x}", "PNG", 100) for n in range(block, block + 1000))
        assert list(catalogue.copies()) == []
        catalogue.assign(split_of)
        catalogue.arrange()
        assert sum(1 for _ in catalogue.entries()) == catalogue.count_images() == 20_000
        assert sum(1 for _ in catalogue.labelled_hashes()) == 20_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


if __name__ == "__main__":
    print(peak_bytes(Path(sys.argv[1])))
