"""What the images' requirements.txt and constraints.txt pin."""

import re

from pipeline.aws.images import ROOT


def pins(image: str, file: str) -> dict[str, str]:
    """Package -> version, by an image's file."""
    text = (ROOT / "containers" / image / file).read_text()
    return {normal(package): version for package, version in re.findall(r"^([^#\s]+)==(\S+)", text, re.MULTILINE)}


def normal(package: str) -> str:
    """A package's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", package).lower()
