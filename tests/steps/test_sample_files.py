"""Real images on their way from the validation split into the model, and what an endpoint does with them."""

import shutil
from pathlib import Path

import numpy as np

from classifier.data.prepared_images import sample_files
from classifier.model.predictor import Predictor
from classifier.model.samples import REAL, SYNTHETIC, Samples
from tests.steps.prepared_data import CLASSES, Prepared, Trained
from tests.steps.serving.server_process import serving


def test_the_model_carries_real_images_with_the_answers_of_its_network(prepared: Prepared, trained: Trained) -> None:
    sent, kept = (sample_files(parent) for parent in (prepared.manifest, trained.model_dir))
    assert len(CLASSES) == len(sent) <= REAL
    assert [path.read_bytes() for path in kept] == [path.read_bytes() for path in sent]
    predictor, samples = Predictor(trained.model_dir), Samples.load(trained.model_dir)
    assert len(samples.pixels) == len(kept) + SYNTHETIC
    photos = [path.read_bytes() for path in kept]
    crops = np.stack([predictor.pixels(photo) for photo in photos])
    order = [next(row for row, crop in enumerate(crops) if (crop == pixels).all()) for pixels in samples.pixels[:3]]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(samples.probabilities[:3], predictor.predict(photos)[order], atol=1e-5)


def test_an_endpoint_starts_with_a_real_image_and_not_if_that_is_refused(trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    sample_files(model)[0].write_bytes(b"no image")
    with serving(model, tmp_path, fails=True) as server:
        code, _, stderr = server.end()
    assert code == 1
    assert stderr.startswith("The model does not answer for ")
    assert stderr.endswith(": The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image. Train it again.\n")
