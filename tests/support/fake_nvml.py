"""A stand-in for the package pynvml on a machine without a GPU."""

from typing import Any


class FakeNvml:
    """What the sampler uses of pynvml: two GPUs, the second of which stops answering after `answers` samples."""

    class NVMLError(Exception):
        pass

    def __init__(self, answers: int = 1000) -> None:
        self.answers = answers

    def nvmlInit(self) -> None:
        pass

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self.answers -= handle == 1
        if self.answers < 0:
            raise self.NVMLError("GPU is lost")
        return type("Rates", (), {"gpu": 10 * (handle + 1)})

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return type("Memory", (), {"used": 2**30 * (handle + 1), "total": 2**33})
