"""SageMaker Debugger's tensors of the final training: losses, gradients, weights and activations of the head.

They are written in smdebug's format (`collections/`, `index/`, `events/`), in TRAIN and EVAL modes, where the service
or smdebug's `create_trial` reads them. A debugging aid must never cost a training: whatever goes wrong in smdebug is
said once, in one line, and the training goes on without it.
"""

import atexit
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from failures import say
from training_loop import Mode

CONFIG_FILE_VARIABLE = "SMDEBUG_CONFIG_FILE_PATH"
CONFIG_FILE_DEFAULT = "/opt/ml/input/config/debughookconfig.json"
END_MARKER = "training_job_end.ts"  # readers wait for it; under SageMaker smdebug leaves it to the service
MEGABYTES = 128  # of tensors in all, about; more would take longer to pack than the training takes
HOOK_METHODS = ("forward_pre_hook", "forward_hook", "fhook")
COLLECTIONS = {
    "losses": None,
    "gradients": None,
    "weights": None,
    "biases": None,
    "relu_input": ".*relu_input",
    "relu_output": ".*relu_output",
}
# smdebug is in maintenance only and meets NumPy, protobuf and torch releases that it does not know
SMDEBUG_TROUBLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Debugger:
    """smdebug's hook on a head and its loss.

    Args:
        out_dir: Where tensors go unless a debugger configuration file says otherwise. Must not hold an earlier run's.
        save_interval_steps: Save every so many training steps.
        evaluation_interval_steps: Save every so many evaluation steps.
    """

    def __init__(self, out_dir: Path, *, save_interval_steps: int, evaluation_interval_steps: int) -> None:
        self.out_dir = out_dir
        self._hook: Any = None
        self._modes: Any = None
        self._intervals = {"TRAIN": save_interval_steps, "EVAL": evaluation_interval_steps}
        self._attempt(self._create)

    def watch(self, head: nn.Module, criterion: nn.Module) -> None:
        """Save the head's tensors and the loss of every step that is due."""
        self._attempt(lambda: self._register(head, criterion))

    def set_mode(self, mode: Mode) -> None:
        """Tell smdebug whether the coming steps train or evaluate."""
        if self._hook is not None:
            self._hook.set_mode(self._modes[mode])

    def close(self) -> None:
        """Flush the last step and mark the end, so that readers stop waiting."""
        self._attempt(self._finish)

    def _create(self) -> None:
        os.environ.setdefault("SMDEBUG_LOG_LEVEL", "warning")
        import smdebug.pytorch as smdebug

        _log_in_one_line()
        self._modes = smdebug.modes
        config_file = os.environ.get(CONFIG_FILE_VARIABLE)
        if config_file or Path(CONFIG_FILE_DEFAULT).is_file():
            self._hook = smdebug.Hook.create_from_json_file(config_file)
            self.out_dir = Path(self._hook.out_dir)
        else:
            self._hook = smdebug.Hook(
                out_dir=str(self.out_dir),
                include_collections=list(COLLECTIONS),
                save_config={
                    smdebug.modes[mode]: smdebug.SaveConfigMode(save_interval=interval)
                    for mode, interval in self._intervals.items()
                },
            )
        for name, pattern in COLLECTIONS.items():
            if pattern:
                self._hook.get_collection(name).include(pattern)

    def _register(self, head: nn.Module, criterion: nn.Module) -> None:
        if self._hook is None:
            return
        hook = self._hook
        for name in HOOK_METHODS:
            setattr(hook, name, self._guarded(getattr(hook, name)))
        backward_hook = hook.backward_hook
        hook.backward_hook = lambda tensor_name: self._guarded(backward_hook(tensor_name))
        hook.register_module(head)
        hook.register_loss(criterion)
        say(f"Debugger tensors go to {self.out_dir}")

    def _finish(self) -> None:
        if self._hook is None:
            return
        self._hook.close()
        atexit.unregister(self._hook._cleanup)
        (self.out_dir / END_MARKER).touch()

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same hook, silent once smdebug has failed."""

        def call(*arguments: Any) -> Any:
            if self._hook is not None:
                self._attempt(lambda: function(*arguments))

        return call

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except SMDEBUG_TROUBLE as error:
            if self._hook is not None:
                atexit.unregister(self._hook._cleanup)
                self._hook = None
            say(f"Debugger: off for this training, since smdebug failed ({_one_line(error)})")


def affordable_interval(asked: int, head: nn.Module, train_steps: int) -> int:
    """The save interval asked for, in steps, or a wider one if a large head would fill the disk with tensors."""
    parameters = sum(parameter.numel() for parameter in head.parameters())
    megabytes_per_save = 2 * 4 * parameters / 1e6  # weights and gradients, float32
    affordable = max(asked, math.ceil(train_steps * megabytes_per_save / MEGABYTES))
    if affordable > asked:
        say(f"Debugger: saving every {affordable} steps instead of {asked}, for about {MEGABYTES} MB of tensors")
    return affordable


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _log_in_one_line() -> None:
    """Make smdebug's own messages plain lines, without its time stamps and stack traces."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter())
    logging.getLogger("smdebug").handlers = [handler]


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"smdebug: {' '.join(record.getMessage().split())}"
