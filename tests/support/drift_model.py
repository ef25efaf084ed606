"""A model small enough to be written by hand, with the baseline of grey training images, and captured events of others.

Its features are the averages of a 4x4 grid of the image, in three channels; it takes light images for dogs.
"""

import base64
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from PIL import Image

from classifier.data.images import Preprocess, normalise
from classifier.drift.baseline import fit
from classifier.drift.statistics import baseline, pixel_figures

SIDE = 16
CLASSES = ["cat", "dög\u2028"]
PREPROCESS = Preprocess(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRAINING_IMAGES = 300

Pixels = npt.NDArray[np.uint8]


def pictures(count: int, seed: int, *, low: int = 60, high: int = 200) -> Pixels:
    """Noisy images, each of about one shade of grey: (count, 16, 16, 3)."""
    generator = np.random.default_rng(seed)
    shades = generator.integers(low, high, (count, 1, 1, 1))
    return np.clip(shades + generator.normal(0, 10, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write_model(folder: Path) -> None:
    """model.onnx, drift_baseline.npz and EvaluateModel's baseline.json."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network(), str(folder / "model.onnx"))
    known = features(pictures(TRAINING_IMAGES, 1))
    fit(known[::3], known[np.arange(len(known)) % 3 > 0]).save(folder)
    (folder / "baseline.json").write_text(json.dumps(evaluated()))


def evaluated() -> dict[str, Any]:
    """baseline.json of 200 test images."""
    crops = pictures(200, 2)
    rows = np.array([answer(crop) for crop in crops], dtype=np.float32)
    return baseline(rows, pixel_figures(crops), {"classes": CLASSES, "preprocess": asdict(PREPROCESS)})


def network() -> onnx.ModelProto:
    """images (n, 3, 16, 16) -> probabilities (n, 2), features (n, 48)."""
    nodes = [
        helper.make_node("AveragePool", ["images"], ["grid"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["grid"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    weights = np.stack([np.full(48, -0.1), np.full(48, 0.1)], axis=1).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "grid",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 48]),
        ],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def features(crops: Pixels) -> npt.NDArray[np.float32]:
    """What the network makes of crops, (N, 48)."""
    grid = normalise(crops, PREPROCESS).reshape(len(crops), 3, 4, 4, 4, 4).mean(axis=(3, 5))
    return grid.reshape(len(crops), -1).astype(np.float32)


def answer(crop: Pixels) -> list[float]:
    """The network's probabilities for one crop."""
    dog = float(1 / (1 + np.exp(-0.2 * features(crop[np.newaxis]).sum())))
    return [1 - dog, dog]


def png(crop: Pixels) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    return buffer.getvalue()


def event_line(image: bytes, answer: Any, **members: Any) -> str:
    """As the service captures an invocation."""
    sent = {"data": base64.b64encode(image).decode(), "encoding": "BASE64"}
    said = {"data": json.dumps(answer), "encoding": "JSON"}
    data = {"endpointInput": sent, "endpointOutput": said, **members}
    return json.dumps({"captureData": data, "eventVersion": "0"}, ensure_ascii=False)


def lines_of(crops: Iterable[Pixels]) -> list[str]:
    """Captured events, with answers in both forms."""
    found = []
    for number, crop in enumerate(crops):
        row = answer(crop)
        verbose = {"label": CLASSES[int(np.argmax(row))], "score": max(row)}
        found.append(event_line(png(crop), verbose if number % 3 else row))
    return found
