"""The networks that the rules' defaults are tuned on, each with data and an optimizer that suit it."""

import importlib.util
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from training import Training

SGD = partial(torch.optim.SGD, momentum=0.9)
ADAM, ADAMW = torch.optim.Adam, torch.optim.AdamW
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def parts(features: Tensor, labels: Tensor, train: int) -> Data:
    """Features and labels of the first examples, to learn from, and of the rest, to validate with."""
    return features[:train], labels[:train], features[train:], labels[train:]


def digits(*shape: int) -> Data:
    """scikit-learn's 1,797 images of 8 x 8, from 0 to 1. Importing the package would take two seconds."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    rows = rows[torch.randperm(len(rows))]
    return parts(rows[:, :64].reshape(-1, *shape) / 16, rows[:, 64].long(), 1300)


def function() -> Data:
    """2,000 points of a smooth function of 8 variables, with noise."""
    points = torch.randn(2000, 8)
    values = torch.sin(2 * points[:, :1]) + points[:, 1:2] * points[:, 2:3] + 0.1 * torch.randn(2000, 1)
    return parts(points, values, 1500)


def most_frequent() -> Data:
    """2,000 sequences of 16 of 20 tokens; the label is the one of the first four that stands there more often."""
    labels, tokens = torch.randint(0, 4, (2000,)), torch.randint(0, 20, (2000, 16))
    return parts(torch.where(torch.rand(2000, 16) < 0.3, labels[:, None], tokens), labels, 1500)


def text() -> Data:
    """1,200 pieces of 24 characters of a made-up language: each of 20 characters has three that often follow."""
    followers, pieces = torch.randint(0, 20, (20, 3)), torch.randint(0, 20, (1200, 25))
    for place in range(24):
        usual = followers[pieces[:, place], torch.randint(0, 3, (1200,))]
        pieces[:, place + 1] = torch.where(torch.rand(1200) < 0.9, usual, pieces[:, place + 1])
    return parts(pieces[:, :-1], pieces[:, 1:], 1000)


def layers(*widths: int, activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Fully connected layers with an activation between them."""
    found: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        found += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), activation()]
    return nn.Sequential(*found[: -2 if norm else -1])


class Convolutions(nn.Module):
    """Two convolutions and two layers, each ReLU an attribute whose name says so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 12, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()
        self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout(0.3)
        self.fc1, self.relu3, self.fc2 = nn.Linear(24 * 16, 64), nn.ReLU(), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        found = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(images)))))
        return self.fc2(self.relu3(self.fc1(self.drop(found.flatten(1)))))


class Transformer(nn.Module):
    """Attention over tokens: one label of the whole sequence, or (causal) the next token of each place."""

    def __init__(self, outputs: int, *, blocks: int, causal: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        block = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=causal)
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.norm, self.head, self.causal = nn.LayerNorm(32), nn.Linear(32, outputs), causal

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.causal else None
        found = self.norm(self.blocks(self.tokens(tokens) + self.places[:length], mask=mask, is_causal=self.causal))
        return self.head(found if self.causal else found.mean(1))


def fine_tuned() -> Training:
    """Convolutions that have learned six digits; a new last layer learns all ten, and nothing else does."""
    model, data = Convolutions(), digits(1, 8, 8)
    images, labels = (found[data[1] < 6] for found in data[:2])
    optimizer = ADAM(model.parameters(), lr=0.002)
    for chosen in torch.randperm(len(labels)).repeat(4).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    model.requires_grad_(False)
    model.fc2 = nn.Linear(64, 10)
    return Training(model, data, ADAM, 0.005, optimized=("fc2",))


def mlp(**settings: bool) -> Training:
    return Training(layers(64, 128, 64, 10), digits(64), SGD, 0.05, **settings)


def deep(**settings: bool) -> Training:
    model = layers(64, *[48] * 8, 10)
    for weight in [found for found in model.parameters() if found.ndim > 1]:
        nn.init.kaiming_normal_(weight)
    return Training(model, digits(64), ADAM, 0.001, **settings)


def regression(activation: type[nn.Module] = nn.ReLU) -> Training:
    return Training(layers(8, 64, 64, 1, activation=activation), function(), SGD, 0.01, nn.MSELoss())


def transformer() -> Training:
    model, loss = Transformer(4, blocks=1, causal=False), nn.CrossEntropyLoss(label_smoothing=0.1)
    return Training(model, most_frequent(), ADAMW, 0.001, loss, epochs=6, clip=1.0, warmup=40)


def gpt() -> Training:
    return Training(Transformer(20, blocks=2, causal=True), text(), ADAMW, 0.002, epochs=5, clip=1.0, warmup=20)


NETWORKS = {
    "mlp": mlp,
    "mlp, smdebug": partial(mlp, validate=False, smdebug=True),
    "mlp, Adam": lambda: Training(layers(64, 100, 10), digits(64), ADAM, 0.002, validate=False, batches=False),
    "tanh": lambda: Training(layers(64, 64, 64, 10, activation=nn.Tanh), digits(64), SGD, 0.05, epochs=8),
    "cnn": lambda: Training(Convolutions(), digits(1, 8, 8), SGD, 0.03, epochs=6),
    "cnn, smdebug": lambda: Training(Convolutions(), digits(1, 8, 8), ADAM, 0.002, epochs=6, smdebug=True),
    "batch norm": lambda: Training(layers(64, *[48] * 8, 10, norm=True), digits(64), ADAM, 0.003, epochs=8),
    "deep": deep,
    "deep, smdebug": partial(deep, smdebug=True),
    "regression": regression,
    "regression, tanh": partial(regression, nn.Tanh),
    "transformer": transformer,
    "gpt": gpt,
    "fine-tuned": fine_tuned,
}
