"""A model's data as a container finds it: model.tar.gz unpacked, or the objects below a prefix, in one directory."""

import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
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


def resolved_containers(
    state: State, model_name: str, environment: Mapping[str, str] = MappingProxyType({})
) -> list[Document]:
    """Image, data and environment of each of a model's containers, those of model packages included.

    Args:
        environment: added to that of every container.

    Raises:
        RequestError: there is no such model, or its package says nothing about containers.
    """
    found_containers: list[Document] = []
    for container in containers(found(state, "Model", model_name, "model")):
        for part in packaged_containers(state, container):
            variables = {**part.get("Environment", {}), **environment}
            found_containers.append({**part, "Environment": variables})
    return found_containers


def is_direct(state: State, model_name: str) -> bool:
    """Whether a request names the container that answers, instead of passing through all (InferenceExecutionConfig)."""
    model = found(state, "Model", model_name, "model")
    return bool(model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct")


def packaged_containers(state: State, container: Document) -> list[Document]:
    """The containers of a container's model package, with what the container itself says; or the container alone."""
    package_arn = container.get("ModelPackageName")
    if not package_arn:
        return [container]
    packaged = found_package(state, package_arn).get("InferenceSpecification", {}).get("Containers", [])
    if not packaged:
        raise invalid(f"Model package {package_arn} has no InferenceSpecification, so it cannot be served.")
    own = container.get("Environment", {})
    return [{**part, **container, "Environment": {**part.get("Environment", {}), **own}} for part in packaged]


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
    """Fill a directory with the container's ModelDataUrl or ModelDataSource, and with a script that lies elsewhere.

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
        code = str(container.get("Environment", {}).get("SAGEMAKER_SUBMIT_DIRECTORY", ""))
        if code.startswith("s3://"):
            unpack(storage.read(code), code, folder / "code")
    except StorageError as problem:
        raise invalid(f"Could not access model data: {problem}") from problem


def unpack(content: bytes, uri: str, folder: Path) -> None:
    """model.tar.gz, or the archive of a script, into a directory.

    Raises:
        RequestError: it is no such archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError) as problem:
        raise invalid(f"{uri} is not a usable .tar.gz: {problem}") from problem
