"""What a model is made of: its containers, those of model packages included, and their data as a container finds it."""

import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.definition.runnable import model_faults
from pipeline.local.jobs.runtime import arn
from pipeline.local.store.answers import found, invalid
from pipeline.local.store.state import Document, State
from pipeline.local.store.storage import Storage, StorageError


def containers(request: Document) -> list[Document]:
    """Return the containers of a CreateModel request.

    Raises:
        RequestError: there is none, or it asks for what is not served here.
    """
    if faults := list(model_faults(request)):
        raise invalid(f"Model {request['ModelName']!r} {faults[0]}")
    primary = request.get("PrimaryContainer")
    return [primary] if primary else list(request["Containers"])


def resolved_containers(state: State, model_name: str, environment: Mapping[str, str]) -> list[Document]:
    """Return image, data and environment of each of a model's containers; `environment` is added to that of each.

    Raises:
        RequestError: there is no such model, or its package says nothing about containers.
    """
    resolved: list[Document] = []
    for container in containers(found(state, "Model", model_name, "model")):
        package_arn, parts = container.get("ModelPackageName"), [container]
        if package_arn:
            parts = found_package(state, package_arn).get("InferenceSpecification", {}).get("Containers", [])
        if not parts:
            raise invalid(f"Model package {package_arn} has no InferenceSpecification, so it cannot be served.")
        for part in parts:
            variables = {**part.get("Environment", {}), **container.get("Environment", {}), **environment}
            resolved.append({**part, **container, "Environment": variables})
    return resolved


def found_package(state: State, name_or_arn: str) -> Document:
    """Return a version by its ARN or as `group/number`.

    Raises:
        RequestError: there is none.
    """
    package_arn = name_or_arn if name_or_arn.startswith("arn:") else arn("model-package", name_or_arn)
    document = state.get("ModelPackage", package_arn.lower())
    if document is None:
        raise invalid(f"Could not find model package {name_or_arn!r}.")
    return document


def place_model(storage: Storage, container: Document, folder: Path) -> None:
    """Fill a directory with the container's ModelDataUrl or ModelDataSource, and with a script that lies elsewhere.

    Raises:
        RequestError: there is none, or it cannot be read.
    """
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri = container.get("ModelDataUrl") or source.get("S3Uri")
    if not uri:
        raise invalid("The model has no data: its container has neither ModelDataUrl nor ModelDataSource.")
    code = str(container.get("Environment", {}).get("SAGEMAKER_SUBMIT_DIRECTORY", ""))
    try:
        if source.get("CompressionType") == "None":
            storage.download(uri, folder)
        else:
            unpack(storage, uri, folder)
        if code.startswith("s3://"):
            unpack(storage, code, folder / "code")
    except StorageError as problem:
        raise invalid(f"Could not access model data: {problem}") from problem


def unpack(storage: Storage, uri: str, folder: Path) -> None:
    """Extract a .tar.gz of the storage.

    Raises:
        RequestError: it is none.
        StorageError: there is no such object.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(storage.read(uri))) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError) as problem:
        raise invalid(f"{uri} is not a usable .tar.gz: {problem}") from problem
