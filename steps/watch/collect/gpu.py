"""Utilisation and memory of the GPUs of this machine, read through NVML; a machine without any is no error."""

import os
from typing import Any

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


class Gpus:
    """The GPUs that this process may use.

    Which those are is taken from CUDA_VISIBLE_DEVICES where it lists numbers, read in PCI order as NVML counts them.

    Attributes:
        trouble: Why there are no figures, in words; None while there are.
    """

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: dict[int, Any] = {}
        self.trouble: str | None = None
        try:
            import pynvml
        except ImportError:
            self.trouble = "the package nvidia-ml-py is not installed"
            return
        try:
            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handles = {index: pynvml.nvmlDeviceGetHandleByIndex(index) for index in self._visible()}
        except pynvml.NVMLError as error:
            self._give_up(f"NVML says: {error}")
        if not self._handles and self.trouble is None:
            self._give_up("no GPU is visible to this process")

    def __len__(self) -> int:
        return len(self._handles)

    def sample(self) -> list[tuple[int, float, float]]:
        """(index, percent of the time in which a kernel ran, percent of the memory in use) of each GPU.

        The first covers NVML's own last sampling period, a sixth of a second to a second. Empty once NVML has failed.
        """
        try:
            return [(index, *self._figures(handle)) for index, handle in self._handles.items()]
        except self._nvml.NVMLError as error:
            self._give_up(f"NVML says: {error}")
            return []

    def close(self) -> None:
        self._handles = {}
        if self._nvml is not None:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                self.trouble = self.trouble or f"NVML says: {error}"

    def _figures(self, handle: Any) -> tuple[float, float]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu), 100 * memory.used / memory.total

    def _visible(self) -> list[int]:
        indices = list(range(self._nvml.nvmlDeviceGetCount()))
        chosen = os.environ.get(VISIBLE_DEVICES)
        if chosen is None:
            return indices
        numbers = chosen.split(",")
        if all(number.strip().isdigit() for number in numbers):
            return [index for index in indices if index in {int(number) for number in numbers}]
        return [] if chosen.strip() in ("", "-1") else indices  # anything else names GPUs in ways NVML does not count

    def _give_up(self, trouble: str) -> None:
        self.trouble = trouble
        self._handles = {}
