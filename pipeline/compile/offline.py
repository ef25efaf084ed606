"""An environment in which the SageMaker SDK finds nothing of what this machine says about AWS.

The SDK makes clients and sessions while it is imported and while it compiles: a profile that does not exist, or a
broken file in ~/.aws or ~/.config/sagemaker, would end a command that has nothing to do with AWS.
"""

import contextlib
import os
from collections.abc import Iterator

HIDDEN_PREFIXES = ("AWS_", "SAGEMAKER_")
SETTINGS = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAGEMAKER_VALIDATE_ROLE": "false",  # else the SDK asks IAM
    "XDG_CONFIG_HOME": os.devnull,  # where the SDK looks for its own defaults
    "XDG_CONFIG_DIRS": os.devnull,
}


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """The environment, until the end of the block."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(HIDDEN_PREFIXES):
            del os.environ[name]
    os.environ.update(SETTINGS)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
