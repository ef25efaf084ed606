from pathlib import Path


def model_fn(model_dir):
    return 10 * Path(model_dir, "model.pkl").exists()


def input_fn(body, content_type):
    return [float(value) for value in body.split(",")]


def predict_fn(data, factor):
    return sum(data) * factor


def output_fn(prediction, accept):
    return str(prediction)
