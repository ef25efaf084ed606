"""What executions share: prefixes that PrepareData and EvaluateModel read, and where the model in service is kept.

A Processing job's input must not be empty, so each prefix holds a word about itself from the start. All executions
share them. Of the embeddings a job downloads what a backbone's executions added: some 14 KB for a training image with
four views; of the splits 70 bytes an image.
"""

from pipeline.compile.placement import Placement
from pipeline.config.config import Config

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


def champion_uri(config: Config, placement: Placement) -> str:
    """The prefix of the model in service, without a slash at its end."""
    return placement.uri(config.pipeline.name, "champion")
