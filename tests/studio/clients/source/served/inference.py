"""Serves the model as the inference toolkits do: by handlers."""

import json
from pathlib import Path


def model_fn(model_dir):
    return json.loads(Path(model_dir, "model.json").read_text())


def input_fn(body, content_type):
    return [float(line) for line in body.split()]


def predict_fn(numbers, factor):
    return [factor * number for number in numbers]


def output_fn(numbers, accept):
    return "\n".join(map(str, numbers)), accept
