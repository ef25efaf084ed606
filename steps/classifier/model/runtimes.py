"""What can run the network: ONNX Runtime, OpenVINO, TorchScript, bfloat16 and CUDA, behind one interface.

Each library is loaded when it is asked for, since PyTorch alone takes a second and 200 MB. The threads of one run are
given with it: a request that is alone takes all cores, one among others takes its own.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from classifier.job.failures import StepError

if TYPE_CHECKING:  # the server looks at what there is without loading any of it
    import numpy as np
    import numpy.typing as npt

    Images: TypeAlias = npt.NDArray[np.float32]  # (N, 3, H, W), normalised
    Probabilities: TypeAlias = npt.NDArray[np.float32]  # (N, C)

TORCH_FILE, ONNX_FILE = "model.pt", "model.onnx"
PROBABILITIES, FEATURES = ONNX_OUTPUTS = ("probabilities", "features")
AUTO = "auto"
REDUCED = 0.09  # bfloat16 and float16: measured up to 0.08, on images whose class is not clear


class Runtime(Protocol):
    """A loaded network."""

    batch: int  # images that one run should have at most
    rounding: float  # by so much its precision may change a probability

    def run(self, images: Images, threads: int) -> Probabilities:
        """Class probabilities, on so many threads."""


class OnnxRuntime:
    """ONNX Runtime in float32; one session per number of threads, since a session keeps its own."""

    batch, rounding = 1, 0.0  # on a processor a batch only delays its first image

    def __init__(self, model_dir: Path, threads: int) -> None:
        self._path = required(model_dir, ONNX_FILE)
        self._sessions = {count: self._session(count) for count in {1, threads}}

    def run(self, images: Images, threads: int) -> Probabilities:
        return self._output(PROBABILITIES, images, threads)

    def features(self, images: Images, threads: int) -> npt.NDArray[np.float32]:
        """What the backbone makes of the images, (N, D); raises StepError for a model of an earlier release."""
        if FEATURES not in {output.name for output in self._sessions[1].get_outputs()}:
            raise StepError(f"{self._path} gives probabilities, but no features. Train the model again.")
        return self._output(FEATURES, images, threads)

    def _output(self, name: str, images: Images, threads: int) -> npt.NDArray[np.float32]:
        import numpy as np

        session = self._sessions.get(threads) or self._sessions[1]
        found: npt.NDArray[np.float32] = session.run([name], {"images": np.ascontiguousarray(images)})[0]
        return found

    def _session(self, threads: int) -> Any:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
        try:
            return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, RuntimeError) as error:
            raise unreadable(self._path, "ONNX", error) from None


class OpenVino:
    """OpenVINO in float32, which is compiled for one image of a fixed size."""

    batch, rounding = 1, 0.0
    precision = "f32"  # by itself it takes bfloat16 where the processor has it

    def __init__(self, model_dir: Path, threads: int) -> None:
        # Without its tools for converting models, which take 15 MB and bring what sends statistics of use.
        sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
        import openvino

        path, core = required(model_dir, ONNX_FILE), openvino.Core()
        common = {"INFERENCE_PRECISION_HINT": self.precision, "NUM_STREAMS": 1}
        common["ENABLE_CPU_PINNING"] = False  # every worker would take the same cores
        try:
            model = core.read_model(path)
            model.reshape([1, *model.input(0).partial_shape[1:]])
            settings = {count: common | {"INFERENCE_NUM_THREADS": count} for count in {1, threads}}
            compiled = {count: core.compile_model(model, "CPU", found) for count, found in settings.items()}
        except RuntimeError as error:
            raise unreadable(path, "ONNX", error) from None
        self._requests = {count: network.create_infer_request() for count, network in compiled.items()}

    def run(self, images: Images, threads: int) -> Probabilities:
        import numpy as np

        request = self._requests.get(threads) or self._requests[1]
        rows = [request.infer({0: np.ascontiguousarray(image[None])}, share_inputs=True)[0] for image in images]
        answer: Probabilities = np.concatenate(rows)
        return answer


class Bfloat16(OpenVino):
    """The same with convolutions and matrix products in bfloat16, which AVX512_BF16 and AMX do several times faster."""

    precision, rounding = "bf16", REDUCED


class TorchScript:
    """The frozen TorchScript network, channels last, in float32."""

    batch, rounding = 1, 0.0

    def __init__(self, model_dir: Path, threads: int) -> None:
        self._network = load_script(model_dir)

    def run(self, images: Images, threads: int) -> Probabilities:
        import torch

        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            answer: Probabilities = self._network(
                torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            ).numpy()
        return answer


class Cuda:
    """The frozen network in float16 on the first GPU; sums of the softmax stay in float32."""

    batch, rounding = 32, REDUCED

    def __init__(self, model_dir: Path, threads: int) -> None:
        self._network = load_script(model_dir, "cuda")

    def run(self, images: Images, threads: int) -> Probabilities:
        import torch

        batch = torch.from_numpy(images).pin_memory().to("cuda", non_blocking=True)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            answer = self._network(batch.contiguous(memory_format=torch.channels_last))
        probabilities: Probabilities = answer.float().cpu().numpy()
        return probabilities


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
        raise StepError(f"The runtime {name} cannot be used: {reason}. Set deploy.runtime to auto or to another.")
    return RUNTIMES[name][1](model_dir, threads)


def missing(name: str) -> str | None:
    """What this machine lacks for a runtime; None if nothing. Loads no library."""
    if not find_spec(package := RUNTIMES[name][0]):
        return f"the package {package} is not installed"
    if name == "bf16" and not has_bfloat16():
        return "the processor has neither AVX512_BF16 nor AMX"
    return "there is no NVIDIA GPU" if name == "cuda" and not has_gpu() else None


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as Linux tells."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text(errors="replace").partition("\nflags")[2].partition("\n")[0] if path.exists() else ""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible; CUDA_VISIBLE_DEVICES="" hides it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))


def load_script(model_dir: Path, device: str = "cpu") -> Any:
    """model.pt: images (N, 3, H, W) float32, normalised -> probabilities (N, C) float32."""
    import torch

    path = required(model_dir, TORCH_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, but needs no code of the model's
            return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise unreadable(path, "TorchScript", error) from None


def required(model_dir: Path, name: str) -> Path:
    """A file of the model."""
    if not (path := model_dir / name).is_file():
        raise StepError(f"{model_dir} holds no {name}. A model of the final training has one.")
    return path


def unreadable(path: Path, kind: str, error: Exception) -> StepError:
    """What a library says of a damaged file, in one sentence."""
    reason = str(error).partition("\n")[0]
    return StepError(f"{path} is no {kind} model ({reason}). Train it again.")
