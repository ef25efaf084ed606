"""Tensors of anybody's training, saved without smdebug in smdebug's layout and with its names.

A step is one forward pass of the model (smdebug 1.0.34, pytorch/hook.py), counted within its mode: TRAIN or EVAL, by
`model.training`. Of a step that is saved there are the loss, the learning rates, and the classes that the loss module
was given; of a few training steps also weights, gradients, activations and the model's output, large ones as every
n-th value along their axes. Steps that are not saved cost a few microseconds.

Activations are found by module type. Inside a compiled model no module can be seen: its activations are missing.
"""

import atexit
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from watch.collect.observation import Observation
from watch.collect.timeline import StepTimeline
from watch.files import put, reason, say
from watch.read.records import encode
from watch.read.tensors import COLLECTIONS, END_MARKER, Mode

RELUS = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Hardswish")
ACTIVATIONS = {**dict.fromkeys(RELUS, "relu"), "Tanh": "tanh", "Sigmoid": "sigmoid"}
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
LOSS_NAMES = r"[Ll]oss_(?!input).*output"  # smdebug's own pattern of the collection
LARGEST = 65_536  # values kept of one tensor
LARGEST_STEP = 1_000_000  # values kept of all parameters, about
KEPT_CLASSES = 8192  # of one batch's labels
MOST_CLASSES = 1000  # more are tokens or the like, not classes
PATIENCE = 64  # forward passes for which a saved step waits for the optimizer, as gradients may be accumulated
Batch = TypeVar("Batch")
Array = npt.NDArray[Any]


