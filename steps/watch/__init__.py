"""Watch: a debugger for trainings. `from watch import watch` saves, judges and reports in three lines."""

import importlib
from typing import Any


def watch(model: Any, loss: Any = None, optimizer: Any = None, *, out: Any = None, every: int | None = None) -> Any:
    """Save what a training does, judge it beside the training, and report it at the end.

        watcher = watch(model, loss_module, optimizer)
        for images, labels in watcher.batches(loader): ...   # optional: the wait for data, step times

    Call it once model, device and any torch.compile or DistributedDataParallel are as they will train. Nothing here
    costs a training: whatever goes wrong is said once, and the training goes on. HTML and PNG files that a script
    writes into `<out>/panels` are shown in the report.

    Args:
        model: An nn.Module, also one compiled or wrapped in DistributedDataParallel.
        loss: The loss module; without one, pass each step's loss to `watcher.loss(value)`.
        optimizer: A torch optimizer or several; without one, any that trains the model's parameters.
        out: The run's folder; default is WATCH_DIR, else ./watch/<time>.
        every: Steps from one saving to the next; None chooses them so that saving takes a few percent of the time.

    Returns:
        A Watcher of watch/collect/hook.py. By name, so that what needs another part of this package needs no torch,
        and a job that serves carries no debugger.
    """
    return importlib.import_module("watch.collect.hook").start(model, loss, optimizer, out=out, every=every)
