"""model.tar.gz: unpacked as the endpoint does, what tells one model from another, and which images it has seen."""

import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from classifier.job.failures import StepError
from classifier.model.runtimes import MEASUREMENT_FILE

RULES_FILE, FAULTS_FILE = "rules.json", "training_faults.json"
BY_PRODUCTS = (RULES_FILE, FAULTS_FILE, MEASUREMENT_FILE)  # of a training's watching, and of how fast its machine was

SEEN_FILE = "seen_images.npy"
Digests = npt.NDArray[np.uint64]  # (N,): of each image file the first 8 bytes of its sha256


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Yield a folder with what model.tar.gz holds; nothing may land outside of it."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(directory, filter="data")
        except FileNotFoundError:
            raise StepError(f"{archive.parent} holds no model.tar.gz, which the final training writes.") from None
        except tarfile.FilterError as error:
            raise StepError(
                f"{archive} is refused: its member {error.tarinfo.name} would not stay inside the model directory. "
                f"Use a model.tar.gz that the final training wrote."
            ) from None
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise StepError(f"{archive} cannot be unpacked ({error}). Run the final training again.") from None
        yield Path(directory)


def model_sha256(folder: Path) -> str:
    """Return the digest of an unpacked model: of its files' names and contents without by-products.

    Two trainings that gave the same network and description have the same, whatever the archive's times and order.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = [f"{sha256(files[name])}  {name}\n" for name in sorted(files.keys() - BY_PRODUCTS)]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def digests(sha256s: Sequence[str]) -> Digests:
    """Return the digests of images, given the hexadecimal sha256 of their files."""
    return np.array([int(digits[:16], 16) for digits in sha256s], dtype=np.uint64)


def write_seen(folder: Path, sha256s: Sequence[str]) -> None:
    """Keep with a model which images it was trained or selected on: 8 bytes for each."""
    np.save(folder / SEEN_FILE, np.unique(digests(sha256s)))


def read_seen(folder: Path) -> Digests | None:
    """Return the images that an unpacked model was trained or selected on; None if it does not say."""
    path = folder / SEEN_FILE
    return np.load(path) if path.is_file() else None


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
