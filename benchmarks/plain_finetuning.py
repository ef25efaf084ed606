"""What is compared with: fine-tuning as a script of one page does it.

Plain PyTorch, eager, in one process: the loader's processes decode the original files, crop at random and flip; all
layers learn under AdamW on a one-cycle schedule, the new layer faster than the body; batch norms keep the statistics
that came with the weights. Validation is at the centre crop, once, after the last epoch.
"""

import time
from dataclasses import dataclass

import torch
from seed_method import Example, Images, centre_crop
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

BODY_LR, HEAD_LR = 5e-4, 3e-3  # peaks of the cycle
Loader = DataLoader[tuple[Tensor, Tensor]]  # (B, 3, H, W) float32, (B,) int64


@dataclass(frozen=True)
class Settings:
    """Of one training."""

    classes: int
    image_size: int  # px, of the random crops
    validation_image_size: int  # px
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    epochs: int
    batch_size: int
    seed: int
    workers: int  # of the loader
    channels_last: bool


@dataclass(frozen=True)
class Trained:
    """What the script took and gave."""

    seconds: float
    validation_accuracy: float


def random_crop(image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> transforms.Compose:
    """A part of the image at a side in px, flipped half the times; normalised."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def fine_tune(body: nn.Module, train: list[Example], validation: list[Example], settings: Settings) -> Trained:
    """One training of the body, which is changed, and of a new layer on it, and a validation; timed.

    Args:
        body: (N, 3, H, W) float32 -> (N, D) float32.
    """
    torch.manual_seed(settings.seed)
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    example = torch.zeros(1, 3, settings.image_size, settings.image_size)
    width = body.eval()(example).shape[1]
    network = nn.Sequential(body.requires_grad_(True), nn.Linear(width, settings.classes))
    network = network.to(device, memory_format=layout)
    crops = Images(train, random_crop(settings.image_size, settings.mean, settings.std))
    loader = DataLoader(crops, batch_size=settings.batch_size, shuffle=True, num_workers=settings.workers)
    learn(network, loader, settings.epochs, device)
    right = accuracy(network, validation, settings, device)
    return Trained(time.perf_counter() - began, right)


def learn(network: nn.Sequential, loader: Loader, epochs: int, device: str) -> None:
    """All epochs."""
    body, layer = network
    optimizer = torch.optim.AdamW([{"params": body.parameters()}, {"params": layer.parameters()}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=[BODY_LR, HEAD_LR], total_steps=epochs * len(loader)
    )
    for _ in range(epochs):
        for module in network.train().modules():
            if isinstance(module, nn.BatchNorm2d):  # keeps the statistics that came with the weights
                module.eval()
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, examples: list[Example], settings: Settings, device: str) -> float:
    """Share that is classified as it should be."""
    images_seen = Images(examples, centre_crop(settings.validation_image_size, settings.mean, settings.std))
    network.eval()
    correct = 0
    for images, labels in DataLoader(images_seen, batch_size=settings.batch_size, num_workers=settings.workers):
        correct += int((network(images.to(device)).argmax(dim=1).cpu() == labels).sum())
    return correct / len(examples)
