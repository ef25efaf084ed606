"""SageMaker Debugger's tensors of the final training: losses, gradients, weights and activations of the head.

They are written in smdebug's format (`collections/`, `index/`, `events/`), in TRAIN and EVAL modes, where the service
or smdebug's `create_trial` reads them. A debugging aid must never cost a training: whatever goes wrong in smdebug is
said once, in one line, and the training goes on without it.
"""

import atexit
import functools
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

from watch.files import reason, say
from watch.read.tensors import END_MARKER

Mode = Literal["TRAIN", "EVAL"]
CONFIG_FILE_VARIABLE = "SMDEBUG_CONFIG_FILE_PATH"
CONFIG_FILE_DEFAULT = "/opt/ml/input/config/debughookconfig.json"
ACTIVATIONS = ("relu_input", "relu_output", "tanh_input", "sigmoid_input")  # found by their names
TENSORS = ("gradients", "weights", "biases", *ACTIVATIONS)  # collections besides the losses


@dataclass(frozen=True)
class SaveIntervals:
    """Every how many steps of a mode the losses and the (much larger) tensors are saved."""

    losses: dict[Mode, int]
    tensors: dict[Mode, int]


def _attempted(method: Callable[..., None]) -> Callable[..., None]:
    """The method of a Debugger, silent once smdebug has failed."""

    @functools.wraps(method)
    def call(self: "Debugger", *arguments: Any) -> None:
        if self.failure is not None:
            return
        try:
            method(self, *arguments)
        except Exception as error:  # noqa: BLE001 - smdebug meets NumPy, protobuf and torch of other years
            if self._hook is not None:
                atexit.unregister(self._hook._cleanup)
            self.failure = reason(error)
            say(f"Debugger: off for this training, since smdebug failed ({self.failure})")

    return call


class Debugger:
    """smdebug's hook on a head and its loss.

    A debugger configuration file, if there is one, says where tensors go and when they are saved; else `out_dir`, which
    must not hold an earlier run's, and `intervals` do. `failure` is what smdebug failed with, if it did.
    """

    def __init__(self, out_dir: Path, intervals: SaveIntervals) -> None:
        self.out_dir = out_dir
        self.failure: str | None = None
        self._hook: Any = None
        self._modes: Any = None
        self._loss_intervals: dict[str, int] | None = None  # None: a configuration file decides, or every step is due
        self._saving = True  # something of the current step
        self._create(intervals)

    @_attempted
    def watch(self, head: nn.Module, criterion: nn.Module) -> None:
        """Save the head's tensors and the loss of every step that is due."""
        hook, during = self._hook, functools.partial(functools.partial, self._during)
        hook.forward_pre_hook = functools.partial(self._begin, hook.forward_pre_hook)
        hook.forward_hook, hook.fhook = during(hook.forward_hook), during(hook.fhook)
        backward_hook = hook.backward_hook
        hook.backward_hook = lambda tensor_name: during(backward_hook(tensor_name))
        hook.register_module(head)
        hook.register_loss(criterion)
        say(f"Debugger: tensors go to {self.out_dir}")

    @_attempted
    def set_mode(self, mode: Mode) -> None:
        """Tell smdebug whether the coming steps train or evaluate."""
        self._hook.set_mode(self._modes[mode])

    @_attempted
    def see_images(self, means: npt.NDArray[np.float32]) -> None:
        """Keep the images' means (B, 3) with the coming step, as images of one pixel, for CheckInputImages."""
        if self._coming_step_is_due():
            self._hook.save_tensor("input_image", torch.from_numpy(means[:, :, None, None]))

    @_attempted
    def see(self, labels: Tensor, logits: Tensor) -> None:
        """Keep labels and predicted classes with the current step, for the rules that count them."""
        if self._saving:
            self._hook.save_tensor("labels", labels)  # written with the next module's output of a step that is due
            self._hook.save_tensor("predictions", logits.argmax(dim=1))

    @_attempted
    def save_next_step(self) -> None:
        """Keep the coming step whole, whenever it comes."""
        self._loss_intervals = None
        for collection in self._hook.collection_manager.collections.values():
            for mode in (self._modes.TRAIN, self._modes.EVAL):
                collection.save_config.get_save_config(mode).save_interval = 1

    @_attempted
    def close(self) -> None:
        """Flush the last step and mark the end, so that readers stop waiting."""
        self._hook.close()
        atexit.unregister(self._hook._cleanup)
        (self.out_dir / END_MARKER).touch()  # under SageMaker smdebug leaves it to the service

    @_attempted
    def _create(self, intervals: SaveIntervals) -> None:
        os.environ.setdefault("SMDEBUG_LOG_LEVEL", "warning")
        import smdebug.pytorch as smdebug

        _quieten()
        self._modes = smdebug.modes
        config_file = os.environ.get(CONFIG_FILE_VARIABLE)
        if config_file or Path(CONFIG_FILE_DEFAULT).is_file():
            self._hook = smdebug.Hook.create_from_json_file(config_file)
            self.out_dir = Path(self._hook.out_dir)
            return
        losses, tensors = (
            {smdebug.modes[mode]: smdebug.SaveConfigMode(save_interval=steps) for mode, steps in by_mode.items()}
            for by_mode in (intervals.losses, intervals.tensors)
        )
        names = ["losses", *TENSORS]
        self._hook = smdebug.Hook(out_dir=str(self.out_dir), include_collections=names, save_config=losses)
        for name in TENSORS:
            collection = self._hook.get_collection(name)
            collection.save_config = tensors
            if name in ACTIVATIONS:
                collection.include(f".*{name}")
        self._loss_intervals = {str(mode): steps for mode, steps in intervals.losses.items()}

    def _coming_step_is_due(self) -> bool:
        """Whether something of the step that begins next is saved; the losses are saved at each such step."""
        mode, intervals = self._hook.mode, self._loss_intervals
        return intervals is None or (self._hook.mode_steps[mode] + 1) % intervals[mode.name] == 0

    @_attempted
    def _begin(self, forward_pre_hook: Callable[..., Any], *arguments: Any) -> None:
        """A step begins. Of one that is not saved smdebug only counts it: its hooks would take half a millisecond."""
        self._saving = self._coming_step_is_due()
        if self._saving or self._hook.writer is not None:  # which is to be closed
            forward_pre_hook(*arguments)
        else:
            self._hook._increment_step()

    @_attempted
    def _during(self, function: Callable[..., Any], *arguments: Any) -> None:
        if self._saving:
            function(*arguments)


def _quieten() -> None:
    """Make smdebug's messages plain lines, without stack traces; and let its writer of a file that could not be opened
    go without a traceback: it would close what it lacks."""
    from smdebug.core.tfrecord.record_writer import RecordWriter

    handler = logging.StreamHandler()
    handler.format = lambda record: f"smdebug: {' '.join(record.getMessage().split())}"  # type: ignore[method-assign]
    logging.getLogger("smdebug").handlers = [handler]
    RecordWriter._writer = None
