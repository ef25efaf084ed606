"""The saved tensors of a run, read while they are being written, in smdebug's layout and with smdebug's names.

    collections/000000000/worker_0_collections.json
    index/<global step // 1000, 9 digits>/<global step, 12 digits>_worker_0.json
    events/<global step, 12 digits>/<global step, 12 digits>_worker_0.tfevents

Unlike smdebug's own reader it reads each index file once, keeps the places of the newest steps only, and never waits.
Source: smdebug 1.0.34, smdebug/core/locations.py and smdebug/core/index_reader.py.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from watch.read.records import RecordError, decode, read_file

COLLECTIONS = "collections/000000000"  # smdebug writes a file of each worker at its first step
END_MARKER = "training_job_end.ts"
STEPS_PER_INDEX_FOLDER = 1000
KEPT_STEPS = 64  # a rule may look back that many saved steps
PATIENCE_LOOKS = 5  # an index file that cannot be read is looked at that often before it is given up
MAXIMUM_REPORTS = 20
DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, re.error)
DEFAULT_COLLECTIONS: dict[str, tuple[str, ...]] = {  # smdebug's own
    "losses": ("[Ll]oss_(?!input).*output",),
    "gradients": ("^gradient",),
    "weights": ("^(?!gradient).*weight",),
    "biases": ("^(?!gradient).*bias",),
}
REDUCTION = re.compile("^smdebug/reductions/[^/]+/")
REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(np, name) for name in ("min", "max", "mean", "std", "sum", "prod")},
    "variance": np.var,
    "l1": lambda values: np.sum(np.abs(values)),
    "l2": lambda values: np.sqrt(np.sum(np.square(values))),
}


class TensorUnavailable(LookupError):
    """A tensor is not on disk, or cannot be read: the step is passed over."""


class Mode(Enum):
    """smdebug's ModeKeys."""

    TRAIN = 1
    EVAL = 2
    PREDICT = 3
    GLOBAL = 4


@dataclass
class SavedStep:
    """One saved step: what was saved at it, where."""

    global_step: int
    mode: Mode
    step: int  # counts within the mode
    time: float  # epoch seconds of its saving
    event_file: Path
    places: dict[str, tuple[int, int]]  # saved name -> offset and length in the event file, bytes
    cache: dict[str, Any] = field(default_factory=dict)  # arrays and reductions, while the step is the newest

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, also of those saved as reductions only; sorted."""
        return tuple(sorted({REDUCTION.sub("", name) for name in self.places}))


def workers(folder: Path) -> list[str]:
    """Return the names of the processes that saved tensors (worker_0, worker_1 ...), in order."""
    index = folder / "index"
    folders = [index / name for name in listed(index)]
    found = {name.removesuffix("_collections.json") for name in listed(folder / COLLECTIONS)}
    for names in map(listed, {*folders[:1], *folders[-1:]}):
        found |= {name.partition("_")[2].removesuffix(".json") for name in names if name[:1].isdigit()}
    return sorted((name for name in found if "." not in name and name), key=lambda name: (len(name), name))


class SavedTensors:
    """The tensors of one worker, whose directory need not exist yet; the newest steps answer as smdebug's trial."""

    def __init__(self, directory: Path, worker: str = "worker_0") -> None:
        self.directory, self.worker = directory, worker
        self.unreadable: list[str] = []  # files that could not be read, relative to the directory, and why
        self._last_step = -1  # global
        self._looks = 0  # at an index file that cannot be read
        self._kept: dict[tuple[str, int], SavedStep] = {}
        self._newest: SavedStep | None = None
        self._patterns: dict[str, tuple[str, ...]] | None = None

    def new_steps(self, *, last: bool = False) -> Iterator[SavedStep]:
        """Yield the steps saved since the last call, in order; `last`: broken files are not waited for."""
        for path, global_step in self._new_index_files():
            try:
                saved = _read_index(path, global_step, self.directory)
            except DAMAGE as error:
                self._looks += 1
                if self._looks < PATIENCE_LOOKS and not last:
                    return
                self._report(path, error)
                saved = None
            self._looks, self._last_step = 0, global_step
            if saved is not None and saved.places:
                self._keep(saved)
                yield saved

    def steps(self, mode: Any) -> list[int]:
        """Return the steps of a mode that can still be read, oldest first."""
        return [step for name, step in self._kept if name == mode.name]

    def tensor_names(
        self, *, step: int | None = None, mode: Any, regex: Any = None, collection: str | None = None
    ) -> list[str]:
        """Return the sorted names of a step's tensors (without a step, of all that can still be read).

        Only those in a collection of the hook's, or those with a match of a pattern, or of one of several, in them.
        """
        found = {self._kept[key].names for key in self._kept if key[0] == mode.name and step in (None, key[1])}
        names = found.pop() if len(found) == 1 else tuple(sorted({name for names in found for name in names}))
        if collection is not None:
            regex = self._collection_patterns().get(collection, ())
        if regex is None:
            return list(names)
        return list(_matching(names, (regex,) if isinstance(regex, str) else tuple(regex)))

    def written_names(self, *, step: int, mode: Any) -> list[str]:
        """Return the names of what was saved at a step as they were written: weights in the order of the network."""
        saved = self._kept.get((mode.name, step))
        return list(saved.places) if saved else []

    def tensor(self, tname: str) -> "SavedTensor":
        """Return one tensor over the steps; whether it was saved shows when it is read."""
        return SavedTensor(tname, self)

    def read(self, name: str, mode: Any, step: int) -> npt.NDArray[Any]:
        """Return one saved array. Raises TensorUnavailable: not saved at that step, or it cannot be read."""
        saved = self._kept.get((mode.name, step))
        if saved is None or name not in saved.places:
            raise TensorUnavailable(f"{name} was not saved at step {step} of mode {mode.name}")
        if name in saved.cache:
            return np.asarray(saved.cache[name])
        try:
            value = decode(read_file(saved.event_file, saved.places[name]))
        except (OSError, RecordError) as error:
            self._report(saved.event_file, error)
            raise TensorUnavailable(f"{name} of step {step} cannot be read: {error}") from error
        if saved is self._newest:
            saved.cache[name] = value
        return value

    def reduce(self, name: str, mode: Any, step: int, reduction: tuple[str, bool]) -> float:
        """Return one number about an array, saved or worked out: by name, and whether of the absolute values."""
        reduction_name, absolute = reduction
        reduced = f"smdebug/reductions/{'abs_' if absolute else ''}{reduction_name}/{name}"
        saved = self._kept.get((mode.name, step))
        if saved and isinstance(saved.cache.get(reduced), float):
            return float(saved.cache[reduced])
        is_saved = bool(saved and reduced in saved.places)
        value = self.read(reduced if is_saved else name, mode, step)
        if not value.size:
            raise TensorUnavailable(f"{name} of step {step} is empty")
        reduce = np.ravel if is_saved else REDUCTIONS[reduction_name]
        number = float(np.ravel(reduce(np.abs(value) if absolute else value))[0])
        if saved is self._newest and saved:
            saved.cache[reduced] = number
        return number

    def _new_index_files(self) -> Iterator[tuple[Path, int]]:
        """Index files of later steps than the last one read, and their global steps."""
        index, ending = self.directory / "index", f"_{self.worker}.json"
        folder_of_last = f"{max(self._last_step, 0) // STEPS_PER_INDEX_FOLDER:09d}"
        for folder in listed(index):
            for name in listed(index / folder) if folder >= folder_of_last else ():
                digits = name.removesuffix(ending)
                if name.endswith(ending) and digits.isdecimal() and int(digits[:18]) > self._last_step:
                    yield index / folder / name, int(digits[:18])

    def _keep(self, saved: SavedStep) -> None:
        if self._newest is not None:
            self._newest.cache = {}
        self._newest = self._kept[saved.mode.name, saved.step] = saved
        if len(self._kept) > KEPT_STEPS:
            del self._kept[next(iter(self._kept))]

    def _collection_patterns(self) -> dict[str, tuple[str, ...]]:
        """Of each collection, patterns of its members' names: of this worker's file, or of another's."""
        if self._patterns is None:
            folder = self.directory / COLLECTIONS
            own = f"{self.worker}_collections.json"
            for name in sorted(listed(folder), key=lambda name: name != own):
                try:
                    self._patterns = _read_collections(folder / name)
                    break
                except DAMAGE as error:
                    self._report(folder / name, error)
        return DEFAULT_COLLECTIONS if self._patterns is None else self._patterns  # it is looked for again

    def _report(self, path: Path, error: Exception) -> None:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        sentence = f"{path.relative_to(self.directory)} cannot be read: {why}"
        if sentence not in self.unreadable and len(self.unreadable) < MAXIMUM_REPORTS:
            self.unreadable.append(sentence)


