"""The cache of embeddings: a prefix that PrepareData reads when it begins and adds to while it runs.

A Processing job's input must not be empty, so the prefix holds a word about itself from the start. All executions share
it. A job downloads what a backbone's executions added: some 14 KB for a training image with four views.
"""

from pipeline.config import Config
from pipeline.placement import Placement

PLACEHOLDER = "README"
PLACEHOLDER_TEXT = (
    b"Embeddings of images, which PrepareData finds here again. They may be deleted; this file must stay.\n"
)


def embedding_cache_uri(config: Config, placement: Placement) -> str:
    """Where a backbone's embeddings are kept."""
    return placement.uri(config.pipeline.name, "embedding-cache", config.model.backbone)
