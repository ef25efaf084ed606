"""What a training leaves for the drift check: features beside the probabilities, and the baseline of its images."""

import numpy as np
import pytest
import torch

from classifier.data.images import normalise, to_pixels
from classifier.drift.baseline import DriftBaseline
from classifier.drift.distance import compare
from classifier.job.failures import StepError
from classifier.model.runtimes import OnnxRuntime
from tests.steps.prepared_data import COLOURS, PREPROCESS, Prepared, Trained, noisy


@pytest.fixture(scope="module")
def network(trained: Trained) -> OnnxRuntime:
    """The exported network."""
    return OnnxRuntime(trained.model_dir, 1)


def images(count: int, seed: int, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """Pictures as those of the data set, in turn of each colour, normalised."""
    generator = np.random.default_rng(seed)
    pictures = [noisy(colours[number % len(colours)], generator) for number in range(count)]
    return normalise(np.stack([to_pixels(picture, PREPROCESS) for picture in pictures]), PREPROCESS)


def test_the_exported_network_gives_the_features_that_its_head_was_trained_on(network, prepared: Prepared):
    from classifier.model.backbone import load_backbone

    crops = images(6, 1, list(COLOURS.values()))
    with torch.inference_mode():
        expected = load_backbone("test_resnet", prepared.weights)(torch.from_numpy(crops)).numpy()
    assert network.features(crops, 1) == pytest.approx(expected, abs=1e-3)
    assert network.run(crops, 1).shape == (6, 3)


def test_the_baseline_of_the_training_knows_its_own_images_from_others(network, trained: Trained):
    baseline = DriftBaseline.load(trained.model_dir)
    assert len(baseline.reference) == 72 - 24 + 24  # two thirds of the training images, and the validation images

    def score(colours: list[tuple[int, int, int]]) -> float:
        return compare(baseline.coordinates(network.features(images(36, 2, colours), 1)), baseline.reference).score

    assert score(list(COLOURS.values())) < 1
    assert score([COLOURS["grass"]]) > 1
    assert score([(20, 20, 20), (230, 230, 230)]) > 1


def test_a_network_without_features_is_a_sentence(tmp_path):
    import onnx

    from tests.support.drift_model import network as small

    model = small()
    del model.graph.output[1]
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(StepError, match=r"model\.onnx gives probabilities, but no features\. Train the model again\.$"):
        OnnxRuntime(tmp_path, 1).features(np.zeros((1, 3, 16, 16), np.float32), 1)
