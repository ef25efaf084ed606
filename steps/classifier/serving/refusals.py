"""What the endpoint refuses: an HTTP status and one sentence for the client."""

from collections.abc import Mapping


class Refusal(Exception):
    """A request that is not answered with a prediction."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}
