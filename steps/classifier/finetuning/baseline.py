"""The drift baseline of a fine-tuned network, whose embeddings PrepareData could not know.

The network has learned the training images by heart, so that only validation images show what an unseen one looks like
to it.
"""

import numpy as np
import torch

from classifier.data.images import Pixels, to_pixels
from classifier.data.prepared_images import PreparedImages
from classifier.drift.baseline import DriftBaseline, Features, fit, spread
from classifier.finetuning.fine_tuning import Images
from classifier.finetuning.image_batches import picture
from classifier.model.backbone import Backbone
from classifier.preparation.embedding import Embedder

FITTED_ROWS = 512  # training images that give the components: each is embedded anew
REFERENCE_ROWS = 1024


def fine_tuned_baseline(backbone: Backbone, images: Images) -> DriftBaseline:
    """Embeds some images of both splits."""
    threads = torch.get_num_threads()
    embedder = Embedder(backbone.cpu().eval(), images.preprocess, workers=threads)

    def features(split: PreparedImages, count: int) -> Features:
        rows = [int(row) for row in spread(np.arange(len(split)), count)]

        def pixels_of(row: int) -> Pixels:
            return to_pixels(picture(split, row), images.preprocess)[None]

        return np.stack([found.features[0] for found in embedder.embed(pixels_of, rows, views=1)]).astype(np.float32)

    return fit(features(images.train, FITTED_ROWS), features(images.validation, REFERENCE_ROWS))
