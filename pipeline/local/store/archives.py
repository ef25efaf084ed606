"""What a training job leaves, as .tar.gz: model.tar.gz and output.tar.gz."""

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pipeline.local.store.storage import files_below

SAMPLED_FILES, SAMPLE_BYTES = 4, 65536
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
    """Whether packing is worth its time, as far as the middle of the largest files tells."""
    sample = b""
    for file in sorted(files, key=lambda file: file.stat().st_size)[-SAMPLED_FILES:]:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - SAMPLE_BYTES) // 2)
            sample += stream.read(SAMPLE_BYTES)
    return len(zlib.compress(sample, 1)) < WORTHWHILE_RATIO * len(sample)
