"""A model's data as a container finds it: model.tar.gz unpacked, or the objects below a prefix, in one directory."""

import io
import lzma
import tarfile
import zlib
from pathlib import Path
from typing import Any

from pipeline.local.jobs.runtime import arn
from pipeline.local.store.answers import found, invalid
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, StorageError


def containers(request: Document) -> list[Document]:
    """The containers of a CreateModel request.

    Raises:
        RequestError: there is none.
    """
    primary = request.get("PrimaryContainer")
    found_containers = [primary] if primary else list(request.get("Containers", []))
    if not found_containers:
        raise invalid("CreateModel needs PrimaryContainer or Containers.")
    return found_containers


def resolved_container(state: State, model_name: str) -> dict[str, Any]:
    """Image, data and environment of a model's container, those of its model package included.

    Raises:
        RequestError: there is no such model, or its package says nothing about containers.
    """
    container: dict[str, Any] = containers(found(state, "Model", model_name, "model"))[0]
    package_arn = container.get("ModelPackageName")
    if not package_arn:
        return container
    packaged = found_package(state, package_arn).get("InferenceSpecification", {}).get("Containers", [])
    if not packaged:
        raise invalid(f"Model package {package_arn} has no InferenceSpecification, so it cannot be served.")
    environment = {**packaged[0].get("Environment", {}), **container.get("Environment", {})}
    return {**packaged[0], **container, "Environment": environment}


def package_key(name_or_arn: str) -> str:
    """The key of a version given by its ARN or as `group/number`."""
    return (name_or_arn if name_or_arn.startswith("arn:") else arn("model-package", name_or_arn)).lower()


def found_package(state: State, name_or_arn: str) -> Document:
    """A version by its ARN or as `group/number`."""
    document = state.get("ModelPackage", package_key(name_or_arn))
    if document is None:
        raise invalid(f"Could not find model package {name_or_arn!r}.")
    return document


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
