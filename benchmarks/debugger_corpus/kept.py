"""The networks of the second set: other layers, data, losses and optimizers than tuning.py has."""

from functools import partial

import torch
from torch import Tensor, nn
from training import Training
from tuning import Data, layers, parts

NESTEROV = partial(torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=1e-4)


def stripes() -> Data:
    """1,500 grey images of 12 x 12 in five classes, by the direction of their stripes; much noise."""
    labels, shift = torch.randint(0, 5, (1500,)), 6 * torch.rand(1500, 1, 1)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    angle = (labels * torch.pi / 5)[:, None, None]
    images = torch.sin(1.5 * (x * angle.cos() + y * angle.sin()) + shift) + 1.5 * torch.randn(1500, 12, 12)
    return parts(images[:, None], labels, 1100)


def waves() -> Data:
    """1,200 series of 20 values and two channels in four classes: by frequency, and which channel comes first."""
    labels, time = torch.randint(0, 4, (1200,)), torch.arange(20.0)[None]
    phase = time * (0.5 + 0.4 * (labels % 2))[:, None] + 6 * torch.rand(1200, 1)
    late = torch.where(labels < 2, 1.0, -1.0)[:, None]
    series = torch.stack([phase.sin(), (phase + late).sin()], 2) + 0.7 * torch.randn(1200, 20, 2)
    return parts(series, labels, 900)


def documents() -> Data:
    """2,400 texts of 30 of 300 words in six topics, each with 25 words of its own."""
    labels, words = torch.randint(0, 6, (2400,)), torch.randint(0, 300, (2400, 30))
    topical = 25 * labels[:, None] + torch.randint(0, 25, (2400, 30))
    return parts(torch.where(torch.rand(2400, 30) < 0.2, topical, words), labels, 2000)


def patients() -> Data:
    """900 rows of 12 measurements and whether a patient is ill, as 0.0 or 1.0."""
    rows = torch.randn(900, 12) @ torch.randn(12, 12)
    ill = rows[:, :3].sum(1) + rows[:, 3] * rows[:, 4] / 3 + torch.randn(900) > 1
    return parts((rows - rows.mean(0)) / rows.std(0), ill.float()[:, None], 650)


def prices() -> Data:
    """1,000 rows of 6 measurements and a price that grows with some and falls with others."""
    rows = torch.rand(1000, 6)
    values = 2 * rows[:, :1].exp() - 3 * rows[:, 1:2] * rows[:, 2:3] + (5 * rows[:, 3:4]).cos()
    return parts(rows, values + 0.2 * torch.randn(1000, 1), 700)


def pictures() -> Data:
    """What an autoencoder learns to give back: images that six numbers make."""
    images = torch.sigmoid(torch.randn(1500, 6) @ torch.randn(6, 100)) + 0.02 * torch.randn(1500, 100)
    return parts(images, images, 1200)


class Residual(nn.Module):
    """Three blocks of convolutions with batch norm, each added to what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 12, 3, padding=1, stride=2), nn.Linear(12, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()) for _ in range(3)
        )

    def forward(self, images: Tensor) -> Tensor:
        found = self.stem(images)
        for block in self.blocks:
            found = found + block(found)
        return self.head(found.mean((2, 3)))


class Mixer(nn.Module):
    """Nine patches of an image, mixed over places and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(1, 32, 4, stride=4), nn.Linear(32, 5)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.over_places = nn.ModuleList(layers(9, 32, 9, activation=nn.GELU) for _ in range(2))
        self.over_channels = nn.ModuleList(layers(32, 64, 32, activation=nn.GELU) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        found = self.patches(images).flatten(2).transpose(1, 2)
        for index in range(2):
            found = found + self.over_places[index](self.norms[index](found).transpose(1, 2)).transpose(1, 2)
            found = found + self.over_channels[index](self.norms[index + 2](found))
        return self.head(found.mean(1))


class Recurrent(nn.Module):
    """An LSTM whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.lstm(series)[0][:, -1])


def texts(**settings: bool) -> Training:
    model = nn.Sequential(nn.EmbeddingBag(300, 24), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 6))
    return Training(model, documents(), torch.optim.Adagrad, 0.05, batch_size=40, **settings)


def tabular(activation: type[nn.Module] = nn.ReLU) -> Training:
    model, loss = layers(12, 48, 48, 1, activation=activation), nn.BCEWithLogitsLoss()
    return Training(model, patients(), torch.optim.NAdam, 0.002, loss, epochs=12, batch_size=24)


def house(activation: type[nn.Module] = nn.SiLU) -> Training:
    return Training(layers(6, 40, 40, 1, activation=activation), prices(), NESTEROV, 0.01, nn.HuberLoss(), epochs=15)


def autoencoder() -> Training:
    model = layers(100, 48, 12, 48, 100, activation=nn.Tanh)
    return Training(model, pictures(), torch.optim.Adam, 0.003, nn.MSELoss(), epochs=8, batch_size=64)


def deep_leaky() -> Training:
    model = nn.Sequential(nn.Flatten(), *layers(144, *[40] * 7, 5, activation=nn.LeakyReLU, norm=True))
    return Training(model, stripes(), torch.optim.RMSprop, 0.001, epochs=10)


def deep_plain() -> Training:
    model = nn.Sequential(nn.Flatten(), *layers(144, 64, 64, 64, 64, 64, 64, 5))
    return Training(model, stripes(), torch.optim.Adam, 0.001, epochs=8)


def deep_autoencoder() -> Training:
    model = layers(100, 48, 32, 24, 12, 24, 32, 48, 100)
    return Training(model, pictures(), NESTEROV, 0.05, nn.MSELoss(), epochs=8)


NETWORKS = {
    "residual": lambda: Training(Residual(), stripes(), NESTEROV, 0.03, epochs=8, warmup=10),
    "residual, smdebug": lambda: Training(Residual(), stripes(), torch.optim.Adam, 0.01, epochs=8, smdebug=True),
    "mixer": lambda: Training(Mixer(), stripes(), torch.optim.AdamW, 0.002, epochs=6, batch_size=50),
    "lstm": lambda: Training(Recurrent(), waves(), torch.optim.RMSprop, 0.003, epochs=8, clip=1.0),
    "bag of words": texts,
    "bag of words, smdebug": partial(texts, smdebug=True),
    "tabular": tabular,
    "tabular, tanh": partial(tabular, nn.Tanh),
    "prices": house,
    "prices, ReLU": partial(house, nn.ReLU),
    "autoencoder": autoencoder,
    "deep leaky": deep_leaky,
    "deep plain": deep_plain,
    "deep autoencoder": deep_autoencoder,
}
