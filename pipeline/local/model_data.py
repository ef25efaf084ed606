"""A model's data as a container finds it: model.tar.gz unpacked, or the objects below a prefix, in one directory."""

import io
import lzma
import tarfile
import zlib
from pathlib import Path
from typing import Any

from pipeline.local.answers import invalid
from pipeline.local.storage import Storage, StorageError


def place_model(storage: Storage, container: dict[str, Any], folder: Path) -> None:
    """Fill a directory with the container's ModelDataUrl or ModelDataSource.

    Raises:
        RequestError: there is none, or it cannot be read.
    """
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri = container.get("ModelDataUrl") or source.get("S3Uri")
    if not uri:
        raise invalid("The model has no data: its container has neither ModelDataUrl nor ModelDataSource.")
    try:
        if source.get("CompressionType") == "None":
            storage.download(uri, folder)
        else:
            unpack(storage.read(uri), uri, folder)
    except StorageError as problem:
        raise invalid(f"Could not access model data: {problem}") from problem


def unpack(content: bytes, uri: str, folder: Path) -> None:
    """model.tar.gz into a directory.

    Raises:
        RequestError: it is no such archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError) as problem:
        raise invalid(f"{uri} is not a usable model.tar.gz: {problem}") from problem