def start(model: Any, loss: Any, optimizer: Any, *, out: Any, every: int | None) -> "Watcher":
    """Return a watcher of a training that begins now; `watch.watch` says what the arguments are.

    Raises TypeError or ValueError where one is of the wrong kind. Nothing later raises.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"watch: model must be a torch.nn.Module, but got {type(model).__name__}.")
    if not isinstance(loss, nn.Module | None):
        sentence = "Leave it out and pass each step's loss to watcher.loss(value)."
        raise TypeError(f"watch: loss must be a torch.nn.Module, but got {type(loss).__name__}. {sentence}")
    optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer] if optimizer is not None else []
    optimizers = [getattr(one, "optimizer", one) for one in optimizers]  # accelerate and others wrap it
    if not all(isinstance(one, Optimizer) for one in optimizers):
        raise TypeError(f"watch: optimizer must be a torch optimizer or several, but got {type(optimizer).__name__}.")
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"watch: every must be a whole number of at least 1, or None, but got {every!r}.")
    return Watcher(model, loss, optimizers, folder=_folder(out), every=every)


class StepWriter:
    """Writes one worker's saved steps in smdebug's layout (smdebug 1.0.34, core/locations.py)."""

    def __init__(self, folder: Path, *, worker: int = 0, workers: int = 1) -> None:
        self.folder, self.worker, self.workers = folder, f"worker_{worker}", workers

    def clear(self) -> None:
        """Remove what an earlier run left under this worker's name."""
        for pattern in (f"events/*/*_{self.worker}.tfevents", f"index/*/*_{self.worker}.json"):
            for path in self.folder.glob(pattern):
                path.unlink()
        for name in (f"{COLLECTIONS}/{self.worker}_collections.json", END_MARKER):
            (self.folder / name).unlink(missing_ok=True)

    def collections(self, members: Mapping[str, Iterable[str]]) -> None:
        """Say which tensors belong to which collection; losses are also found by smdebug's pattern."""
        reductions = {"save_raw_tensor": True, "reductions": "", "save_shape": False}
        usual = {"include_regex": [], "reduction_config": reductions, "save_histogram": False}
        found = {name: {"name": name, **usual, "tensor_names": sorted(names)} for name, names in members.items()}
        found["losses"]["include_regex"] = [LOSS_NAMES]
        document = {"collections": found, "_meta": {"num_workers": self.workers}}
        path = self.folder / "collections" / "000000000" / f"{self.worker}_collections.json"
        put(path, json.dumps(document))

    def write(self, step: tuple[int, str, int], tensors: Mapping[str, Array]) -> int:
        """Write a step (global number, mode, number within the mode) and return its bytes."""
        number, mode, mode_step = step
        events = f"events/{number:012d}/{number:012d}_{self.worker}.tfevents"
        index = self.folder / "index" / f"{number // 1000:09d}" / f"{number:012d}_{self.worker}.json"
        told = {"step": number, "mode": Mode[mode].value, "mode_step": mode_step}
        records, places, size = [], [], 0
        for name, value in tensors.items():
            records.append(encode(name, value, **told))
            places.append({"tensorname": name, "start_idx": size, "length": len(records[-1])})
            size += len(records[-1])
        meta = {"mode": mode, "mode_step": mode_step, "event_file_name": events}
        (self.folder / events).parent.mkdir(parents=True, exist_ok=True)
        index.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self.folder / events).write_bytes(b"".join(records))
            unfinished = index.with_suffix(".unfinished")
            unfinished.write_text(json.dumps({"meta": meta, "tensor_payload": places, "shape_payload": []}))
            unfinished.replace(index)
        except OSError:  # a full disk: what nobody can read takes no room
            (self.folder / events).unlink(missing_ok=True)
            raise
        return size

    def end(self) -> None:
        """Mark the end, so that readers stop waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / END_MARKER).touch()


class Budget:
    """Chooses the steps of one kind: every n-th, or as many as fit into a share of the time, fewer in a long run.

    After `kept` saved steps, and again after as many, or after 64 MB, every second one of the next is left out.
    """

    def __init__(self, share: float, every: int | None, kept: int) -> None:
        self.share, self.every, self.kept = share, every, kept
        self.stride, self.saved, self.size, self.spent = 1, 0, 0, -20 * share  # seconds; short trainings have a credit
        self.began = time.perf_counter()

    def allows(self, step: int) -> bool:
        """Whether the step is saved."""
        if self.every:
            return step % self.every == 0
        earned = self.share * (time.perf_counter() - self.began)
        self.spent = max(self.spent, earned - 40 * self.share)  # a long wait must not be followed by a burst
        return step % self.stride == 0 and self.spent <= earned

    def count(self, size: int) -> None:
        """A step of so many bytes has been saved."""
        self.saved, self.size = self.saved + 1, self.size + size
        if self.saved >= self.kept or self.size > 64e6:
            self.stride, self.saved, self.size = 2 * self.stride, 0, 0


@dataclass
class SavedStep:
    """A step that is being saved."""

    step: tuple[int, str, int]  # global number, mode, number within the mode
    budget: Budget
    whole: bool  # with weights, gradients and activations
    forwards: int = 1
    has_loss: bool = False
    tensors: dict[str, Array] = field(default_factory=dict)


def _safely(method: Callable[..., None]) -> Callable[..., None]:
    """The method of a Watcher, silent once anything failed in one, its time counted where a step is being saved."""

    @functools.wraps(method)
    def call(self: "Watcher", *arguments: Any) -> None:
        if self.off or torch.compiler.is_compiling():
            return
        began, before = time.perf_counter(), self.saving
        try:
            method(self, *arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the training
            self.give_up(error)
        if saving := before or self.saving:
            saving.budget.spent += time.perf_counter() - began

    return call


class Watcher:
    """Saves what a training does, and has it judged by a process beside it. Also a context manager."""

    def __init__(
        self, model: nn.Module, loss: nn.Module | None, optimizers: list[Any], *, folder: Path, every: int | None
    ) -> None:
        self.folder = folder  # the run's
        self.off: str | None = None  # why nothing is saved any more, in words
        self.saving: SavedStep | None = None
        self._model, self._loss, self._optimizers = model, loss, optimizers
        self._net, self._compiled = _unwrapped(model)
        self._top = type(self._net).__name__
        self._steps = {"TRAIN": 0, "EVAL": 0}
        self._whole = Budget(0.006, every, 100)
        self._light = {"TRAIN": Budget(0.003, every, 500), "EVAL": Budget(0.002, every, 500)}
        self._handles: list[Any] = []  # hooks of the whole training
        self._module_handles: list[Any] = []  # hooks of a step that is saved whole
        self._waits_for: set[int] = set()  # optimizers
        self._timeline: StepTimeline | None = None
        self._pid, self._closed, self._described = os.getpid(), False, False
        rank, workers = _rank()
        self._writer = StepWriter(folder / "tensors", worker=rank, workers=workers)
        self._observation: Observation | None = None
        try:
            self._writer.clear()
            self._register()
        except Exception as error:  # noqa: BLE001 - a folder that cannot be written, a model that takes no hooks
            self.give_up(error)
        if rank == 0 and not os.environ.get("WATCH_OBSERVED"):
            self._observation = Observation(folder).__enter__()
        atexit.register(self.close)

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def stop_requested(self) -> str | None:
        """The sentence of a rule with the action stop that has found something; the training may heed it."""
        return self._observation.stop_requested if self._observation else None

    @property
    def verdicts(self) -> dict[str, str]:
        """The status of each rule by name, as of now; final after close."""
        return self._observation.verdicts if self._observation else {}

    def batches(self, source: Iterable[Batch]) -> Iterator[Batch]:
        """The source's batches; the wait for each, and each step's time, are measured."""
        if self._timeline is None:
            self._timeline = StepTimeline(self.folder / "profile", node="algo-1")
        return self._timeline.batches(source, "TRAIN" if self._model.training else "EVAL")

    def loss(self, value: Tensor, scores: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Take the loss of the step, where no loss module was given; with scores and labels, their classes too."""
        self._see_loss("loss", None, (scores, labels), value)

    def close(self) -> None:
        """End the run: write what is left, wait for the verdicts and the report. Done at exit, if not before."""
        if self._closed or os.getpid() != self._pid:  # a forked process is not the training
            return
        self._closed = True
        atexit.unregister(self.close)
        self._end()
        if self._timeline:
            self._timeline.close()
        if self._observation:
            self._observation.conclude()

    def give_up(self, error: Exception) -> None:
        """Save nothing more, and say why."""
        self.off, self.saving = reason(error), None
        self._detach(self._handles, self._module_handles)
        say(f"Watch: no more tensors are saved, since that failed ({self.off}). The training goes on.")

    def _register(self) -> None:
        compiled = getattr(self._model, "_compiled_call_impl", None)
        if compiled is not None:  # model.compile(): its hooks would be compiled, too

            def call(*arguments: Any, **named: Any) -> Any:
                self._begin(self._model, arguments)
                output = compiled(*arguments, **named)
                self._see_output(self._model, arguments, output)
                return output

            self._model._compiled_call_impl = call
        else:
            self._handles.append(self._model.register_forward_pre_hook(self._begin))
            self._handles.append(self._model.register_forward_hook(self._see_output))
        if self._loss is not None:
            see = functools.partial(self._see_loss, type(self._loss).__name__)
            hook = lambda module, args, named, output: see(module, (*args, *named.values()), output)  # noqa: E731
            self._handles.append(self._loss.register_forward_hook(hook, with_kwargs=True))
        self._handles.append(register_optimizer_step_pre_hook(lambda one, args, named: self._see_optimizer(one)))

    @_safely
    def _begin(self, module: nn.Module, arguments: Any) -> None:
        """A forward pass begins: count the step, and choose whether it is saved."""
        mode = "TRAIN" if self._model.training else "EVAL"
        mode_step, number = self._steps[mode], sum(self._steps.values())
        self._steps[mode] += 1
        saving = self.saving
        if saving is not None:
            waits = saving.whole and saving.step[1] == mode == "TRAIN" and saving.forwards < PATIENCE
            if waits and (self._waits_for or not self._optimizers):
                saving.forwards += 1
                return
            self._write()
        whole = mode == "TRAIN" and self._whole.allows(mode_step)
        budget = self._whole if whole else self._light[mode]
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if capturing or not (whole or budget.allows(mode_step)):  # nothing of ours may get into a CUDA graph
            return
        self.saving = SavedStep((number, mode, mode_step), budget, whole)
        if not whole:
            return
        images = arguments[0] if arguments and isinstance(arguments[0], Tensor) else torch.empty(0)
        if images.ndim == 4 and images.shape[1] in (1, 3) and images.is_floating_point():
            means = images.detach().mean(dim=(2, 3), keepdim=True)  # images of one pixel, for CheckInputImages
            self.saving.tensors["input_image"] = as_array(means)
        self._waits_for = {id(one) for one in self._optimizers}
        self._detach(self._module_handles)
        for name, module in () if self._compiled else self._net.named_modules():
            kind, see = ACTIVATIONS.get(type(module).__name__), functools.partial(self._see_activation, name)
            if kind:
                self._module_handles.append(module.register_forward_pre_hook(see))
            if kind == "relu":
                self._module_handles.append(module.register_forward_hook(see))

    @_safely
    def _see_activation(self, name: str, module: nn.Module, arguments: tuple[Any, ...], *output: Any) -> None:
        end, value = ("output", output[0]) if output else ("input", arguments[0] if arguments else None)
        if self.saving and isinstance(value, Tensor):
            for call in range(4):  # a module may be called several times in one pass
                if (full := f"{name}_{end}_{call}") not in self.saving.tensors:
                    self.saving.tensors[full] = as_array(value, axis=1 if value.ndim == 4 else -1)
                    break

    @_safely
    def _see_output(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._detach(self._module_handles)
        name = f"{self._top}_output_0"
        if self.saving and self.saving.whole and isinstance(output, Tensor) and name not in self.saving.tensors:
            self.saving.tensors[name] = as_array(output, axis=1 if output.ndim == 4 else -1)

    @_safely
    def _see_loss(self, name: str, module: nn.Module | None, arguments: tuple[Any, ...], output: Any) -> None:
        saving, output = self.saving, output[0] if isinstance(output, tuple | list) and output else output
        if saving is None or saving.has_loss or not isinstance(output, Tensor):
            return
        saving.has_loss = True
        saving.tensors[f"{name}_output_0"] = as_array(output)
        saving.tensors |= dict(zip(("labels", "predictions"), _classes(module, arguments) or (), strict=False))
        if not saving.whole:
            self._write()

    @_safely
    def _see_optimizer(self, optimizer: Any) -> None:
        """An optimizer is about to step: its gradients are complete, and scaled back where a scaler is used."""
        saving = self.saving
        if saving is None or not saving.whole:
            return
        own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        names = {id(parameter): name for name, parameter in self._net.named_parameters()}
        if not self._optimizers and any(id(parameter) in names for parameter in own):
            self._optimizers.append(optimizer)
        if not any(one is optimizer for one in self._optimizers):
            return
        last = self._waits_for <= {id(optimizer)}
        for parameter in (*own, *(self._net.parameters() if last else ())):
            name = f"gradient/{self._top}_{names.get(id(parameter))}"
            if id(parameter) in names and parameter.grad is not None and name not in saving.tensors:
                saving.tensors[name] = as_array(parameter.grad, _limit(len(names)))
        self._waits_for.discard(id(optimizer))
        if last and saving.has_loss:
            self._write()

    def _write(self) -> None:
        """Write the step that is being saved, with the weights as they are now."""
        saving = self.saving
        assert saving is not None
        tensors, self.saving = saving.tensors, None
        if not self._described:
            self._described = True
            self._writer.collections(self._collections())
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for position, group in enumerate(groups if saving.step[1] == "TRAIN" else ()):
            tensors[f"learning_rate_{position}"] = np.array(float(group["lr"]))
        if saving.whole:
            named = dict(self._net.named_parameters())
            tensors |= {f"{self._top}_{name}": as_array(one, _limit(len(named))) for name, one in named.items()}
        if tensors:
            saving.budget.count(self._writer.write(saving.step, tensors))

    @_safely
    def _end(self) -> None:
        if self.saving:
            self._write()
        self._detach(self._handles, self._module_handles)
        self._writer.end()
        self.off = "the run was closed"

    def _collections(self) -> dict[str, set[str]]:
        """Collection -> names of its tensors."""
        own = {f"{self._top}_{name}": one for name, one in self._net.named_parameters()}
        biases = {name for name in own if name.rpartition(".")[2].endswith("bias") or name.endswith("_bias")}
        norms = {
            f"{self._top}_{name}.{parameter}".replace("_.", "_")
            for name, module in self._net.named_modules()
            if isinstance(module, NORMS) or "norm" in type(module).__name__.lower()
            for parameter, _ in module.named_parameters(recurse=False)
        }
        found = {
            "losses": set() if self._loss is None else {f"{type(self._loss).__name__}_output_0"},
            "gradients": {f"gradient/{name}" for name in own},
            "weights": own.keys() - biases,
            "biases": biases,
            "frozen": {name for name, one in own.items() if not one.requires_grad},
            "norms": norms | {f"gradient/{name}" for name in norms},
            "outputs": {f"{self._top}_output_0"},
            "labels": {"labels"},
            "predictions": {"predictions"},
            "learning_rate": {f"learning_rate_{position}" for position in range(64)},
            **{name: set() for name in ("relu_input", "relu_output", "tanh_input", "sigmoid_input")},
        }
        for name, module in self._net.named_modules():
            kind = ACTIVATIONS.get(type(module).__name__)
            for end in ("input", "output"):
                found.get(f"{kind}_{end}", set()).update(f"{name}_{end}_{call}" for call in range(4))
        return found

    @staticmethod
    def _detach(*lists: list[Any]) -> None:
        for handles in lists:
            while handles:
                handles.pop().remove()


def _limit(parameters: int) -> int:
    """How many values of one parameter are kept, of so many parameters."""
    return min(LARGEST, max(1024, LARGEST_STEP // max(1, 2 * parameters)))


def as_array(tensor: Tensor, limit: int = LARGEST, *, axis: int | None = None) -> Array:
    """Return a copy of at most about `limit` values, every n-th along each axis, `axis` last; floats as float32."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    strides = [1] * tensor.ndim
    sizes = list(tensor.shape)
    while int(np.prod(sizes, dtype=np.int64)) > limit:
        others = [i for i in range(tensor.ndim) if sizes[i] > 1 and (axis is None or i != axis % tensor.ndim)]
        longest = max(others, key=lambda i: sizes[i]) if others else int(np.argmax(sizes))
        strides[longest] *= 2
        sizes[longest] = -(-tensor.shape[longest] // strides[longest])
    kept = tensor.detach()[tuple(slice(None, None, stride) for stride in strides)]
    dtype = torch.float32 if kept.is_floating_point() or kept.is_complex() else kept.dtype
    return (kept.real if kept.is_complex() else kept).to("cpu", dtype, copy=True).numpy()


def _classes(loss: nn.Module | None, arguments: tuple[Any, ...]) -> tuple[Array, Array] | None:
    """Labels and predicted classes, (N,) int64 each, of what a loss was given; None where these are no classes."""
    if len(arguments) < 2 or not all(isinstance(argument, Tensor) for argument in arguments[:2]):
        return None
    scores, labels = arguments[0].detach(), arguments[1].detach()
    if not scores.is_floating_point() or scores.ndim == 0:
        return None
    if type(loss).__name__ in ("BCELoss", "BCEWithLogitsLoss"):
        if scores.shape != labels.shape or scores.numel() != len(scores):  # several classes at once are no class
            return None
        limit = 0.5 if type(loss).__name__ == "BCELoss" else 0.0
        labels, predictions = (labels > 0.5).long(), (scores > limit).long()
    elif scores.ndim > 1 and 1 < scores.shape[1] <= MOST_CLASSES:
        if isinstance(loss, nn.CrossEntropyLoss) and labels.shape == scores.shape:
            labels = labels.argmax(dim=1)  # probabilities
        if labels.is_floating_point() or labels.shape != scores.shape[:1] + scores.shape[2:]:
            return None
        predictions = scores.argmax(dim=1)
    else:
        return None
    labels, predictions = labels.flatten()[:KEPT_CLASSES], predictions.flatten()[:KEPT_CLASSES]
    known = labels != getattr(loss, "ignore_index", -100)
    return as_array(labels[known].long()), as_array(predictions[known])


def _unwrapped(model: nn.Module) -> tuple[nn.Module, bool]:
    """Return the user's own network, and whether it is compiled."""
    compiled = getattr(model, "_compiled_call_impl", None) is not None
    while True:
        if hasattr(model, "_orig_mod"):
            model, compiled = model._orig_mod, True  # type: ignore[assignment]
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model, compiled


def _rank() -> tuple[int, int]:
    """Return the number of this process among those of the training, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _folder(out: Any) -> Path:
    """The run's folder; the same for all processes that one torchrun started."""
    if out or os.environ.get("WATCH_DIR"):
        return Path(out or os.environ["WATCH_DIR"]).absolute()
    began = psutil.Process(os.getppid()).create_time() if "RANK" in os.environ else time.time()
    name = time.strftime("%Y%m%d-%H%M%S", time.localtime(began))
    folder = Path("watch").absolute() / name
    return folder if "RANK" in os.environ or not folder.exists() else folder.with_name(f"{name}-{os.getpid()}")
