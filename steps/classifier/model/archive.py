"""model.tar.gz: unpacked as the endpoint does, and what tells one model from another whatever packed it."""

import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from classifier.job.failures import StepError
from classifier.model.runtimes import MEASUREMENT_FILE

RULES_FILE = "rules.json"
BY_PRODUCTS = (RULES_FILE, MEASUREMENT_FILE)  # of a training's watching, and of how fast its machine was


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


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
