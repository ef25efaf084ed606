"""What PrepareData carries over from one execution to the next: prefixes that it reads when it begins and adds to.

A Processing job's input must not be empty, so each prefix holds a word about itself from the start. All executions
share them. Of the embeddings a job downloads what a backbone's executions added: some 14 KB for a training image with
four views; of the splits 70 bytes an image.
"""

from pipeline.config import Config
from pipeline.placement import Placement

PLACEHOLDER = "README"
PLACEHOLDERS = {
    "embedding_cache": b"Embeddings of images, which PrepareData finds here again. They may be deleted; this file must "
    b"stay.\n",
    "split_history": b"What each image was used for, so that none is tested on that was ever trained on. Without these "
    b"files splits are dealt anew; this one must stay.\n",
}


def carried_over_uris(config: Config, placement: Placement) -> dict[str, str]:
    """Input and output of PrepareData -> where it is kept; embeddings of each backbone apart."""
    name = config.pipeline.name
    return {
        "embedding_cache": placement.uri(name, "embedding-cache", config.model.backbone),
        "split_history": placement.uri(name, "split-history"),
    }
