"""What a training job leaves, as .tar.gz: model.tar.gz and output.tar.gz."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.local.store.storage import files_below

SAMPLED_FILES, PIECES, PIECE_BYTES = 4, 8, 8192
WORTHWHILE_RATIO = 0.8  # weights and tensors hardly get smaller, and trying takes half a second for 16 MB


def pack(folder: Path, archive: Path) -> None:
    """A .tar.gz of a directory's content; the same content gives the same bytes."""
    files = list(files_below(folder)) if folder.is_dir() else []
    level = 1 if is_compressible(files) else 0
    with (
        archive.open("wb") as stream,
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=level, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for file in files:
            member = tar.gettarinfo(str(file), arcname=file.relative_to(folder).as_posix())
            member.mtime = member.uid = member.gid = 0
            member.uname = member.gname = ""
            with file.open("rb") as content:
                tar.addfile(member, content)


def is_compressible(files: Sequence[Path]) -> bool:
    """Whether packing is worth its time, as far as pieces of the largest files tell."""
    largest = sorted(files, key=lambda file: file.stat().st_size)[-SAMPLED_FILES:]
    sizes = [file.stat().st_size for file in largest]
    packed = [size * ratio_of(file) for size, file in zip(sizes, largest, strict=True)]
    return sum(packed) < WORTHWHILE_RATIO * sum(sizes)


def ratio_of(file: Path) -> float:
    """How small pieces of a file, evenly spread over it, become: packed bytes a byte."""
    step = max(PIECE_BYTES, file.stat().st_size // PIECES)
    with file.open("rb") as stream:
        pieces = [os.pread(stream.fileno(), PIECE_BYTES, number * step) for number in range(PIECES)]
    sample = b"".join(pieces)
    return len(zlib.compress(sample, 1)) / len(sample) if sample else 1.0
