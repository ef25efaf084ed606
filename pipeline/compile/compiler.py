"""From configuration to definition: what goes in, what comes out, and the environment that the SDK compiles in.

Compiling is pure: no network, no credentials, no upload, no time. The same inputs give the same bytes. Nothing here
imports the SDK before a definition is compiled, which takes it two seconds.
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.compile.bundle import Bundle, stored_bundle
from pipeline.compile.placement import Placement
from pipeline.config.config import Config

HIDDEN_PREFIXES = ("AWS_", "SAGEMAKER_")
OFFLINE = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",  # the SDK looks for a region while it is imported
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAGEMAKER_VALIDATE_ROLE": "false",  # else the SDK asks IAM
    "XDG_CONFIG_HOME": os.devnull,  # where the SDK looks for its own defaults
    "XDG_CONFIG_DIRS": os.devnull,
}


@dataclass(frozen=True)
class Inputs:
    """All that a definition depends on, beside the code."""

    config: Config
    placement: Placement
    input_data_uri: str
    weights_uri: str
    annotations_uri: str
    commit: str | None = None  # noted on the registered version
    warm_start_parent: str | None = None  # the tuning job whose trials the search begins with


@dataclass(frozen=True)
class Compiled:
    """A definition, and what must be on S3 before an execution of it starts."""

    definition: str
    bundles: tuple[Bundle, ...]
    placeholders: dict[str, str]  # URI -> text

    def to_json(self) -> str:
        """Return a form that `from_json` reads; bundles go by their scripts and the names of their files."""
        code = [[each.entry_point, list(each.files)] for each in self.bundles]
        document = {"definition": self.definition, "code": code, "placeholders": self.placeholders}
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> "Compiled":
        """Return what `to_json` wrote of the same code, whose files are read again."""
        document = json.loads(text)
        bundles = tuple(stored_bundle(*stored) for stored in document["code"])
        return cls(document["definition"], bundles, document["placeholders"])


def compile_pipeline(inputs: Inputs) -> Compiled:
    """Compile the definition."""
    with offline():
        from pipeline.compile.pipeline import build

        pipeline, context = build(inputs)
        definition = str(pipeline.definition())
    return Compiled(definition, tuple(context.bundles.values()), dict(context.placeholders))


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Hide what this machine says about AWS, and what the SDK says: neither has to do with the user's pipeline.

    The SDK makes clients and sessions while it is imported and while it compiles: a profile that does not exist, or a
    broken file in ~/.aws or ~/.config/sagemaker, would end a command that never speaks to AWS.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith(HIDDEN_PREFIXES):
            del os.environ[name]
    os.environ.update(OFFLINE)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        logging.disable(logging.NOTSET)
        logging.getLogger().setLevel(logging.WARNING)  # the SDK lowers it to INFO for every library
