"""`run --data FOLDER --add`: the data set that was used last, with the images of a folder added, as a new data set.

The earlier one stays as it is: its objects are copied within S3, the folder's files laid beside them. A file whose name
is taken by another content takes its digest into the name; one that is there already is left out. An addition that was
interrupted goes on where it ended.
"""

import hashlib
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.errors import DataSourceError, UsageError
from pipeline.service import control
from pipeline.service.aws_target import split_uri
from pipeline.service.sources import Source
from pipeline.service.staging import Project, remembered
from pipeline.service.targets import Target

COPIES_AT_ONCE = 10
SPLIT_FOLDERS = ("train", "validation", "valid", "val", "test")  # as PrepareData knows them


class Layout(NamedTuple):
    """What encloses a data set (empty, or with a slash at its end), and whether it has split folders."""

    enclosing: str
    is_split: bool


def extended(target: Target, project: Project, added: Source) -> Source:
    """Put the earlier data set and a folder together, as a source in S3; the earlier one itself if nothing is new.

    Raises:
        UsageError: there is no earlier data set, or the two do not go together.
    """
    if added.path is None or not added.path.is_dir():
        raise DataSourceError("--add takes a folder; unpack an archive first.")
    earlier = remembered(target, project).get("uri", "").rstrip("/")
    if not earlier:
        raise UsageError("--add finds no data set that was used before; run without it first.")
    sizes = {key: size for key, size in objects_below(target, earlier).items() if not is_hidden(key)}
    if not any("/" in key for key in sizes):
        raise DataSourceError(
            f"--add cannot extend {earlier}, which holds no folders of images; unpack it and run --data FOLDER first."
        )
    files = {file.relative: Path(file.path) for file in added.files if not file.reason}
    old, new = layout(sizes), layout(files)
    if old.is_split != new.is_split:
        kinds = {True: "train, validation and test folders", False: "class folders"}
        raise DataSourceError(
            f"--add needs the layout of the earlier data set: {earlier} has {kinds[old.is_split]}, but "
            f"'{added.path}' has {kinds[new.is_split]}."
        )
    places: dict[str, Path] = {}
    for relative, file in files.items():
        key = old.enclosing + relative.removeprefix(new.enclosing)
        if place := free_place(target, earlier, key, file, sizes) if key in sizes else key:
            places[place] = file
    print(f"{len(places)} of {len(files)} files are added to the {len(sizes)} of {earlier}.", file=sys.stderr)
    if not places:
        return Source(earlier, uri=earlier)
    digest = hashlib.sha256(f"{earlier}\n{added.fingerprint}".encode()).hexdigest()[:16]
    uri = target.placement.uri(project.config.pipeline.name, "data", f"added-{digest}")
    there = objects_below(target, uri)
    copy_objects(target, earlier, uri, (key for key in sizes if key not in there))
    target.put_files((file, f"{uri}/{key}") for key, file in places.items())
    return Source(uri, uri=uri)


def objects_below(target: Target, uri: str) -> dict[str, int]:
    """Key within the prefix -> bytes."""
    bucket, prefix = split_uri(f"{uri}/")
    with control.service_errors(f"list {uri}"):
        pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [item for page in pages for item in page.get("Contents", [])]
    return {item["Key"].removeprefix(prefix): item["Size"] for item in found if not item["Key"].endswith("/")}


def layout(keys: Iterable[str]) -> Layout:
    """How a data set with these keys lies, as PrepareData will see it."""
    enclosing, paths = "", list(keys)
    while True:
        tops = {path.partition("/")[0] for path in paths if "/" in path}
        is_split = bool(tops) and all(top.casefold() in SPLIT_FOLDERS for top in tops)
        if len(tops) != 1 or is_split or not any(path.count("/") > 1 for path in paths):
            return Layout(enclosing, is_split)
        enclosing += f"{min(tops)}/"
        paths = [path.partition("/")[2] for path in paths if "/" in path]


def free_place(target: Target, earlier: str, key: str, file: Path, sizes: dict[str, int]) -> str | None:
    """A key beside one that is taken; None if the same content is there."""
    content, path = file.read_bytes(), PurePosixPath(key)
    marked = str(path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}"))
    is_same = sizes[key] == len(content) and target.read(f"{earlier}/{key}") == content
    return None if is_same or marked in sizes else marked


def copy_objects(target: Target, source: str, destination: str, keys: Iterable[str]) -> None:
    """Copy objects within S3, some at the same time."""
    (from_bucket, from_prefix), (bucket, prefix) = split_uri(source), split_uri(destination)
    client = target.client("s3")  # made once, then shared

    def copy(key: str) -> None:
        origin = {"Bucket": from_bucket, "Key": f"{from_prefix}/{key}"}
        client.copy_object(Bucket=bucket, Key=f"{prefix}/{key}", CopySource=origin)

    with control.service_errors(f"copy {source}"), ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        list(pool.map(copy, keys))


def is_hidden(key: str) -> bool:
    """Whether a file or a folder around it is hidden, as files of a folder would not be staged."""
    return any(part.startswith(".") for part in key.split("/"))
