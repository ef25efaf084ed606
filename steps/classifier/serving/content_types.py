"""The content types of a request that the endpoint reads."""

from functools import lru_cache

from classifier.serving.accept import parse
from classifier.serving.refusals import Refusal

JSON, NPY, MULTIPART = "application/json", "application/x-npy", "multipart/form-data"
IMAGES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/x-image",
    "image/jpg",
    "image/bmp",
    "image/x-ms-bmp",
    "image/tiff",
    "image/gif",
)
ACCEPTED = (*IMAGES, NPY, JSON, MULTIPART)
NAMED = (*IMAGES[:4], NPY, JSON, MULTIPART)


@lru_cache(maxsize=64)
def require_accepted(content_type: str) -> None:
    """Refuse a body that cannot be read, before it is."""
    media_type, parameters = parse(content_type)
    if media_type not in ACCEPTED:
        raise Refusal(
            415,
            f"Content type {content_type or '(none)'} is not accepted: send images as {', '.join(NAMED[:-1])} "
            f"or {NAMED[-1]}.",
        )
    if media_type == MULTIPART and not parameters.get("boundary"):
        raise Refusal(415, f"Content type {content_type} lacks its boundary: add boundary=... as a form does.")
