"""The saved tensors of a run, read while they are being written, in smdebug's layout and with smdebug's names.

    collections/000000000/worker_0_collections.json
    index/<global step // 1000, 9 digits>/<global step, 12 digits>_worker_0.json
    events/<global step, 12 digits>/<global step, 12 digits>_worker_0.tfevents

smdebug's own reader (create_trial) imports torch and boto3, waits in loops, lists all files again and again, and keeps
every location of the run. This one reads each index file once, keeps the locations of the newest steps only, and never
waits. Layout: smdebug 1.0.34, smdebug/core/locations.py and smdebug/core/index_reader.py.
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

from watch.read.records import RecordError, read_record

COLLECTIONS_FILE = "collections/000000000/worker_0_collections.json"  # smdebug writes it at its first step
STEPS_PER_INDEX_FOLDER = 1000
KEPT_STEPS = 64  # a rule may look back that many saved steps
PATIENCE_LOOKS = 5  # an index file that cannot be read is looked at that often before it is given up
MAXIMUM_REPORTS = 20
DEFAULT_COLLECTIONS: dict[str, tuple[str, ...]] = {  # smdebug's own
    "losses": ("[Ll]oss_(?!input).*output",),
    "gradients": ("^gradient",),
    "weights": ("^(?!gradient).*weight",),
    "biases": ("^(?!gradient).*bias",),
}
REDUCTION_PREFIX = "smdebug/reductions/"
REDUCTIONS: dict[str, Callable[[Any], Any]] = {
    "min": np.min,
    "max": np.max,
    "mean": np.mean,
    "std": np.std,
    "variance": np.var,
    "sum": np.sum,
    "prod": np.prod,
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
    content: bytes | None = None  # of the event file, while the step is the newest
    values: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # decoded, while the step is the newest
    numbers: dict[str, float] = field(default_factory=dict)  # reductions, while the step is the newest

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, also of those saved as reductions only; sorted."""
        return tuple(sorted({name.split("/", 3)[3] if _reduced(name) else name for name in self.places}))


class SavedTensors:
    """A run's tensors. `new_steps` yields what was saved since; the newest steps answer like an smdebug trial.

    Args:
        directory: Where smdebug writes; need not exist yet.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.unreadable: list[str] = []  # files that could not be read, relative to the directory, and why
        self._last_step = -1  # global
        self._looks = 0  # at an index file that cannot be read
        self._kept: dict[tuple[str, int], SavedStep] = {}
        self._newest: SavedStep | None = None
        self._patterns: dict[str, tuple[str, ...]] | None = None

    def new_steps(self, *, last: bool = False) -> Iterator[SavedStep]:
        """Steps that were saved since the last call, in the order of the training.

        Args:
            last: Nothing more will be written, so that a broken index file is not waited for.
        """
        for path, global_step in self._new_index_files():
            try:
                saved = _read_index(path, global_step, self.directory)
            except (OSError, LookupError, TypeError, ValueError) as error:
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
        """Steps of a mode that can still be read, oldest first."""
        return [step for name, step in self._kept if name == mode.name]

    def tensor_names(
        self, *, step: int | None = None, mode: Any, regex: Any = None, collection: str | None = None
    ) -> list[str]:
        """Names of the tensors of a step (of all that can still be read, without one), sorted.

        Args:
            regex: A pattern or a list of them, looked for anywhere in a name.
            collection: Only names in this collection of the hook's.
        """
        names = self._names(mode, self.steps(mode) if step is None else [step])
        if collection is not None:
            return list(_matching(names, self._collection_patterns().get(collection, ())))
        if regex is not None:
            return list(_matching(names, (regex,) if isinstance(regex, str) else tuple(regex)))
        return list(names)

    def tensor(self, tname: str) -> "SavedTensor":
        """One tensor over the steps; whether it was saved shows when it is read."""
        return SavedTensor(tname, self)

    def read(self, name: str, mode: Any, step: int) -> npt.NDArray[Any]:
        """One saved array.

        Raises:
            TensorUnavailable: It was not saved at that step, or cannot be read.
        """
        saved = self._kept.get((mode.name, step))
        if saved is None or name not in saved.places:
            raise TensorUnavailable(f"{name} was not saved at step {step} of mode {mode.name}")
        if name in saved.values:
            return saved.values[name]
        offset, length = saved.places[name]
        try:
            content = saved.event_file.read_bytes() if saved.content is None else saved.content
            value = read_record(content[offset : offset + length])
        except (OSError, RecordError) as error:
            self._report(saved.event_file, error)
            raise TensorUnavailable(f"{name} of step {step} cannot be read: {error}") from error
        if saved is self._newest:
            saved.content = content
            saved.values[name] = value
        return value

    def reduce(self, name: str, mode: Any, step: int, reduction: tuple[str, bool]) -> float:
        """One number about an array: the saved one, or worked out. Raises TensorUnavailable as read does.

        Args:
            reduction: Its name, and whether it is of the absolute values.
        """
        reduction_name, absolute = reduction
        saved_name = f"{REDUCTION_PREFIX}{'abs_' if absolute else ''}{reduction_name}/{name}"
        saved = self._kept.get((mode.name, step))
        if saved is not None and saved_name in saved.numbers:
            return saved.numbers[saved_name]
        if saved is not None and saved_name in saved.places:
            number = float(self.read(saved_name, mode, step).reshape(()))
        else:
            value = self.read(name, mode, step)
            number = float(REDUCTIONS[reduction_name](np.abs(value) if absolute else value))
        if saved is not None and saved is self._newest:
            saved.numbers[saved_name] = number
        return number

    def _names(self, mode: Any, steps: list[int]) -> tuple[str, ...]:
        found = [saved.names for step in steps if (saved := self._kept.get((mode.name, step)))]
        return found[0] if len(found) == 1 else tuple(sorted({name for names in found for name in names}))

    def _new_index_files(self) -> Iterator[tuple[Path, int]]:
        """Index files of later steps than the last one read, and their global steps; of each step, one worker's."""
        folder_of_last = f"{max(self._last_step, 0) // STEPS_PER_INDEX_FOLDER:09d}"
        index = self.directory / "index"
        for folder in _listed(index):
            if folder < folder_of_last:
                continue
            for name in _listed(index / folder):
                digits = name.partition("_")[0]
                if name.endswith(".json") and digits.isdigit() and int(digits) > self._last_step:
                    yield index / folder / name, int(digits)

    def _keep(self, saved: SavedStep) -> None:
        if self._newest is not None:
            self._newest.content, self._newest.values, self._newest.numbers = None, {}, {}
        self._newest = self._kept[saved.mode.name, saved.step] = saved
        if len(self._kept) > KEPT_STEPS:
            del self._kept[next(iter(self._kept))]

    def _collection_patterns(self) -> dict[str, tuple[str, ...]]:
        """Of each collection, patterns of its members' names."""
        if self._patterns is None:
            try:
                self._patterns = _read_collections(self.directory / COLLECTIONS_FILE)
            except (OSError, LookupError, TypeError, ValueError):
                return DEFAULT_COLLECTIONS  # not written yet; it is looked for again
        return self._patterns

    def _report(self, path: Path, error: Exception) -> None:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        sentence = f"{path.relative_to(self.directory)} cannot be read: {why}"
        if sentence not in self.unreadable and len(self.unreadable) < MAXIMUM_REPORTS:
            self.unreadable.append(sentence)


