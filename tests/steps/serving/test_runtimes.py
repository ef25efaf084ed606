"""What can run the network, whether it agrees with the trained one, and which of them an endpoint takes."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import decode, shrink, to_pixels
from classifier.job.failures import StepError
from classifier.model import runtimes
from classifier.model.predictor import DEFAULT_MAX_PIXELS, Predictor
from classifier.model.runtime_choice import MEASUREMENT_FILE, Measurement, candidates, chosen_runtimes
from classifier.model.runtime_trial import measure
from classifier.model.runtimes import RUNTIMES, load_runtime, missing
from classifier.model.samples import Samples, disagreement
from classifier.serving.worker import crop
from tests.steps.prepared_data import STEPS, Trained, base_environment
from tests.steps.serving.server_process import picture, serving

USABLE = [name for name in RUNTIMES if missing(name) is None]


@pytest.mark.parametrize("name", USABLE)
def test_every_runtime_agrees_with_the_trained_network_on_any_number_of_images_and_threads(
    trained: Trained, name: str
) -> None:
    samples = Samples.load(trained.model_dir)
    runtime = load_runtime(name, trained.model_dir, threads=2)
    for threads in (1, 2, 5):
        answers = runtime.run(samples.images(), threads)
        np.testing.assert_allclose(answers, samples.probabilities, atol=0.01 + runtime.rounding)
    assert disagreement(runtime, samples, rounding=runtime.rounding) is None


class Fixed:
    """A runtime that answers from a table, image by image."""

    batch, rounding = 1, 0.0

    def __init__(self, rows: Any) -> None:
        self.rows = list(np.array(rows, np.float32))

    def run(self, images: Any, threads: int) -> Any:
        return np.stack([self.rows.pop(0) for _ in images])


@pytest.mark.parametrize(
    ("answers", "rounding", "reason"),
    [
        ([[0.8, 0.2], [0.5, 0.5]], 0.0, None),
        ([[0.7, 0.3], [0.495, 0.505]], 0.0, "a probability differs by 0.1 from the trained network's, and 0.01 is acc"),
        ([[0.8, 0.2], [0.496, 0.504]], 0.0, "it names another class for 1 of 2 sample images"),
        ([[0.8, np.nan], [0.5, 0.5]], 0.0, "a probability differs by nan from the trained network's, and 0.01 is acc"),
        ([[0.8], [0.5]], 0.0, "it answers with shape (2, 1) instead of (2, 2)"),
        ([[0.75, 0.25], [0.48, 0.52]], 0.0, "a probability differs by 0.05 from the trained network's, and 0.01 is a"),
        ([[0.75, 0.25], [0.48, 0.52]], 0.09, None),  # of less precision, and asked for
        ([[0.65, 0.35], [0.55, 0.45]], 0.09, "a probability differs by 0.15 from the trained network's, and 0.1 is a"),
    ],
)
def test_a_runtime_that_disagrees_is_found_out(answers: Any, rounding: float, reason: str | None) -> None:
    expected = np.array([[0.8, 0.2], [0.502, 0.498]], np.float32)
    samples = Samples(np.zeros((2, 4, 4, 3), np.uint8), np.full(3, 0.5), np.full(3, 0.5), expected)
    found = disagreement(Fixed(answers), samples, rounding=rounding)
    assert found is None if reason is None else str(found).startswith(reason)


def test_samples_with_a_clear_answer_are_kept_and_others_where_a_loss_of_precision_shows() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.48, 0.52]], np.float32)
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    samples = Samples(pixels, np.zeros(3), np.ones(3), probabilities)
    assert samples.clearest(2).pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert samples.closest(2).pixels[:, 0, 0, 0].tolist() == [2, 1]  # others could be turned around by what is accepted


def with_measurement(trained: Trained, folder: Path, milliseconds: Any) -> Path:
    """A copy of the model in which training has measured something else, or nothing."""
    model = shutil.copytree(trained.model_dir, folder / "model")
    text = json.dumps({"milliseconds": milliseconds, "disagreements": {}}) if milliseconds else "no measurement"
    (model / MEASUREMENT_FILE).write_text(text)
    return model


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"onnxruntime": 10.0, "torchscript": 8.9, "openvino": 20.0}, ["torchscript", "onnxruntime"]),
        ({"onnxruntime": 10.0, "torchscript": 9.1}, ["onnxruntime", "torchscript"]),  # not clearly faster
        ({"openvino": 20.0, "torchscript": 15.0}, ["torchscript", "onnxruntime"]),
        ({"onnxruntime": 10.0, "another": 1.0}, ["onnxruntime", "torchscript"]),  # not installed here
        (None, ["onnxruntime", "torchscript"]),
    ],
)
def test_auto_takes_what_training_found_clearly_faster(
    trained: Trained, tmp_path: Path, milliseconds: Any, chosen: list[str]
) -> None:
    assert chosen_runtimes(with_measurement(trained, tmp_path, milliseconds)) == chosen


def test_a_gpu_is_used_first_and_a_model_without_onnx_is_run_by_torch(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_runtimes(tmp_path) == ["torchscript"]
    monkeypatch.setattr(runtimes, "has_gpu", lambda: True)
    assert chosen_runtimes(trained.model_dir)[0] == "cuda"


def test_training_leaves_the_times_of_all_runtimes_that_agree(trained: Trained) -> None:
    found = Measurement.read((trained.model_dir / MEASUREMENT_FILE).read_text())
    assert found is not None
    assert {*found.milliseconds, *found.disagreements} == set(candidates()) <= set(USABLE)


@pytest.mark.parametrize(
    ("change", "is_measured"),
    [
        ("print('a line of a library')", True),
        ("import os; os.write(1, b'{}' + bytes([10]))", True),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", False),
        ("raise SystemExit('nothing')", False),
        ("print('no measurement'); raise SystemExit", False),
    ],
)
def test_whatever_a_runtime_prints_or_does_costs_the_training_a_measurement_at_most(
    trained: Trained, tmp_path: Path, change: str, is_measured: bool
) -> None:
    steps = shutil.copytree(trained.model_dir / "code", tmp_path / "code")
    module = steps / "classifier/model/runtimes.py"
    module.write_text(module.read_text() + f"if '-m' in sys.orig_argv:\n    {change}\n")
    program = "from pathlib import Path; import sys; from classifier.model.runtime_trial import measured_apart as apart"
    program += "; found = apart(Path(sys.argv[1]), ['onnxruntime']); print(bool(found and found.milliseconds))"
    command = [sys.executable, "-c", program, str(trained.model_dir)]
    ran = subprocess.run(command, cwd=steps, env=base_environment(), capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == str(is_measured)
    assert ("The runtimes were not measured" in ran.stdout) != is_measured


def test_an_endpoint_serves_with_what_training_chose_and_falls_back_where_that_does_not_start(
    trained: Trained, tmp_path: Path
) -> None:
    model = with_measurement(trained, tmp_path, {"onnxruntime": 10.0, "torchscript": 1.0})
    with serving(model, tmp_path / "a", INFERENCE_RUNTIME="auto") as server:
        assert server.metrics()['classifier_runtime_info{runtime="torchscript"}'] == 1
        assert server.invoke(picture())[0] == 200
    (model / "model.pt").write_bytes(b"damaged")
    with serving(model, tmp_path / "b", INFERENCE_RUNTIME="auto") as server:
        assert server.metrics()['classifier_runtime_info{runtime="onnxruntime"}'] == 1
    assert server.output.read_text().startswith("The runtime torchscript did not start: trying onnxruntime\nServing 3 ")


def test_a_runtime_that_disagrees_with_the_trained_network_is_neither_chosen_nor_served(
    trained: Trained, tmp_path: Path
) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    samples = Samples.load(model)
    replace(samples, probabilities=samples.probabilities[:, ::-1]).save(model)
    found = measure(model, ["onnxruntime"])
    assert found.milliseconds == {}
    assert found.disagreements["onnxruntime"].startswith("a probability differs by ")
    with serving(model, tmp_path, fails=True) as server:
        code, stdout, stderr = server.end()
    assert (code, stdout) == (1, "")
    assert stderr.startswith("The runtime onnxruntime is not used: a probability differs by ")
    assert stderr.endswith("and 0.01 is accepted. Set deploy.runtime to auto or to another.\n")


def test_what_the_machine_or_the_model_lacks_is_one_sentence(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda: False)
    with pytest.raises(StepError, match=r"^The runtime bf16 cannot be used: the processor has neither AVX512_BF16 nor"):
        load_runtime("bf16", trained.model_dir)
    for name in ("model.onnx", "model.pt"):
        (tmp_path / name).write_bytes(b"no model")
    for name, file in [("onnxruntime", "ONNX"), ("openvino", "ONNX"), ("torchscript", "TorchScript")]:
        with pytest.raises(StepError, match=rf"is no {file} model \(.*\)\. Train it again\."):
            load_runtime(name, tmp_path)
        with pytest.raises(StepError, match="holds no model"):
            load_runtime(name, tmp_path / "nothing")


def test_openvino_brings_nothing_that_sends_statistics(trained: Trained) -> None:
    program = "from pathlib import Path; import sys; from classifier.model.runtimes import load_runtime"
    program += "; load_runtime('openvino', Path(sys.argv[1])); print(*sys.modules)"
    command = [sys.executable, "-c", program, str(trained.model_dir)]
    loaded = subprocess.run(command, cwd=STEPS, capture_output=True, text=True, check=True).stdout.split()
    assert "openvino" in loaded
    assert not [name for name in loaded if "telemetry" in name]


def test_every_runtime_of_the_configuration_exists() -> None:
    from pipeline.hosting_config import RUNTIMES as CONFIGURED

    assert (runtimes.AUTO, *RUNTIMES) == CONFIGURED


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
KINDS = {
    "EXIF rotation": saved(photo(), "JPEG", exif=ROTATED.tobytes()),
    "alpha": saved(photo("RGBA"), "PNG"),
    "alpha in a palette": saved(photo("P"), "PNG", transparency=3),
    "CMYK": saved(photo("CMYK"), "JPEG"),
    "16 bits": saved(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13), "PNG"),
    "animated": saved(photo("P"), "GIF", save_all=True, append_images=[Image.new("P", (80, 60), 3)]),
    "grey": saved(photo("L"), "JPEG"),
    "a strip": saved(photo().resize((900, 20)), "PNG"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_served_the_very_pixels_that_training_and_evaluation_show_it(
    trained: Trained, kind: str
) -> None:
    predictor = Predictor(trained.model_dir, runtime=load_runtime("onnxruntime", trained.model_dir))
    served, preprocess = crop(predictor, KINDS[kind]), predictor.preprocess
    stored = shrink(decode(KINDS[kind], max_pixels=DEFAULT_MAX_PIXELS), preprocess)  # as PrepareData keeps it
    assert served.tobytes() == to_pixels(stored, preprocess).tobytes()
    assert served.tobytes() == predictor.pixels(KINDS[kind]).tobytes()
    for mode in ("RGB", "RGBA", "L"):
        same = crop(predictor, np.asarray(photo(mode))).tobytes()
        assert same == crop(predictor, saved(photo(mode), "PNG")).tobytes()
