"""Commands in a working directory of their own."""

from command_line import cli, files, nothing_is_left

__all__ = ["cli", "files", "nothing_is_left"]
