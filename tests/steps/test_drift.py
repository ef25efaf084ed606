"""Drift: distances of samples whose populations are known, captured events of every kind, the report of a process."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captured import Event, events
from drift_statistics import baseline, binned, chance, class_counts, compared, distance, level, pixel_figures
from images import Preprocess, decode, to_pixels
from tests.steps.prepared_data import run_step

PREPROCESS = Preprocess(16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ["cat", "dög\u2028"]
DESCRIPTION = {"classes": CLASSES, "preprocess": PREPROCESS.to_dict()}


def picture(shade: int, noise: np.random.Generator) -> bytes:
    """A PNG of about one shade of grey."""
    pixels = np.clip(shade + noise.normal(0, 10, (16, 16, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(count: int, low: int, high: int, seed: int) -> list[bytes]:
    noise = np.random.default_rng(seed)
    return [picture(int(noise.integers(low, high)), noise) for _ in range(count)]


def confidences(count: int, seed: int) -> Any:
    return 0.5 + 0.5 * np.random.default_rng(seed).random(count)


def event_line(image: bytes, answer: Any, **members: Any) -> str:
    """As the service captures an invocation."""
    sent = {"data": base64.b64encode(image).decode(), "encoding": "BASE64"}
    said = {"data": json.dumps(answer), "encoding": "JSON"}
    data = {"endpointInput": sent, "endpointOutput": said, **members}
    return json.dumps({"captureData": data, "eventVersion": "0"}, ensure_ascii=False)


def write_baseline(folder: Path) -> Path:
    """Of 300 test images, half of them cats."""
    found = confidences(300, 1)
    rows = np.where(np.arange(300)[:, None] % 2 == [0, 1], found[:, None], 1 - found[:, None]).astype(np.float32)
    crops = np.stack([to_pixels(decode(f, max_pixels=10**6), PREPROCESS) for f in pictures(300, 60, 200, 2)])
    path = folder / "baseline.json"
    path.write_text(json.dumps(baseline(rows, pixel_figures(crops), DESCRIPTION)))
    return path


def drift(folder: Path, lines: list[str]) -> Any:
    """The script, in a process."""
    captured = folder / "captured.jsonl"
    captured.write_text("\n".join(lines))
    known = write_baseline(folder)
    return run_step(
        "drift.py",
        "--captured",
        str(captured),
        "--baseline",
        str(known),
        "--report-dir",
        str(folder / "report"),
        env={},
    )


def lines_of(images: list[bytes], seed: int) -> list[str]:
    """Answers as likely as in the test split, in both forms."""
    found = []
    for number, (image, score) in enumerate(zip(images, confidences(len(images), seed), strict=True)):
        label = number % 2
        verbose = {"label": CLASSES[label], "score": score}
        found.append(event_line(image, verbose if number % 3 else [score, 1 - score][:: 1 - 2 * label]))
    return found


def test_pixel_figures_are_luma_contrast_and_saturation():
    crops = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    crops[0, 0] = 200
    crops[1] = (255, 0, 0)
    assert pixel_figures(crops) == pytest.approx(np.array([[100, 100, 0], [0.299 * 255, 0, 255]]))


def test_bins_are_closed_above_so_that_a_constant_figure_notices_a_rise():
    assert binned(np.array([0.0, 0.0, 1.0]), np.array([0.0])).tolist() == [2, 1]
    assert class_counts(np.array([1, 1]), 3).tolist() == [0, 2, 0]


def test_the_distance_is_the_population_stability_index():
    assert distance(np.array([50, 50]), np.array([50, 50])) == 0
    half, third = 0.5, 30.5 / 91
    expected = (third - half) * math.log(third / half) + (half - third) * math.log((1 - third) / half)
    assert distance(np.array([50, 50]), np.array([30, 60])) == pytest.approx(expected)
    assert math.isfinite(distance(np.array([5, 0]), np.array([0, 5])))


def test_samples_of_one_population_rarely_are_beyond_chance():
    noise, beyond = np.random.default_rng(0), 0
    for _ in range(1000):
        first, second = noise.multinomial(200, [0.1] * 10), noise.multinomial(100, [0.1] * 10)
        beyond += distance(first, second) > chance(first, second)
    assert 1 <= beyond <= 30


@pytest.mark.parametrize(
    ("value", "by_chance", "verdict"),
    [(0.09, 0, "none"), (0.1, 0, "moderate"), (0.25, 0.2, "major"), (0.3, 0.3, "none"), (0.2, 0.3, "none")],
)
def test_the_verdict_needs_the_size_and_more_than_chance(value, by_chance, verdict):
    assert level(value, by_chance) == verdict


def test_a_single_bin_tells_nothing():
    assert compared(np.array([7]), np.array([9])) == {
        "distance": 0.0, "by_chance": 0.0, "drift": "none", "expected": [1.0], "found": [1.0],
    }  # fmt: skip


def test_events_are_read_and_what_is_no_image_with_its_answer_is_passed_over():
    text = {"data": '{"images": []}', "encoding": "JSON"}
    lines = [
        event_line(b"image", {"label": CLASSES[1], "score": 0.75}),
        event_line(b"image", [0.875, 0.125]),
        event_line(b"image", [0.5, 0.25, 0.25]),
        event_line(b"image", {"label": "cow", "score": 0.75}),
        event_line(b"image", "word"),
        event_line(b"image", [1, 0], endpointInput=text | {"encoding": "BASE64"}),
        '{"captureData": {}}',
        "[]",
        "no JSON",
    ]
    assert list(events(iter(lines), CLASSES)) == [Event(b"image", 1, 0.75), Event(b"image", 0, 0.875), *[None] * 7]


def test_images_like_those_of_the_test_split_show_no_drift(tmp_path):
    done = drift(tmp_path, [*lines_of(pictures(200, 60, 200, 3), 4), "no JSON"])
    assert (done.returncode, done.stdout) == (0, "200 images: no drift\n"), done.stderr
    document = json.loads((tmp_path / "report/drift.json").read_text())
    assert (document["drift"], document["images"], document["events_passed_over"]) == ("none", 200, 1)
    assert document["mean_confidence"] == pytest.approx(confidences(200, 4).mean())
    assert list(document["statistics"]) == ["confidence", "brightness", "contrast", "saturation", "predicted class"]


def test_darker_images_are_major_drift_of_the_brightness_alone(tmp_path):
    done = drift(tmp_path, lines_of(pictures(200, 40, 80, 3), 4))
    assert done.stdout == "200 images: major drift\n", done.stderr
    statistics = json.loads((tmp_path / "report/drift.json").read_text())["statistics"]
    assert [name for name, found in statistics.items() if found["drift"] == "major"] == ["brightness"]
    page = (tmp_path / "report/drift.html").read_text()
    assert "<title>Drift: major drift</title>" in page
    assert "dög" in page
    assert "http" not in page


def test_another_mix_of_classes_is_drift(tmp_path):
    cats = [event_line(image, [0.75, 0.25]) for image in pictures(100, 60, 200, 3)]
    assert drift(tmp_path, cats).stdout == "100 images: major drift\n"
    statistics = json.loads((tmp_path / "report/drift.json").read_text())["statistics"]
    assert {name: found["drift"] for name, found in statistics.items()} == {
        "confidence": "major", "brightness": "none", "contrast": "none", "saturation": "none",
        "predicted class": "major",
    }  # fmt: skip


def test_images_that_cannot_be_read_are_no_evidence(tmp_path):
    done = drift(tmp_path, [event_line(b"noise", [1, 0]), "no JSON"])
    assert (done.returncode, done.stderr) == (1, "No event of the 2 captured is of one image and its answer.\n")
    known = tmp_path / "baseline.json"
    known.write_text("{")
    words = ["--captured", str(known), "--baseline", str(known), "--report-dir", str(tmp_path)]
    assert run_step("drift.py", *words, env={}).stderr.startswith(f"{known} is no baseline of EvaluateModel's (")
