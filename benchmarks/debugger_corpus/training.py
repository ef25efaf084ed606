"""One small training in plain PyTorch, as anybody's script: its settings, what can be wrong with it, its loop.

python benchmarks/debugger_corpus/training.py --fault "learning rate 0" --network cnn --seed 0 --out FOLDER
"""

import argparse
import importlib
import itertools
import math
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text())


@dataclass
class Training:
    """A model, its data (features and labels of the training, then of the validation) and how it learns."""

    model: nn.Module
    data: tuple[Tensor, ...]
    optimizer: Callable[..., torch.optim.Optimizer]  # of parameters and lr
    lr: float
    loss: Callable[..., Tensor] = field(default_factory=nn.CrossEntropyLoss)
    epochs: int = 10
    batch_size: int = 32
    clip: float = 0.0  # the gradients' norm
    warmup: int = 0  # steps; with them, a cosine down to 0 follows
    restarts: int = 0  # of a cosine
    accumulate: int = 1  # batches for one step of the optimizer
    mixup: float = 0.0  # the Beta distribution's parameter
    validate: bool = True
    batches: bool = True  # the loop goes through watcher.batches
    smdebug: bool = False  # its own hook instead of watch
    optimized: tuple[str, ...] = ("",)  # the optimizer gets the parameters whose names begin so
    load_seconds: float = 0.0  # of one batch
    stall_seconds: float = 0.0  # once, in the middle


def change(training: Training, data: dict[str, float], model: dict[str, Any], settings: dict[str, Any]) -> None:
    """Make a fault of what cases.toml says."""
    train, validation = training.data[:2], training.data[2:]
    training.data = (*changed(*train, **data), *changed(*validation, **{**data, "examples": None, "wrong": 0}))
    change_model(training.model, **model)
    for name, value in settings.items():
        setattr(training, name, tuple(value) if isinstance(value, list) else value)


def changed(
    features: Tensor,
    labels: Tensor,
    *,
    inputs: float = 1,
    targets: float = 1,
    examples: int | None = None,
    wrong: float = 0,
    rest: float = 1,
) -> tuple[Tensor, Tensor]:
    """Only the first examples, of every class but the first only a share (`rest`), another's label for a share
    (`wrong`); inputs and targets times a factor."""
    mixed, others, labels = torch.rand(len(labels)) < wrong, labels[torch.randperm(len(labels))], labels.clone()
    labels[mixed] = others[mixed]
    kept = (labels == 0) | (torch.rand(len(labels)) < rest) if rest < 1 else slice(examples)
    features, labels = features[kept], labels[kept]
    return features if inputs == 1 else features * inputs, labels if targets == 1 else labels * targets


def change_model(
    model: nn.Module,
    *,
    weights: float | None = None,
    times: float = 1,
    biases: float | None = None,
    sigmoids: bool = False,
    frozen: Iterable[str] = (),
) -> None:
    """All weights begin with the same value, or so many times as large; biases of all layers but the last begin with a
    value; sigmoids for ReLUs; parameters whose names begin with one of `frozen` do not require gradients."""
    for name, found in model.named_parameters():
        if found.ndim > 1:
            found.data = found.data * times if weights is None else torch.full_like(found, weights)
        found.requires_grad_(found.requires_grad and not name.startswith(tuple(frozen)))
    found_layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in found_layers[:-1] if biases is not None else ():
        layer.bias.data.fill_(biases)
    for parent in list(model.modules()) if sigmoids else ():
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Sigmoid())


class Smdebug:
    """What a user of smdebug writes around a training."""

    def __init__(self, model: nn.Module, loss: nn.Module, out: Path) -> None:
        import smdebug.pytorch as smdebug

        self.model, self.modes = model, smdebug.modes
        self.hook = smdebug.Hook(
            out_dir=str(out / "tensors"),
            save_config=smdebug.SaveConfig(save_interval=10),
            include_collections=["losses", "gradients", "weights", "biases"],
            include_regex=[".*relu.*put"],
        )
        self.hook.register_module(model)
        self.hook.register_loss(loss)
        self.close = self.hook.close

    def batches(self, loader: Any) -> Any:
        """The loader, after smdebug was told the mode."""
        self.hook.set_mode(self.modes.TRAIN if self.model.training else self.modes.EVAL)
        return loader


