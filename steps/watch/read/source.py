"""Where the files of a run are: its tensors and its profile, whoever wrote them, whatever folder is named.

    tensors/, debug-output/, output/tensors/ (of /opt/ml), or the folder itself   smdebug's layout: index/, events/
    profile/, profiler-output/, output/profiler/, or the folder itself            the profiler's: system/, framework/

A folder within those (index/000000000, say) leads to its run as well.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watch.read.tensors import END_MARKER, listed

INSIDE = ("index", "events", "collections", "system", "framework")
FINISHED, HISTORY = "finished.json", "history.json"
STATUS, SERIES = "rules/status.json", "rules/series.json"
PLACES = {  # below a run's folder: where each kind may lie, and what is in it
    "tensors": (("tensors", "debug-output", "output/data/tensors", "output/tensors", "."), INSIDE[:3]),
    "profile": (("profile", "profiler-output", "output/data/profile", "output/profiler", "."), INSIDE[3:]),
}
UPWARDS = 5  # folders above the named one: system/incremental/<hour> lies that deep
DEEPEST, MOST_FOLDERS, SHOWN = 6, 5_000, 5
QUIET_SECONDS = 120.0  # a run whose newest file is older, and that has no end marker, was broken off


class SourceError(ValueError):
    """There is no run where one was looked for: one sentence."""


@dataclass(frozen=True)
class Source:
    """The files of one run."""

    folder: Path  # with rules/, history.json and panels/, where it has them
    tensors: Path | None
    profile: Path | None

    @property
    def finished(self) -> bool:
        """Whether there is an end marker: nothing more comes."""
        marked = self.tensors is not None and (self.tensors / END_MARKER).is_file()
        return marked or (self.folder / FINISHED).is_file()

    def is_live(self) -> bool:
        """Whether there is no end marker, and something was written in the last QUIET_SECONDS."""
        places = (self.tensors and self.tensors / "index", self.profile and self.profile / "system/incremental")
        oldest = time.time() - QUIET_SECONDS
        return not self.finished and any(_written(place) > oldest for place in filter(None, places))


def find(folder: Path) -> Source:
    """Return the run that a folder holds, or belongs to.

    Raises:
        SourceError: There is no such folder, it holds no run, or more than one.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is {'no folder' if folder.exists() else 'not there'}: name the folder of a run.")
    named = folder.resolve()
    above = [place for place in (named, *named.parents)[:UPWARDS] if place.name in INSIDE and _run_at(place.parent)]
    start = above[-1].parent if above else named
    usual = {place for places, _ in PLACES.values() for place in places}
    if start.name in usual and (whole := _run_at(start.parent)) and start in (whole.tensors, whole.profile):
        return whole
    for level in _levels(start):
        runs = [run for run in map(_run_at, level) if run]
        if len(runs) == 2 and (one := _joined(start, runs)):
            return one
        if len(runs) > 1:
            names = ", ".join(str(run.folder.relative_to(start)) for run in runs[:SHOWN])
            more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
            raise SourceError(f"{folder} holds {len(runs)} runs, {names}{more}: name one of them.")
        if runs:
            return runs[0]
    wanted = "neither smdebug's tensors (index/, events/) nor a profile (system/, framework/)"
    raise SourceError(f"{folder} holds no run: there are {wanted} in it.")


def _written(place: Path) -> float:
    """When the newest of what a folder holds, by its name, was written (epoch seconds); 0 where there is no folder."""
    while names := listed(place):
        place = place / names[-1]
    return place.stat().st_mtime if place.exists() else 0.0


def _run_at(folder: Path) -> Source | None:
    """The run whose folder this is."""
    found = {
        kind: next(
            (folder / place for place in places if any((folder / place / name).is_dir() for name in inner)), None
        )
        for kind, (places, inner) in PLACES.items()
    }
    if not any(found.values()) and not any((folder / name).is_file() for name in (STATUS, HISTORY)):
        return None
    data = folder / "output" / "data"  # of /opt/ml: what becomes output.tar.gz
    is_own = any(place and place.parent == data for place in found.values()) or (data / STATUS).is_file()
    return Source(data if is_own else folder, found["tensors"], found["profile"])


def _joined(folder: Path, runs: list[Source]) -> Source | None:
    """One run of two folders of any name, of which one holds the tensors and one the profile."""
    tensors, profiles = ([place for run in runs if (place := getattr(run, kind))] for kind in PLACES)
    return Source(folder, tensors[0], profiles[0]) if len(tensors) == len(profiles) == 1 else None


def _levels(start: Path) -> Iterator[list[Path]]:
    """The folders below one, level by level; each once, though links lead to it again."""
    level, seen = [start], {start}
    for _ in range(DEEPEST):
        yield level
        names = [place / name for place in level for name in listed(place) if name[0] != "." and name not in INSIDE]
        level = []
        for child in names:
            if len(seen) < MOST_FOLDERS and child.is_dir() and (real := child.resolve()) not in seen:
                level.append(child)
                seen.add(real)
