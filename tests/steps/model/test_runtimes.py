"""What can run the network, whether it agrees with the trained one, and which of them an endpoint takes."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import decode, shrink, to_pixels
from classifier.data.prepared_images import sample_files
from classifier.job.failures import StepError
from classifier.model import runtimes
from classifier.model.export import REAL, SYNTHETIC, worth_keeping
from classifier.model.predictor import DEFAULT_MAX_PIXELS, Predictor, disagreement, load_samples, measure, measure_apart
from classifier.model.runtimes import MEASUREMENT_FILE, RUNTIMES, chosen_runtimes, load_runtime, missing
from tests.steps.prepared_data import CLASSES, STEPS, Prepared, Trained
from tests.steps.serving.server_process import Server, serving

USABLE = [name for name in RUNTIMES if missing(name) is None]


@pytest.fixture
def model(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the model, to be changed."""
    return shutil.copytree(trained.model_dir, tmp_path / "model")


def measured(model: Path) -> dict[str, Any]:
    return json.loads((model / MEASUREMENT_FILE).read_text())


@pytest.mark.parametrize("name", USABLE)
def test_every_runtime_agrees_with_the_trained_network_on_any_number_of_images_and_threads(
    trained: Trained, name: str
) -> None:
    images, expected = samples = load_samples(trained.model_dir)
    runtime = load_runtime(name, trained.model_dir, threads=2)
    for threads in (1, 2, 5):
        np.testing.assert_allclose(runtime.run(images, threads), expected, atol=0.01 + runtime.rounding)
    assert disagreement(runtime, samples, rounding=runtime.rounding) is None


@pytest.mark.parametrize(
    ("answers", "rounding", "reason"),
    [
        ([[0.8, 0.2], [0.495, 0.505]], 0.0, None),
        ([[0.7, 0.3], [0.495, 0.505]], 0.0, "a probability differs by 0.1 from the trained network's, and 0.01 is acc"),
        ([[0.8, np.nan], [0.5, 0.5]], 0.0, "a probability differs by nan from the trained network's, and 0.01 is acc"),
        ([[0.8], [0.5]], 0.0, "it answers with shape (2, 1) instead of (2, 2)"),
        ([[0.75, 0.25], [0.48, 0.52]], 0.0, "a probability differs by 0.05 from the trained network's, and 0.01 is a"),
        ([[0.75, 0.25], [0.48, 0.52]], 0.09, None),  # of less precision, and asked for
        ([[0.65, 0.35], [0.55, 0.45]], 0.09, "a probability differs by 0.15 from the trained network's, and 0.1 is a"),
    ],
)
def test_a_runtime_that_disagrees_is_found_out(answers: Any, rounding: float, reason: str | None) -> None:
    samples = np.zeros((2, 3, 4, 4), np.float32), np.array([[0.8, 0.2], [0.502, 0.498]], np.float32)
    rows = iter(np.array(answers, np.float32)[:, None])
    runtime: Any = SimpleNamespace(run=lambda images, threads: next(rows))  # image by image
    found = disagreement(runtime, samples, rounding=rounding)
    assert found is None if reason is None else str(found).startswith(reason)


def test_real_images_with_a_clear_answer_are_kept_and_synthetic_ones_where_a_loss_of_precision_shows() -> None:
    leads = [0.1, 0.9, 0.3, 0.02, 0.5, *(0.01, 0.8, 0.06, 0.7, 0.6, 0.5, 0.4, 0.3)]
    probabilities = np.array([[(1 + lead) / 2, (1 - lead) / 2] for lead in leads], np.float32)
    assert worth_keeping(probabilities, real=5) == [1, 4, 2, 0, *(8, 9, 10, 11, 12, 7)]
    assert worth_keeping(probabilities[:6], real=5)[4:] == [5]  # where none is safe


def test_the_model_carries_real_images_with_the_answers_of_its_network(prepared: Prepared, trained: Trained) -> None:
    folders = (prepared.manifest, trained.model_dir)
    sent, kept = ([path.read_bytes() for path in sample_files(folder)] for folder in folders)
    assert len(CLASSES) == len(sent) <= REAL and kept == sent
    predictor, (images, answers) = Predictor(trained.model_dir), load_samples(trained.model_dir)
    assert len(images) == len(kept) + SYNTHETIC
    expected = predictor.predict(kept)
    order = np.argsort(-np.ptp(np.sort(expected, axis=1)[:, -2:], axis=1))
    np.testing.assert_allclose(answers[: len(kept)], expected[order], atol=1e-5)


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"onnxruntime": 10.0, "torchscript": 8.9, "openvino": 20.0}, ["torchscript", "onnxruntime", "openvino"]),
        ({"onnxruntime": 10.0, "torchscript": 9.1}, ["onnxruntime", "torchscript"]),  # not clearly faster
        ({"openvino": 20.0, "torchscript": 15.0}, ["torchscript", "openvino", "onnxruntime"]),
        ({"onnxruntime": 10.0, "another": 1.0}, ["onnxruntime", "torchscript"]),  # not installed here
        (None, ["onnxruntime", "torchscript"]),
    ],
)
def test_auto_takes_what_training_found_clearly_faster(tmp_path: Path, milliseconds: Any, chosen: list[str]) -> None:
    if milliseconds:
        text = json.dumps({"milliseconds": milliseconds, "disagreements": {}})
        (tmp_path / MEASUREMENT_FILE).write_text(text)
    assert chosen_runtimes(tmp_path) == [*(["cuda"] if "cuda" in USABLE else []), *chosen]


