"""SageMaker Debugger's tensors of the final training: losses, gradients, weights and activations of the head.

They are written in smdebug's format (`collections/`, `index/`, `events/`), in TRAIN and EVAL modes, where the service
or smdebug's `create_trial` reads them. A debugging aid must never cost a training: whatever goes wrong in smdebug is
said once, in one line, and the training goes on without it.
"""

import atexit
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from watch.files import say

Mode = Literal["TRAIN", "EVAL"]
CONFIG_FILE_VARIABLE = "SMDEBUG_CONFIG_FILE_PATH"
CONFIG_FILE_DEFAULT = "/opt/ml/input/config/debughookconfig.json"
END_MARKER = "training_job_end.ts"  # readers wait for it; under SageMaker smdebug leaves it to the service
HOOK_METHODS = ("forward_hook", "fhook")
LOSSES = "losses"
TENSORS = {  # collections besides the losses, and the pattern of those that smdebug does not define
    "gradients": None,
    "weights": None,
    "biases": None,
    "relu_input": ".*relu_input",
    "relu_output": ".*relu_output",
    "tanh_input": ".*tanh_input",
    "sigmoid_input": ".*sigmoid_input",
}


@dataclass(frozen=True)
class SaveIntervals:
    """Every how many steps of a mode the losses and the (much larger) tensors are saved."""

    losses: dict[Mode, int]
    tensors: dict[Mode, int]


class Debugger:
    """smdebug's hook on a head and its loss.

    Args:
        out_dir: Where tensors go, unless a debugger configuration file says otherwise. Must not hold an earlier run's.
        intervals: When to save, unless a debugger configuration file says otherwise.
    """

    def __init__(self, out_dir: Path, intervals: SaveIntervals) -> None:
        self.out_dir = out_dir
        self._hook: Any = None
        self._modes: Any = None
        self.failure: str | None = None  # what smdebug failed with
        self._loss_intervals: dict[str, int] | None = None  # None: a configuration file decides, or every step is due
        self._saving = True  # something of the current step
        self._attempt(lambda: self._create(intervals))

    def watch(self, head: nn.Module, criterion: nn.Module) -> None:
        """Save the head's tensors and the loss of every step that is due."""
        if self._hook is not None:
            self._attempt(lambda: self._register(head, criterion))

    def set_mode(self, mode: Mode) -> None:
        """Tell smdebug whether the coming steps train or evaluate."""
        if self._hook is not None:
            self._attempt(lambda: self._hook.set_mode(self._modes[mode]))

    def see_images(self, means: npt.NDArray[np.float32]) -> None:
        """Keep the images' means (B, 3) with the coming step, as images of one pixel, for CheckInputImages."""
        if self._hook is not None and self._coming_step_is_due():
            self._attempt(lambda: self._hook.save_tensor("input_image", torch.from_numpy(means[:, :, None, None])))

    def see(self, labels: Tensor, logits: Tensor) -> None:
        """Keep labels and predicted classes with the current step, for the rules that count them."""
        if self._hook is not None and self._saving:
            self._attempt(lambda: self._save_classes(labels, logits))

    def save_next_step(self) -> None:
        """Keep the coming step whole, whenever it comes."""
        if self._hook is not None:
            self._attempt(self._save_from_now_on)

    def close(self) -> None:
        """Flush the last step and mark the end, so that readers stop waiting."""
        if self._hook is not None:
            self._attempt(self._finish)

    def _create(self, intervals: SaveIntervals) -> None:
        os.environ.setdefault("SMDEBUG_LOG_LEVEL", "warning")
        import smdebug.pytorch as smdebug

        _quieten()
        self._modes = smdebug.modes
        config_file = os.environ.get(CONFIG_FILE_VARIABLE)
        if config_file or Path(CONFIG_FILE_DEFAULT).is_file():
            self._hook = smdebug.Hook.create_from_json_file(config_file)
            self.out_dir = Path(self._hook.out_dir)
        else:
            self._hook = self._configured_hook(smdebug, intervals)
            self._loss_intervals = {str(mode): steps for mode, steps in intervals.losses.items()}

    def _configured_hook(self, smdebug: Any, intervals: SaveIntervals) -> Any:
        def save_config(by_mode: dict[Mode, int]) -> Any:
            return {smdebug.modes[mode]: smdebug.SaveConfigMode(save_interval=steps) for mode, steps in by_mode.items()}

        hook = smdebug.Hook(
            out_dir=str(self.out_dir),
            include_collections=[LOSSES, *TENSORS],
            save_config=save_config(intervals.losses),
        )
        for name, pattern in TENSORS.items():
            collection = hook.get_collection(name)
            collection.save_config = save_config(intervals.tensors)
            if pattern:
                collection.include(pattern)
        return hook

    def _register(self, head: nn.Module, criterion: nn.Module) -> None:
        hook = self._hook
        hook.forward_pre_hook = self._beginning(hook.forward_pre_hook)
        for name in HOOK_METHODS:
            setattr(hook, name, self._guarded(getattr(hook, name)))
        backward_hook = hook.backward_hook
        hook.backward_hook = lambda tensor_name: self._guarded(backward_hook(tensor_name))
        hook.register_module(head)
        hook.register_loss(criterion)
        say(f"Debugger: tensors go to {self.out_dir}")

    def _save_classes(self, labels: Tensor, logits: Tensor) -> None:
        self._hook.save_tensor("labels", labels)  # written with the next module's output of a step that is due
        self._hook.save_tensor("predictions", logits.argmax(dim=1))

    def _save_from_now_on(self) -> None:
        self._loss_intervals = None
        for collection in self._hook.collection_manager.collections.values():
            for mode in (self._modes.TRAIN, self._modes.EVAL):
                collection.save_config.get_save_config(mode).save_interval = 1

    def _finish(self) -> None:
        self._hook.close()
        atexit.unregister(self._hook._cleanup)
        (self.out_dir / END_MARKER).touch()

    def _coming_step_is_due(self) -> bool:
        """Whether something of the step that begins next is saved; the losses are saved at each such step."""
        if self._loss_intervals is None:
            return True
        mode = self._hook.mode
        return bool((self._hook.mode_steps[mode] + 1) % self._loss_intervals[mode.name] == 0)

    def _beginning(self, forward_pre_hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook that begins a step. Of one that is not saved, smdebug only counts the step: its own hooks would
        take half a millisecond, and so do the others, which `_guarded` then leaves out."""

        def call(*arguments: Any) -> None:
            if self._hook is None:
                return
            self._saving = self._coming_step_is_due()
            if self._saving or self._hook.writer is not None:  # which is to be closed
                self._attempt(lambda: forward_pre_hook(*arguments))
            else:
                self._attempt(self._hook._increment_step)

        return call

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same hook within a step that is saved, silent once smdebug has failed."""

        def call(*arguments: Any) -> None:
            if self._hook is not None and self._saving:
                self._attempt(lambda: function(*arguments))

        return call

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - smdebug meets NumPy, protobuf and torch of other years
            if self._hook is not None:
                atexit.unregister(self._hook._cleanup)
                self._hook = None
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
            say(f"Debugger: off for this training, since smdebug failed ({self.failure})")


def _quieten() -> None:
    """Make smdebug's messages plain lines, without stack traces; and let its writer of a file that could not be opened
    go without a traceback: it would close what it lacks."""
    from smdebug.core.tfrecord.record_writer import RecordWriter

    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter())
    logging.getLogger("smdebug").handlers = [handler]
    RecordWriter._writer = None


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"smdebug: {' '.join(record.getMessage().split())}"
