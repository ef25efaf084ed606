"""What can run the network, whether it agrees with the trained one, and which is chosen."""

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.job.failures import StepError
from classifier.model import export, runtimes
from classifier.model.predictor import Predictor
from classifier.model.runtime_choice import (
    MEASUREMENT_FILE,
    Measurement,
    candidates,
    fallbacks,
    first_runtime,
    measured_in_training,
)
from classifier.model.runtime_trial import measure
from classifier.model.runtimes import RUNTIMES, load_runtime
from classifier.model.samples import Samples, disagreement
from classifier.serving.batching import Batched
from tests.steps.prepared_data import STEPS, Prepared, Trained

USABLE = [name for name in ("onnxruntime", "openvino", "torchscript", "bf16") if runtimes.missing(name) is None]


@pytest.mark.parametrize("name", USABLE)
def test_every_runtime_agrees_with_the_trained_network_on_any_number_of_images_and_threads(
    trained: Trained, name: str
) -> None:
    samples = Samples.load(trained.model_dir)
    runtime = load_runtime(name, trained.model_dir, threads=2)
    for threads in (1, 2, 5):
        answers = runtime.run(samples.images(), threads)
        tolerance = 0.1 if name == "bf16" else 0.01  # one that is further off than 0.01 is not chosen by auto
        np.testing.assert_allclose(answers, samples.probabilities, atol=tolerance)
    assert disagreement(runtime, samples, rounding=runtime.rounding) is None


def test_onnx_predictions_of_the_test_split_are_those_that_evaluation_scores(
    trained: Trained, prepared: Prepared
) -> None:
    files = prepared.test_files
    scored = Predictor(trained.model_dir).predict(files)
    served = Predictor(trained.model_dir, runtime=load_runtime("onnxruntime", trained.model_dir)).predict(files)
    np.testing.assert_array_equal(served.argmax(axis=1), scored.argmax(axis=1))
    np.testing.assert_allclose(served, scored, atol=1e-4)


class Fixed:
    """A runtime that answers from a table, image by image."""

    batch = 1
    rounding = 0.0

    def __init__(self, rows: Any) -> None:
        self.rows = list(rows)

    def run(self, images: Any, threads: int) -> Any:
        return np.stack([self.rows.pop(0) for _ in images])


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([[0.8, 0.2], [0.5, 0.5]], None),
        ([[0.7, 0.3], [0.495, 0.505]], "a probability differs by 0.1 from the trained network's, and 0.01 is accepted"),
        ([[0.8, 0.2], [0.496, 0.504]], "it names another class for 1 of 2 sample images"),
        ([[0.8, np.nan], [0.5, 0.5]], "a probability differs by nan from the trained network's, and 0.01 is accepted"),
        ([[0.8], [0.5]], "it answers with shape (2, 1) instead of (2, 2)"),
    ],
)
def test_a_runtime_that_disagrees_is_found_out(answers: Any, reason: str | None) -> None:
    expected = np.array([[0.8, 0.2], [0.502, 0.498]], np.float32)
    samples = Samples(np.zeros((2, 4, 4, 3), np.uint8), np.full(3, 0.5), np.full(3, 0.5), expected)
    assert disagreement(Fixed(np.array(answers, np.float32)), samples) == reason


def test_a_runtime_of_less_precision_that_is_asked_for_may_round() -> None:
    expected = np.array([[0.8, 0.2], [0.55, 0.45]], np.float32)
    samples = Samples(np.zeros((2, 4, 4, 3), np.uint8), np.full(3, 0.5), np.full(3, 0.5), expected)
    rounded = np.array([[0.75, 0.25], [0.48, 0.52]], np.float32)
    assert disagreement(Fixed(rounded), samples, rounding=0.09) is None
    assert disagreement(Fixed(rounded), samples) is not None
    wrong = np.array([[0.65, 0.35], [0.55, 0.45]], np.float32)
    told = "a probability differs by 0.15 from the trained network's, and 0.1 is accepted"
    assert disagreement(Fixed(wrong), samples, rounding=0.09) == told


def test_samples_with_a_clear_answer_are_kept_and_others_where_a_loss_of_precision_shows() -> None:
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.48, 0.52]], np.float32)
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    samples = Samples(pixels, np.zeros(3), np.ones(3), probabilities)
    assert samples.clearest(2).pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert samples.closest(2).pixels[:, 0, 0, 0].tolist() == [2, 1]  # others could be turned around by what is accepted
    unclear = Samples(pixels[::3], np.zeros(3), np.ones(3), probabilities[::3])
    assert unclear.closest(1).pixels[:, 0, 0, 0].tolist() == [3]


def test_training_leaves_times_that_an_endpoint_on_such_a_processor_trusts(trained: Trained, tmp_path: Path) -> None:
    found = measured_in_training(trained.model_dir)
    assert found is not None
    assert {*found.milliseconds, *found.disagreements} == set(candidates("onnxruntime"))
    stored = json.dumps(asdict(replace(found, processor="another")))
    (tmp_path / MEASUREMENT_FILE).write_text(stored)
    assert measured_in_training(tmp_path) is None
    assert measured_in_training(tmp_path / "nothing") is None
    (tmp_path / MEASUREMENT_FILE).write_text(json.dumps(asdict(replace(found, milliseconds={}, disagreements={}))))
    assert measured_in_training(tmp_path) is None  # another runtime has been installed since