def test_a_gpu_is_used_first_and_a_runtime_that_is_missing_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = {"bf16": "the processor has neither AVX512_BF16 nor AMX"}
    monkeypatch.setattr(runtimes, "missing", lacks.get)
    assert chosen_runtimes(tmp_path)[0] == "cuda"
    with pytest.raises(StepError, match=r"^The runtime bf16 cannot be used: the processor has neither .* or to anothe"):
        load_runtime("bf16", tmp_path)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torchscript"])
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(StepError, match=r"holds no model\..*\. A model of the final training has one\.$"):
        load_runtime(name, tmp_path)
    for file in ("model.onnx", "model.pt"):
        (tmp_path / file).write_bytes(b"no model")
    with pytest.raises(StepError, match=r"/model\.\w+ cannot be loaded \(.*\)\. Train the model again\.$"):
        load_runtime(name, tmp_path)


@pytest.mark.parametrize(
    ("library", "status"),
    [("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11), ("import os; os._exit(0)", 0)],
)
def test_a_runtime_that_ends_its_process_costs_the_training_a_measurement_at_most(
    trained: Trained, model: Path, library: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert {*measured(model)["milliseconds"], *measured(model)["disagreements"]} == {*USABLE} - {"cuda"}
    (model / MEASUREMENT_FILE).unlink()
    (model / "openvino.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", str(model))
    assert measure_apart(model) == {}
    assert measured(model)["milliseconds"].keys() == {"onnxruntime", "torchscript"}
    assert capsys.readouterr().out == f"The runtimes were not measured: their process ended with status {status}\n"


def test_a_runtime_that_disagrees_with_the_trained_network_is_neither_chosen_nor_served(
    model: Path, tmp_path: Path
) -> None:
    with np.load(model / "samples.npz") as stored:
        flipped = dict(stored) | {"probabilities": stored["probabilities"][:, ::-1]}
    np.savez(model / "samples.npz", **flipped)
    found = measure(model, ["onnxruntime"])
    assert found["milliseconds"] == {}
    assert found["disagreements"]["onnxruntime"].startswith("a probability differs by ")
    with serving(model, tmp_path, fails=True) as server:
        code, stdout, stderr = server.end()
    assert (code, stdout) == (1, "")
    assert stderr.startswith("The runtime onnxruntime is not used: a probability differs by ")
    assert stderr.endswith("and 0.01 is accepted. Set deploy.runtime to auto or to another.\n")


def test_an_endpoint_starts_with_a_real_image_and_not_if_that_is_refused(model: Path, tmp_path: Path) -> None:
    sample_files(model)[0].write_bytes(b"no image")
    with serving(model, tmp_path, fails=True) as server:
        code, _, stderr = server.end()
    assert code == 1 and stderr.startswith("The model does not answer for ")
    assert stderr.endswith(": The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image. Train it again.\n")


def test_openvino_brings_nothing_that_sends_statistics(trained: Trained) -> None:
    program = "from pathlib import Path; import sys; from classifier.model.runtimes import load_runtime"
    program += "; load_runtime('openvino', Path(sys.argv[1])); print(*sys.modules)"
    command = [sys.executable, "-c", program, str(trained.model_dir)]
    loaded = subprocess.run(command, cwd=STEPS, capture_output=True, text=True, check=True).stdout.split()
    assert "openvino" in loaded
    assert not [name for name in loaded if "telemetry" in name]


def test_every_runtime_of_the_configuration_exists() -> None:
    from pipeline.config.sections import Runtime

    assert (runtimes.AUTO, *RUNTIMES) == get_args(Runtime)


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), format_name, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
KINDS = {
    "EXIF rotation": saved(photo(), "JPEG", exif=ROTATED.tobytes()),
    "alpha in a palette": saved(photo("P"), "PNG", transparency=3),
    "16 bits": saved(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13), "PNG"),
    "animated": saved(photo("P"), "GIF", save_all=True, append_images=[Image.new("P", (80, 60), 3)]),
    "a strip": saved(photo().resize((900, 20)), "PNG"),
}


def assert_served_as_trained(server: Server, predictor: Predictor) -> None:
    """Each kind of image is answered for the very pixels that PrepareData stores, and an array for those of a file."""
    for kind, file in KINDS.items():
        stored = shrink(decode(file, max_pixels=DEFAULT_MAX_PIXELS), predictor.preprocess)
        expected = predictor.probabilities(to_pixels(stored, predictor.preprocess)[None])[0]
        np.testing.assert_allclose(server.invoke(file, "application/x-image")[1], expected, atol=1e-6, err_msg=kind)
    for mode in ("RGB", "RGBA", "L"):
        np.save(array := io.BytesIO(), np.asarray(photo(mode)))
        as_file = server.invoke(saved(photo(mode), "PNG"))
        assert server.invoke(array.getvalue(), "application/x-npy") == as_file


def test_an_endpoint_serves_with_what_training_chose_and_falls_back_where_that_does_not_start(
    model: Path, tmp_path: Path
) -> None:
    text = json.dumps({"milliseconds": {"onnxruntime": 10.0, "torchscript": 1.0}, "disagreements": {}})
    (model / MEASUREMENT_FILE).write_text(text)
    with serving(model, tmp_path / "a", INFERENCE_RUNTIME="auto") as server:
        assert server.metrics()['classifier_runtime_info{runtime="torchscript"}'] == 1
        assert_served_as_trained(server, Predictor(model, 1))
    (model / "model.pt").write_bytes(b"damaged")
    with serving(model, tmp_path / "b", INFERENCE_RUNTIME="auto") as server:
        assert server.metrics()['classifier_runtime_info{runtime="onnxruntime"}'] == 1
    assert server.output.read_text().startswith("The runtime torchscript did not start: trying onnxruntime\nServing 3 ")
