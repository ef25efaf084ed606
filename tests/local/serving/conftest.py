"""The home that tests of serving work in."""

from tests.local.serving.serving_home import home  # noqa: F401
