"""The networks of the set on which no rule was tuned: other layers, data, losses and optimizers than the other sets."""

from functools import partial
from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor, nn
from torch.nn import functional
from training import Training
from tuning import Data, Transformer, digits, layers, parts

PLAIN = torch.optim.SGD


def english() -> Data:
    """1,700 pieces of 30 characters of Python's own help, and of each character the next one."""
    read = [min(max(ord(char) - 96, 0), 27) for char in Path(topics.__file__).read_text().lower()[4000:]]
    tokens = torch.tensor(read[: 1700 * 31]).view(1700, 31)[torch.randperm(1700)]
    return parts(tokens[:, :-1], tokens[:, 1:], 1400)


def discs() -> Data:
    """700 noisy images of 16 x 16 with one to three discs, and which pixels belong to one."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centers, radii = 16 * torch.rand(700, 3, 2), 1 + 3 * torch.rand(700, 3)
    away = (y - centers[..., 0, None, None]) ** 2 + (x - centers[..., 1, None, None]) ** 2
    masks = (away < radii[..., None, None] ** 2).any(1)[:, None].float()
    return parts(masks + 0.6 * torch.randn(700, 1, 16, 16), masks, 500)


def shapes() -> Data:
    """1,200 coloured images of 14 x 14: a disc, a frame, a cross or a line somewhere in noise."""
    labels, moved = torch.randint(0, 4, (1200,)), torch.randint(4, 10, (1200, 2))
    y, x = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    y, x = (y - moved[:, :1, None]).abs(), (x - moved[:, 1:, None]).abs()
    near = torch.maximum(y, x) < 4
    kinds = torch.stack([y**2 + x**2 < 12, torch.maximum(y, x) == 3, near & ((y == 0) | (x == 0)), near & (y == x)])
    images = (0.5 + torch.rand(1200, 3, 1, 1)) * kinds[labels, torch.arange(1200)][:, None]
    return parts(images + 0.4 * torch.randn(1200, 3, 14, 14), labels, 900)


def tags() -> Data:
    """1,500 rows of 40 measurements and which of six tags hold of them."""
    rows = torch.randn(1500, 40)
    return parts(rows, (torch.tanh(rows @ torch.randn(40, 12)) @ torch.randn(12, 6) > 1).float(), 1100)


def tails() -> Data:
    """1,600 rows of 5 measurements and a value with noise of heavy tails (Student's t, two degrees of freedom)."""
    rows, noise = torch.rand(1600, 5), torch.distributions.StudentT(2.0).sample((1600, 1))
    return parts(rows, 4 * (3 * rows[:, :1]).sin() * rows[:, 1:2] + 2 * rows[:, 2:3] + 0.3 * noise, 1200)


def learn(model: nn.Module, features: Tensor, labels: Tensor) -> None:
    """Eight epochs before the training."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for chosen in torch.randperm(len(labels)).repeat(8).split(50):
        optimizer.zero_grad()
        functional.cross_entropy(model(features[chosen]), labels[chosen]).backward()
        optimizer.step()


class Gru(nn.Module):
    """The next character of each place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.head = nn.Embedding(28, 24), nn.GRU(24, 64, batch_first=True), nn.Linear(64, 28)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


class Unet(nn.Module):
    """Down to half the size and up again, beside what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        deep = nn.Conv2d(8, 16, 3, padding=1)
        self.bottom = nn.Sequential(nn.MaxPool2d(2), deep, nn.ReLU(), nn.Upsample(scale_factor=2))
        self.up = nn.Sequential(nn.Conv2d(24, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        wide = self.down(images)
        return self.up(torch.cat([wide, self.bottom(wide)], 1))


class Overlap(nn.Module):
    """Binary cross-entropy plus Dice's loss."""

    def forward(self, outputs: Tensor, masks: Tensor) -> Tensor:
        both = 2 * (outputs.sigmoid() * masks).sum() / (outputs.sigmoid() + masks).sum()
        return functional.binary_cross_entropy_with_logits(outputs, masks) + 1 - both


class Pinball(nn.Module):
    """The loss of a 0.8 quantile."""

    def forward(self, outputs: Tensor, values: Tensor) -> Tensor:
        return torch.maximum(0.8 * (values - outputs), 0.2 * (outputs - values)).mean()


def contrast(outputs: Tensor, labels: Tensor) -> Tensor:
    """How much nearer than others each example's own class is (supervised contrastive loss)."""
    found = functional.normalize(outputs, dim=1)
    near = (found @ found.T / 0.2).masked_fill(torch.eye(len(found), dtype=torch.bool), -1e9).log_softmax(1)
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    return -(near * same).sum() / same.sum().clamp(min=1)


def vit() -> Training:
    model, (images, labels, *validation) = Transformer(10, blocks=2, causal=False), digits(4, 2, 4, 2)
    model.tokens = nn.Linear(4, 32)  # type: ignore[assignment]
    images, validation[0] = (found.transpose(2, 3).reshape(-1, 16, 4) for found in (images, validation[0]))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    return Training(model, (images, labels, *validation), torch.optim.AdamW, 0.003, loss, epochs=6, warmup=30)


def convolutions(*, weights: Tensor | None = None, learned: bool = False, **settings: float) -> Training:
    """With group norm; `learned`: all but a new last layer has learned the shapes before, and stays as it is."""
    found, data = list[nn.Module](), shapes()
    for before, after in ((3, 16), (16, 16), (16, 32)):
        found += [nn.Conv2d(before, after, 3, 2 if after == 32 else 1, 1), nn.GroupNorm(4, after), nn.ReLU()]
    model = nn.Sequential(*found, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4))
    if learned:
        learn(model, *data[:2])
        model.requires_grad_(False)
        model[-1] = nn.Linear(128, 4)
    optimizer = partial(torch.optim.RMSprop, momentum=0.8)
    return Training(model, data, optimizer, 0.001, nn.CrossEntropyLoss(weights), epochs=6, batch_size=60, **settings)


def tagging(*widths: int, activation: type[nn.Module] = nn.ReLU) -> Training:
    model = layers(40, *widths, 6, activation=activation)
    return Training(model, tags(), torch.optim.Adamax, 0.006, nn.BCEWithLogitsLoss(), epochs=6)


def forecast(loss: nn.Module, **settings: float) -> Training:
    model = layers(5, 50, 50, 1, activation=nn.ELU)
    return Training(model, tails(), PLAIN, 0.05, loss, epochs=12, batch_size=40, **settings)


NETWORKS = {
    "gru": lambda: Training(Gru(), english(), torch.optim.RAdam, 0.01, epochs=4, batch_size=50, clip=0.5),
    "unet": lambda: Training(Unet(), discs(), torch.optim.Adamax, 0.01, Overlap(), epochs=6, batch_size=25),
    "vit": vit,
    "group norm": convolutions,
    "group norm, mixup": partial(convolutions, mixup=0.3),
    "group norm, frozen on purpose": partial(convolutions, learned=True),
    "group norm, weighted loss": partial(convolutions, weights=torch.tensor([1.0, 1.0, 1.0, 300.0])),
    "tags": partial(tagging, 80, 80),
    "tags, tanh": partial(tagging, 80, 80, activation=nn.Tanh),
    "tags, ten layers": partial(tagging, *[56] * 9),
    "quantiles": partial(forecast, Pinball(), restarts=3),
    "squares": partial(forecast, nn.MSELoss()),
    "contrast": lambda: Training(layers(64, 96, 16), digits(64), torch.optim.RAdam, 0.01, contrast, batch_size=128),
}
