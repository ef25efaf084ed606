"""Small pictures for the reports' pages."""

import base64
import io

from markupsafe import Markup

from classifier.data.images import Picture

THUMBNAIL_PX = 192  # longer side
TINY_PX = 64  # smaller pictures are kept as they are, and enlarged by the browser with visible pixels


def thumbnail(picture: Picture, alt: str) -> Markup:
    """Return an <img> of the picture, which needs no other file."""
    kind = "tiny" if max(picture.size) < TINY_PX else ""
    image = '<img class="{}" src="{}" alt="{}" title="{}" loading="lazy">'
    return Markup(image).format(kind, data_uri(picture), alt, alt)


def data_uri(picture: Picture) -> str:
    """Return a small copy of the picture as a data URI: JPEG, or PNG if it is tiny."""
    kind = "png" if max(picture.size) < TINY_PX else "jpeg"
    small, buffer = picture.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(buffer, kind, quality=82)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