def test_a_model_whose_onnx_file_is_another_network_is_not_served_with_it(trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    samples = Samples.load(model)
    replace(samples, probabilities=samples.probabilities[:, ::-1]).save(model)
    found = measure(model, ["onnxruntime"])
    assert found.milliseconds == {}
    assert found.disagreements["onnxruntime"].startswith("a probability differs by ")


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [
        ({"onnxruntime": 10.0, "bf16": 8.9, "torchscript": 20.0}, "bf16"),
        ({"onnxruntime": 10.0, "bf16": 9.1}, "onnxruntime"),
        ({"onnxruntime": 10.0}, "onnxruntime"),
        ({"torchscript": 20.0, "bf16": 15.0}, "bf16"),
        ({}, "onnxruntime"),
    ],
)
def test_another_runtime_must_be_clearly_faster(milliseconds: dict[str, float], best: str) -> None:
    assert Measurement("p", milliseconds, {}).fastest("onnxruntime") == best


def test_the_log_says_what_was_measured_and_what_is_not_used() -> None:
    told = Measurement("p", {"torchscript": 20.04, "onnxruntime": 10.0}, {"bf16": "it names another class"}).told()
    assert told == "onnxruntime 10.0 ms; torchscript 20.0 ms; bf16 not used: it names another class"


def test_a_runtime_that_the_machine_lacks_is_one_sentence(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "processor_flags", lambda: {"avx2"})
    with pytest.raises(StepError) as caught:
        load_runtime("bf16", trained.model_dir)
    assert str(caught.value) == (
        "The runtime bf16 cannot be used: the processor has neither AVX512_BF16 nor AMX. "
        "Set deploy.runtime to auto or to another."
    )


def test_a_gpu_is_used_first_and_a_model_without_onnx_is_run_by_torch(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_runtime(tmp_path) == "torchscript"
    assert first_runtime(trained.model_dir) == "onnxruntime"
    monkeypatch.setattr("classifier.model.runtime_choice.has_gpu", lambda: True)
    monkeypatch.setattr(runtimes, "has_gpu", lambda: True)
    assert first_runtime(trained.model_dir) == "cuda"
    assert (candidates("cuda"), fallbacks("cuda")) == (["cuda"], ["onnxruntime", "torchscript"])


def test_a_damaged_network_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (tmp_path / "model.pt").write_bytes(b"no model")
    files = {"onnxruntime": "ONNX", "openvino": "ONNX", "torchscript": "TorchScript"}
    for name, file in [(name, files[name]) for name in USABLE if name in files]:
        with pytest.raises(StepError, match=rf"is no {file} model \(.*\)\. Train it again\."):
            load_runtime(name, tmp_path)


def test_bfloat16_is_openvinos_where_that_is_installed(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    if runtimes.missing("bf16"):
        pytest.skip("the processor has no bfloat16")
    assert isinstance(load_runtime("bf16", trained.model_dir), runtimes.OpenVinoBfloat16)
    installed = runtimes.find_spec
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "openvino" else installed(name))
    assert isinstance(load_runtime("bf16", trained.model_dir), runtimes.TorchBfloat16)
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert runtimes.missing("bf16") == "the package torch is not installed"


def test_a_runtime_that_takes_its_process_down_costs_the_training_a_measurement_only(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    monkeypatch.setattr(export, "trial_command", lambda *_: crash)
    assert export.measured_apart(trained.model_dir, ["onnxruntime"]) is None
    assert capsys.readouterr().out == "The runtimes were not measured: their process ended with status -11\n"


def test_openvino_brings_nothing_that_sends_statistics() -> None:
    program = (
        "import sys; from classifier.model.runtimes import import_openvino; import_openvino(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], cwd=STEPS, capture_output=True, text=True, check=True)
    assert "openvino" in loaded.stdout.split()
    assert not [name for name in loaded.stdout.split() if "telemetry" in name]


def test_every_runtime_of_the_configuration_exists() -> None:
    from pipeline.hosting_config import RUNTIMES as CONFIGURED

    assert (runtimes.AUTO, *RUNTIMES) == CONFIGURED


class Device:
    """Stands for a GPU: notes the batches, and is busy with the first until it is released."""

    batch = 4
    rounding = 0.0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.busy, self.released = threading.Event(), threading.Event()

    def run(self, images: Any, threads: int) -> Any:
        self.batches.append(len(images))
        self.busy.set()
        assert self.released.wait(10)
        return images.reshape(len(images), -1)[:, :1]


def test_requests_that_wait_for_the_device_become_one_batch_and_get_their_own_rows() -> None:
    device = Device()
    batched = Batched(device)
    images = [np.full((count, 3, 2, 2), number, np.float32) for number, count in enumerate([1, 2, 1, 3])]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(batched.run, images[0], 1)]
        assert device.busy.wait(10)
        waiting += [pool.submit(batched.run, image, 1) for image in images[1:]]
        while batched.waiting < 3:
            time.sleep(0.001)
        device.released.set()
        answers = [future.result(10) for future in waiting]
    assert [answer.ravel().tolist() for answer in answers] == [[0], [1, 1], [2], [3, 3, 3]]
    assert (device.batches[0], sum(device.batches), len(device.batches)) == (1, 7, 3)
