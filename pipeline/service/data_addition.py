"""`run --data FOLDER --add`: the data set that was used last, with the images of a folder added, as a new data set.

The earlier one stays as it is: its objects are copied within S3, the folder's files laid beside them. A file whose name
is taken by another content takes its digest into the name; one that is there already is left out. An addition that was
interrupted goes on where it ended.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.errors import DataSourceError, UsageError
from pipeline.service.sources import Source
from pipeline.service.staging import Project
from pipeline.service.targets import Target, copy_objects, objects, remembered

SPLIT_FOLDERS = ("train", "validation", "valid", "val", "test")  # as PrepareData knows them


def extended(target: Target, project: Project, added: Source) -> tuple[Source, str]:
    """Return the earlier data set and a folder together, as a source in S3, and a line about it.

    It is the earlier one itself if nothing is new.
    """
    if added.path is None or not added.path.is_dir():
        raise DataSourceError("--add takes a folder; unpack an archive first.")
    earlier = remembered(target, project.config.pipeline.name).get("uri", "").rstrip("/")
    if not earlier:
        raise UsageError("--add finds no data set that was used before; run without it first.")
    found = objects(target, earlier)
    sizes = {key: size for key, size in found.items() if not any(part.startswith(".") for part in key.split("/"))}
    if not any("/" in key for key in sizes):
        raise DataSourceError(
            f"--add cannot extend {earlier}, which holds no folders of images; unpack it and run --data FOLDER first."
        )
    files = {file.relative: Path(file.path) for file in added.files if not file.reason}
    (old_top, old_is_split), (new_top, new_is_split) = layout(sizes), layout(files)
    if old_is_split != new_is_split:
        kinds = {True: "train, validation and test folders", False: "class folders"}
        raise DataSourceError(
            f"--add needs the layout of the earlier data set: {earlier} has {kinds[old_is_split]}, but "
            f"'{added.path}' has {kinds[new_is_split]}."
        )
    places: dict[str, Path] = {}
    for relative, file in files.items():
        key = old_top + relative.removeprefix(new_top)
        if place := free_place(target, earlier, key, file, sizes) if key in sizes else key:
            places[place] = file
    line = f"{len(places)} of {len(files)} files are added to the {len(sizes)} of {earlier}."
    if not places:
        return Source(earlier, uri=earlier), line
    digest = hashlib.sha256(f"{earlier}\n{added.fingerprint}".encode()).hexdigest()[:16]
    uri = target.placement.uri(project.config.pipeline.name, "data", f"added-{digest}")
    there = objects(target, uri)
    copy_objects(target, earlier, uri, (key for key in sizes if key not in there))
    target.put_files((file, f"{uri}/{key}") for key, file in places.items())
    return Source(uri, uri=uri), line


def layout(keys: Iterable[str]) -> tuple[str, bool]:
    """Return what encloses a data set, empty or with a slash at its end, and whether it has split folders."""
    enclosing, paths = "", list(keys)
    while True:
        tops = {path.partition("/")[0] for path in paths if "/" in path}
        is_split = bool(tops) and all(top.casefold() in SPLIT_FOLDERS for top in tops)
        if len(tops) != 1 or is_split or not any(path.count("/") > 1 for path in paths):
            return enclosing, is_split
        enclosing += f"{min(tops)}/"
        paths = [path.partition("/")[2] for path in paths if "/" in path]


def free_place(target: Target, earlier: str, key: str, file: Path, sizes: dict[str, int]) -> str | None:
    """Return a key beside one that is taken; None if the same content is there."""
    content, path = file.read_bytes(), PurePosixPath(key)
    marked = str(path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}"))
    is_same = sizes[key] == len(content) and target.read(f"{earlier}/{key}") == content
    return None if is_same or marked in sizes else marked
