"""What a library's exception says, as a part of one of our sentences."""


def cause(error: BaseException) -> str:
    """The message's first line, or the exception's name when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")
