"""What can run the network: ONNX Runtime, OpenVINO, TorchScript, bfloat16 and CUDA, behind one interface.

Each is loaded on its own, since PyTorch alone takes a second and 200 MB. The threads of one run are given with it: a
request that is alone takes all cores, one among others takes its own.
"""

from __future__ import annotations

import os
import platform
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

TORCH_FILE = "model.pt"
ONNX_FILE = "model.onnx"
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

    batch = 1  # on a processor a batch only delays its first image
    rounding = 0.0

    def __init__(self, model_dir: Path, threads: int) -> None:
        self._path = required(model_dir, ONNX_FILE)
        self._sessions = {count: self._session(count) for count in {1, threads}}

    def run(self, images: Images, threads: int) -> Probabilities:
        return self._output(PROBABILITIES, images, threads)

    def features(self, images: Images, threads: int) -> npt.NDArray[np.float32]:
        """What the backbone makes of the images, (N, D).

        Raises:
            StepError: the model does not tell, being of an earlier release.
        """
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

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
        try:
            return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except onnx_errors() as error:
            raise StepError(f"{self._path} is no ONNX model ({first_line(error)}). Train it again.") from None


def onnx_errors() -> tuple[type[Exception], ...]:
    """What loading raises: ONNX Runtime's own exceptions have no ancestor of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, ValueError, *own)


class OpenVino:
    """OpenVINO in float32, which is compiled for one image of a fixed size."""

    batch = 1
    rounding = 0.0
    precision = "f32"  # by itself it takes bfloat16 where the processor has it

    def __init__(self, model_dir: Path, threads: int) -> None:
        openvino = import_openvino()
        path = required(model_dir, ONNX_FILE)
        core = openvino.Core()
        try:
            model = core.read_model(path)
            _, channels, *sides = model.input(0).partial_shape
            model.reshape([1, channels, *sides])
            self._requests = {
                count: core.compile_model(
                    model,
                    "CPU",
                    {
                        "INFERENCE_PRECISION_HINT": self.precision,
                        "INFERENCE_NUM_THREADS": count,
                        "NUM_STREAMS": 1,
                        "ENABLE_CPU_PINNING": False,  # every worker would take the same cores
                    },
                ).create_infer_request()
                for count in {1, threads}
            }
        except RuntimeError as error:
            raise StepError(f"{path} is no ONNX model ({first_line(error)}). Train it again.") from None

    def run(self, images: Images, threads: int) -> Probabilities:
        import numpy as np

        request = self._requests.get(threads) or self._requests[1]
        rows = [request.infer({0: np.ascontiguousarray(image[None])}, share_inputs=True)[0] for image in images]
        answer: Probabilities = np.concatenate(rows)
        return answer


class OpenVinoBfloat16(OpenVino):
    """The same with convolutions and matrix products in bfloat16, which AVX512_BF16 and AMX do several times faster."""

    precision = "bf16"
    rounding = REDUCED


def import_openvino() -> Any:
    """The package without its tools for converting models: those take 15 MB, and bring what sends statistics of use."""
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # whoever imports it is told it is missing
    import openvino

    return openvino


class TorchScript:
    """The frozen TorchScript network, channels last, in float32."""

    batch = 1
    rounding = 0.0
    device = "cpu"
    autocast = False

    def __init__(self, model_dir: Path, threads: int) -> None:
        import torch

        self._torch = torch
        self._network = load_script(model_dir, self.device)

    def run(self, images: Images, threads: int) -> Probabilities:
        torch = self._torch
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            answer: Probabilities = self._network(batch).float().numpy()
        return answer


class TorchBfloat16(TorchScript):
    """The same with convolutions and matrix products in bfloat16."""

    autocast = True
    rounding = REDUCED


def bfloat16(model_dir: Path, threads: int) -> Runtime:
    """By OpenVINO, where it is installed: it takes a third to a half of PyTorch's time."""
    kind = OpenVinoBfloat16 if find_spec("openvino") else TorchBfloat16
    return kind(model_dir, threads)


class Cuda:
    """The frozen network in float16 on the first GPU; sums of the softmax stay in float32."""

    batch = 32
    rounding = REDUCED

    def __init__(self, model_dir: Path, threads: int) -> None:
        import torch

        self._torch = torch
        self._network = load_script(model_dir, "cuda")

    def run(self, images: Images, threads: int) -> Probabilities:
        torch = self._torch
        batch = torch.from_numpy(images).pin_memory().to("cuda", non_blocking=True)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            answer = self._network(batch.contiguous(memory_format=torch.channels_last))
        probabilities: Probabilities = answer.float().cpu().numpy()
        return probabilities


RUNTIMES: dict[str, Callable[[Path, int], Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "torchscript": TorchScript,
    "bf16": bfloat16,
    "cuda": Cuda,
}


def load_runtime(name: str, model_dir: Path, threads: int = 1) -> Runtime:
    """One of RUNTIMES, ready to run on 1 or `threads` threads.

    Raises:
        StepError: it cannot run here, or the model lacks its file.
    """
    if reason := missing(name):
        raise StepError(f"The runtime {name} cannot be used: {reason}. Set deploy.runtime to auto or to another.")
    return RUNTIMES[name](model_dir, threads)


def missing(name: str) -> str | None:
    """What this machine lacks for a runtime; None if nothing. Loads no library."""
    libraries = LIBRARIES.get(name, ("torch",))
    if not any(find_spec(library) for library in libraries):
        return f"the package {libraries[-1]} is not installed"
    return REQUIREMENTS[name]()


def _no_bfloat16() -> str | None:
    return None if has_bfloat16() else "the processor has neither AVX512_BF16 nor AMX"


def _no_gpu() -> str | None:
    return None if has_gpu() else "there is no NVIDIA GPU"


LIBRARIES = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "bf16": ("openvino", "torch")}  # one suffices
REQUIREMENTS: dict[str, Callable[[], str | None]] = {
    "onnxruntime": lambda: None,
    "openvino": lambda: None,
    "torchscript": lambda: None,
    "bf16": _no_bfloat16,
    "cuda": _no_gpu,
}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    return bool({"avx512_bf16", "amx_bf16"} & processor_flags())


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible; CUDA_VISIBLE_DEVICES="" hides it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))


def processor_flags() -> set[str]:
    """What Linux tells of the processor."""
    return set(_cpuinfo("flags").split())


def processor_name() -> str:
    """What tells processors of different speed apart, as far as is known."""
    return f"{platform.machine()} {_cpuinfo('model name')}".strip()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), ""
    )


def load_script(model_dir: Path, device: str = "cpu") -> Any:
    """model.pt: images (N, 3, H, W) float32, normalised -> probabilities (N, C) float32."""
    import torch

    path = required(model_dir, TORCH_FILE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, but needs no code of the model's
            return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise StepError(f"{path} is no TorchScript model ({first_line(error)}). Train it again.") from None


def required(model_dir: Path, name: str) -> Path:
    """A file of the model."""
    path = model_dir / name
    if not path.is_file():
        raise StepError(f"{model_dir} holds no {name}. A model of the final training has one.")
    return path


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