def rate(step: int, *, warmup: int, restarts: int, steps: int) -> float:
    """The share of the learning rate: constant, or rising for `warmup` steps and then a cosine to 0, or several."""
    part = step % (steps // restarts) * restarts if restarts else min(step, steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * part / steps)
    return min((step + 1) / max(1, warmup), cosine) if warmup or restarts else 1.0


def mixed(examples: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Each example mixed with another one, and so its label."""
    share, order = float(torch.distributions.Beta(strength, strength).sample()), torch.randperm(len(labels))
    soft = nn.functional.one_hot(labels).float()
    return examples.lerp(examples[order], share), soft.lerp(soft[order], share)


def collated(batch: list[Any], *, seconds: float) -> Any:
    """A batch that takes its time."""
    time.sleep(seconds)
    return default_collate(batch)


def compared(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As a loss takes them: of a sequence, each place is an example."""
    return (outputs.flatten(0, 1), labels.flatten()) if outputs.ndim == 3 else (outputs, labels)


def train(training: Training, out: Path) -> None:
    """The loop, with the watcher in it."""
    model, loss = training.model, training.loss
    collate = partial(collated, seconds=training.load_seconds)
    loader = DataLoader(TensorDataset(*training.data[:2]), training.batch_size, shuffle=True, collate_fn=collate)
    validation = DataLoader(TensorDataset(*training.data[2:]), 128)
    parameters = [found for name, found in model.named_parameters() if name.startswith(training.optimized)]
    optimizer = training.optimizer(parameters, lr=training.lr)
    steps = training.epochs * len(loader)
    share = partial(rate, warmup=training.warmup, restarts=training.restarts, steps=steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    if training.smdebug:
        watcher: Any = Smdebug(model, loss, out)  # type: ignore[arg-type]
    else:
        from watch import watch

        watcher = watch(model, loss if isinstance(loss, nn.Module) else None, optimizer, out=out)
    batches, step = watcher.batches if training.batches else iter, itertools.count()
    for epoch in range(training.epochs):
        model.train()
        losses, validation_losses, right = list[float](), list[float](), list[float]()
        for examples, labels in batches(loader):
            if (number := next(step)) == steps // 2:
                time.sleep(training.stall_seconds)
            if training.mixup:
                examples, labels = mixed(examples, labels, training.mixup)
            found = loss(*compared(model(examples), labels))
            if not isinstance(loss, nn.Module):
                watcher.loss(found)
            if found.requires_grad:
                (found / training.accumulate).backward()
            if training.clip:
                nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            if (number + 1) % training.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
            losses.append(float(found.detach()))
        model.eval()
        with torch.no_grad():
            for examples, labels in batches(validation) if training.validate else ():
                outputs, labels = compared(model(examples), labels)
                validation_losses.append(float(loss(outputs, labels)))
                if labels.ndim == 1:  # classes
                    right.append(float((outputs.argmax(-1) == labels).float().mean()))
        means = [f"{fmean(found):.4g}" for found in (losses, validation_losses, right) if found]
        print(f"epoch {epoch}, training and validation loss, accuracy:", *means, flush=True)
    watcher.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=CASES, default="tuning", help="of trainings (tuning)")
    parser.add_argument("--fault", required=True, help="of cases.toml")
    parser.add_argument("--network", required=True, help="of the set's module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    training = importlib.import_module(asked.set).NETWORKS[asked.network]()
    settings = dict(CASES[asked.set][asked.fault]["networks"][asked.network])
    change(training, settings.pop("data", {}), settings.pop("model", {}), settings)
    train(training, asked.out)


if __name__ == "__main__":
    main()