@dataclass(frozen=True)
class SavedTensor:
    """One tensor of SavedTensors."""

    name: str
    saved: SavedTensors

    def steps(self, mode: Any) -> list[int]:
        """Return the steps of a mode at which it was saved and can still be read."""
        return [step for step in self.saved.steps(mode) if self.name in self.saved.tensor_names(step=step, mode=mode)]

    def value(self, step_num: int, mode: Any) -> npt.NDArray[Any]:
        """Return the array as it was. Raises TensorUnavailable, also where only reductions were saved."""
        return self.saved.read(self.name, mode, step_num)

    def reduction_value(
        self, step_num: int, reduction_name: str, mode: Any, worker: str | None = None, abs: bool = False
    ) -> float:
        """Return one of REDUCTIONS, of the absolute values with `abs`. Raises TensorUnavailable."""
        return self.saved.reduce(self.name, mode, step_num, (reduction_name, abs))


def listed(directory: Path) -> list[str]:
    """Return the names in a folder, sorted; none where there is no folder, or it cannot be read."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208
    except OSError:
        return []


def _read_index(path: Path, global_step: int, directory: Path) -> SavedStep:
    index = json.loads(read_file(path))
    meta = index["meta"]
    event_file = Path(meta.get("event_file_name", ""))
    places = {item["tensorname"]: (int(item["start_idx"]), int(item["length"])) for item in index["tensor_payload"]}
    if event_file.is_absolute() or ".." in event_file.parts:
        raise ValueError(f"it names an event file elsewhere, {str(event_file)!r}")
    if any(offset < 0 or length < 0 for offset, length in places.values()):
        raise ValueError("it has a place before the file's beginning")
    "".join(places).encode()  # a name that cannot be written is none
    mode, time = Mode[meta["mode"].strip()], path.stat().st_mtime
    return SavedStep(global_step, mode, int(meta["mode_step"]), time, directory / event_file, places)


def _read_collections(path: Path) -> dict[str, tuple[str, ...]]:
    found = {
        name: (*collection["include_regex"], *(f"^{re.escape(member)}$" for member in collection["tensor_names"]))
        for name, collection in json.loads(read_file(path))["collections"].items()
    }
    for patterns in found.values():
        re.compile("|".join(patterns))
    return found


@functools.lru_cache(maxsize=1024)
def _matching(names: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Steps of one kind save the same tensors, so that the same question comes back at every step."""
    return tuple(sorted(name for name in names if any(re.search(pattern, name) for pattern in patterns)))