class SavedTensor:
    """One tensor of SavedTensors."""

    def __init__(self, name: str, saved: SavedTensors) -> None:
        self.name = name
        self._saved = saved

    def steps(self, mode: Any) -> list[int]:
        """Steps of a mode at which it was saved and can still be read."""
        return [step for step in self._saved.steps(mode) if self.name in self._saved.tensor_names(step=step, mode=mode)]

    def value(self, step_num: int, mode: Any) -> npt.NDArray[Any]:
        """The array, in the shape and dtype it had. Raises TensorUnavailable, also where only reductions were saved."""
        return self._saved.read(self.name, mode, step_num)

    def reduction_value(
        self, step_num: int, reduction_name: str, mode: Any, worker: str | None = None, abs: bool = False
    ) -> float:
        """One number about the array: the saved one, or worked out from the array.

        Args:
            reduction_name: min, max, mean, std, variance, sum, prod, l1 or l2.
            abs: Of the absolute values.

        Raises:
            TensorUnavailable: Neither was saved at that step, or it cannot be read.
        """
        return self._saved.reduce(self.name, mode, step_num, (reduction_name, abs))


def _reduced(name: str) -> bool:
    return name.startswith(REDUCTION_PREFIX)


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_index(path: Path, global_step: int, directory: Path) -> SavedStep:
    with path.open("rb") as file:
        index = json.load(file)
        written = os.fstat(file.fileno()).st_mtime
    meta = index["meta"]
    places = {item["tensorname"]: (item["start_idx"], item["length"]) for item in index["tensor_payload"]}
    event_file = directory / meta.get("event_file_name", "")
    return SavedStep(global_step, Mode[meta["mode"].strip()], int(meta["mode_step"]), written, event_file, places)


def _read_collections(path: Path) -> dict[str, tuple[str, ...]]:
    collections = json.loads(path.read_bytes())["collections"]
    return {
        name: (*collection["include_regex"], *(f"^{re.escape(member)}$" for member in collection["tensor_names"]))
        for name, collection in collections.items()
    }


@functools.lru_cache(maxsize=1024)
def _matching(names: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Steps of one kind save the same tensors, so that the same question comes back at every step."""
    return tuple(sorted(name for name in names if any(re.search(pattern, name) for pattern in patterns)))
