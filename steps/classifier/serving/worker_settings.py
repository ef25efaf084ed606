"""What the server tells a worker when it starts it."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WorkerSettings:
    """A worker's command line: one argument of JSON."""

    model_dir: str
    runtime: str  # one of runtimes.RUNTIMES
    threads: int  # of a request that is alone
    max_image_megapixels: float
    lock: int  # file descriptor of a file that all workers share
    channel: int = -1  # file descriptor of the socket to the server
    board: int = -1  # file descriptor of the memory that it shares with the server

    def to_argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> "WorkerSettings":
        """The inverse."""
        return cls(**json.loads(text))
