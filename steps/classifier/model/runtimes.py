"""What can run the network: ONNX Runtime, OpenVINO, TorchScript, bfloat16 and CUDA, behind one interface.

Each library is loaded when it is asked for, since PyTorch alone takes a second and 200 MB. The threads of one run are
given with it: a request that is alone takes all cores, one among others takes its own.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from classifier.job.failures import StepError, cause

if TYPE_CHECKING:  # the server looks at what there is without loading any of it
    import numpy as np
    import numpy.typing as npt

    Rows: TypeAlias = npt.NDArray[np.float32]

TORCH_FILE, ONNX_FILE, MEASUREMENT_FILE = "model.pt", "model.onnx", "runtimes.json"
PROBABILITIES, FEATURES = ONNX_OUTPUTS = ("probabilities", "features")
AUTO = "auto"
REDUCED = 0.09  # bfloat16 and float16: measured up to 0.08, on images whose class is not clear
CLEARLY_FASTER = 0.9  # others take more memory than ONNX Runtime: one must need less than this share of its time


class Runtime(Protocol):
    """A loaded network."""

    batch: int  # images that one run should have at most
    rounding: float  # by so much its precision may change a probability

    def run(self, images: Rows, threads: int) -> Rows:
        """(N, 3, H, W), normalised -> class probabilities (N, C), on so many threads."""


class OnnxRuntime:
    """ONNX Runtime in float32; one session per number of threads, since a session keeps its own."""

    batch, rounding = 1, 0.0  # on a processor a batch only delays its first image

    def __init__(self, model_dir: Path, threads: int) -> None:
        import onnxruntime

        self._sessions: dict[int, Any] = {}
        for count in {1, threads}:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = count, 1
            options.log_severity_level = 3  # errors
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores alone
            with loading(model_dir / ONNX_FILE) as path:
                self._sessions[count] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, images: Rows, threads: int, output: str = PROBABILITIES) -> Rows:
        session = self._sessions.get(threads) or self._sessions[1]
        found: Rows = session.run([output], {"images": images})[0]
        return found

    def features(self, images: Rows, threads: int) -> Rows:
        """What the backbone makes of the images, (N, D); raises StepError for a model of an earlier release."""
        if FEATURES not in {output.name for output in self._sessions[1].get_outputs()}:
            raise StepError(f"{ONNX_FILE} gives probabilities, but no features. Train the model again.")
        return self.run(images, threads, FEATURES)


class OpenVino:
    """OpenVINO in float32, which is compiled for one image of a fixed size."""

    batch, rounding = 1, 0.0
    precision = "f32"  # by itself it takes bfloat16 where the processor has it

    def __init__(self, model_dir: Path, threads: int) -> None:
        # Without its tools for converting models, which take 15 MB and bring what sends statistics of use.
        sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": self.precision, "NUM_STREAMS": 1}
        settings["ENABLE_CPU_PINNING"] = False  # every worker would take the same cores
        core, self._requests = openvino.Core(), {}
        with loading(model_dir / ONNX_FILE) as path:
            model = core.read_model(path)
            model.reshape([1, *model.input(0).partial_shape[1:]])
            for count in {1, threads}:
                network = core.compile_model(model, "CPU", settings | {"INFERENCE_NUM_THREADS": count})
                self._requests[count] = network.create_infer_request()

    def run(self, images: Rows, threads: int) -> Rows:
        import numpy as np

        request = self._requests.get(threads) or self._requests[1]
        rows = [request.infer({0: np.ascontiguousarray(image[None])}, share_inputs=True)[0] for image in images]
        return np.concatenate(rows)


class Bfloat16(OpenVino):
    """The same with convolutions and matrix products in bfloat16, which AVX512_BF16 and AMX do several times faster."""

    precision, rounding = "bf16", REDUCED


class TorchScript:
    """The frozen TorchScript network, channels last, in float32."""

    batch, rounding = 1, 0.0
    device = "cpu"

    def __init__(self, model_dir: Path, threads: int) -> None:
        import torch

        with loading(model_dir / TORCH_FILE) as path, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, but needs no code of the model's
            self._network: Any = torch.jit.load(path, map_location=self.device)  # type: ignore[no-untyped-call]

    def run(self, images: Rows, threads: int) -> Rows:
        import torch

        if self.device == "cpu" and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        batch = torch.from_numpy(images).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast(self.device, torch.float16, enabled=self.device == "cuda"):
            answer: Rows = self._network(batch).float().cpu().numpy()
        return answer


class Cuda(TorchScript):
    """The same in float16 on the first GPU; sums of the softmax stay in float32."""

    batch, rounding = 32, REDUCED
    device = "cuda"


RUNTIMES: dict[str, tuple[str, Callable[[Path, int], Runtime]]] = {  # the package that each needs
    "onnxruntime": ("onnxruntime", OnnxRuntime),
    "openvino": ("openvino", OpenVino),
    "torchscript": ("torch", TorchScript),
    "bf16": ("openvino", Bfloat16),
    "cuda": ("torch", Cuda),
}


def load_runtime(name: str, model_dir: Path, threads: int = 1) -> Runtime:
    """One of RUNTIMES, ready to run on 1 or `threads` threads; raises StepError where it cannot be used."""
    if reason := missing(name):
        raise StepError(f"The runtime {name} cannot be used: {reason}. Set deploy.runtime to {AUTO} or to another.")
    return RUNTIMES[name][1](model_dir, threads)


@contextmanager
def loading(path: Path) -> Iterator[Path]:
    """Tell what a library says of a file that is missing or damaged in one sentence."""
    if not path.is_file():
        raise StepError(f"{path.parent} holds no {path.name}. A model of the final training has one.")
    try:
        yield path
    except Exception as error:  # the libraries' own have no base in common
        raise StepError(f"{path} cannot be loaded ({cause(error)}). Train the model again.") from error


def chosen_runtimes(model_dir: Path) -> list[str]:
    """The runtimes that training found to agree (predictor.py), the fastest first: what `auto` serves with, in turn."""
    path, times = model_dir / MEASUREMENT_FILE, {"onnxruntime": 1e6, "torchscript": 1e6}  # where nothing was measured
    if path.is_file():
        times |= json.loads(path.read_text(encoding="utf-8"))["milliseconds"]
    times["onnxruntime"] *= CLEARLY_FASTER
    ranked = ["cuda", *sorted(times, key=times.__getitem__)]
    return [name for name in ranked if name in RUNTIMES and missing(name) is None]


def load_chosen(model_dir: Path, threads: int) -> Runtime:
    """The first of these that loads, in float32: not on a GPU; raises the last one's StepError if none does."""
    *others, last = [name for name in chosen_runtimes(model_dir) if name != "cuda"]
    for name in others:
        with suppress(StepError):
            return load_runtime(name, model_dir, threads)
    return load_runtime(last, model_dir, threads)


def missing(name: str) -> str | None:
    """What this machine lacks for a runtime; None if nothing. Loads no library."""
    if not find_spec(package := RUNTIMES[name][0]):
        return f"the package {package} is not installed"
    if name == "bf16" and not has_bfloat16():
        return "the processor has neither AVX512_BF16 nor AMX"
    has_gpu = os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))
    return "there is no NVIDIA GPU" if name == "cuda" and not has_gpu else None


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as Linux tells."""
    path = Path("/proc/cpuinfo")
    return path.exists() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(path.read_text(errors="replace").split())


def read_description(model_dir: Path) -> dict[str, Any]:
    """model.json: what evaluation, the endpoint and a reader need to know about the network beside it."""
    with loading(model_dir / "model.json") as path:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return description
