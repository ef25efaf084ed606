"""Drift: statistics of samples whose populations are known, captured events of every kind, the report of a process."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classifier.drift.statistics import binned, compared, level, pixel_figures
from drift import usable_events
from tests.steps.prepared_data import run_step
from tests.support.drift_model import CLASSES, PREPROCESS, event_line, lines_of, pictures, png, write_model


def drift(folder: Path, lines: list[str]) -> Any:
    """The script, in a process."""
    captured = folder / "captured.jsonl"
    captured.write_text("\n".join(lines))
    if not (folder / "model").exists():
        write_model(folder / "model")
    options = {"captured": captured, "model-dir": folder / "model", "baseline": folder / "model" / "baseline.json"}
    words = [f"--{name}={value}" for name, value in {**options, "report-dir": folder / "report"}.items()]
    return run_step("drift.py", *words, env={})


def test_pixel_figures_are_luma_contrast_and_saturation():
    crops = np.zeros((2, 2, 2, 3), dtype=np.uint8)
    crops[0, 0] = 200
    crops[1] = (255, 0, 0)
    assert pixel_figures(crops) == pytest.approx(np.array([[100, 100, 0], [0.299 * 255, 0, 255]]))


def test_bins_are_closed_above_so_that_a_constant_figure_notices_a_rise():
    assert binned(np.array([0.0, 0.0, 1.0]), np.array([0.0])).tolist() == [2, 1]


def test_the_distance_is_the_population_stability_index():
    assert compared(np.array([50, 50]), np.array([50, 50]))["distance"] == 0
    half, third = 0.5, 30.5 / 91
    expected = (third - half) * math.log(third / half) + (half - third) * math.log((1 - third) / half)
    assert compared(np.array([50, 50]), np.array([30, 60]))["distance"] == pytest.approx(expected)
    assert math.isfinite(compared(np.array([5, 0]), np.array([0, 5]))["distance"])


def test_samples_of_one_population_rarely_are_beyond_chance():
    noise, beyond = np.random.default_rng(0), 0
    for _ in range(1000):
        found = compared(noise.multinomial(200, [0.1] * 10), noise.multinomial(100, [0.1] * 10))
        beyond += found["distance"] > found["by_chance"]
    assert 1 <= beyond <= 30


@pytest.mark.parametrize(
    ("value", "by_chance", "verdict"),
    [(0.09, 0, "none"), (0.1, 0, "moderate"), (0.25, 0.2, "major"), (0.3, 0.3, "none"), (0.2, 0.3, "none")],
)
def test_the_verdict_needs_the_size_and_more_than_chance(value, by_chance, verdict):
    assert level(value, by_chance) == verdict


def test_a_single_bin_tells_nothing():
    found = compared(np.array([7]), np.array([9]))
    assert (found["distance"], found["by_chance"], found["drift"], found["found"]) == (0.0, 0.0, "none", [1.0])


def test_events_are_read_and_what_is_no_image_with_its_answer_is_passed_over():
    text = {"data": '{"images": []}', "encoding": "JSON"}
    image = png(pictures(1, 0)[0])
    lines = [
        event_line(image, {"label": CLASSES[1], "score": 0.75}),
        event_line(image, [0.875, 0.125]),
        event_line(image, [0.5, 0.25, 0.25]),
        event_line(image, {"label": "cow", "score": 0.75}),
        event_line(image, "word"),
        event_line(image, [1, 0], endpointInput=text | {"encoding": "BASE64"}),
        event_line(b"no image", [1, 0]),
        '{"captureData": {}}',
        "[]",
        "no JSON",
    ]
    found = [event for event, _ in usable_events(lines, PREPROCESS, CLASSES)]
    assert [(event.image, event.label, event.confidence) for event in found] == [(image, 1, 0.75), (image, 0, 0.875)]


def document_of(folder: Path) -> dict[str, Any]:
    """drift.json."""
    return dict(json.loads((folder / "report" / "drift.json").read_text()))


def test_images_like_those_of_the_training_are_no_drift(tmp_path):
    done = drift(tmp_path, [*lines_of(pictures(90, 3)), "no JSON"])
    assert done.returncode == 0, done.stderr
    document = document_of(tmp_path)
    assert done.stdout == f"90 images: no drift, score {document['drift_score']:.2f}\n"
    assert (document["drift"], document["images"], document["reference_images"]) == (False, 90, 200)
    assert document["drift_score"] == document["distance"] / document["threshold"] < 1
    assert document["p_value"] > 0.01
    assert document["unusual_share"] <= 0.05
    assert list(document["coordinates"])[-2:] == ["component 16", "what they leave"]
    assert list(document["statistics"]) == ["confidence", "brightness", "contrast", "saturation", "predicted class"]
    assert {found["drift"] for found in document["statistics"].values()} == {"none"}


def test_darker_images_are_drift_and_the_report_says_what_differs(tmp_path):
    done = drift(tmp_path, lines_of(pictures(60, 3, low=40, high=90)))
    assert done.stdout.startswith("60 images: drift, score "), done.stderr
    document = document_of(tmp_path)
    assert document["drift"] is True
    assert document["statistics"]["brightness"]["drift"] == "major"
    assert document["statistics"]["predicted class"]["drift"] == "major"
    assert document["statistics"]["contrast"]["drift"] == "none"
    page = (tmp_path / "report/drift.html").read_text()
    assert "<title>Drift: what the endpoint was sent</title>" in page
    assert page.count("<img") == 12
    assert "Brightness: a major difference" in page
    assert "dög" in page
    assert not re.search(r"https?:|nan", page)


def test_images_that_only_the_embeddings_tell_apart_are_drift(tmp_path):
    """The upper half is lighter than the lower one: brightness and classes are as before."""
    crops = pictures(60, 3).astype(int)
    crops[:, :8] += 40
    crops[:, 8:] -= 40
    drift(tmp_path, lines_of(crops.astype(np.uint8)))
    document = document_of(tmp_path)
    assert (document["drift"], document["statistics"]["brightness"]["drift"]) == (True, "none")


def test_only_as_many_images_are_compared_as_the_baseline_has_twice(tmp_path):
    drift(tmp_path, lines_of([*pictures(100, 3), *pictures(40, 4, low=0, high=5)]))
    document = document_of(tmp_path)
    assert (document["images"], document["drift"]) == (100, False)


def test_too_few_images_are_no_evidence(tmp_path):
    done = drift(tmp_path, [*lines_of(pictures(29, 3)), event_line(b"noise", [1, 0]), "no JSON"])
    assert (done.returncode, done.stderr) == (
        1, "Of 31 captured events 29 are of one image and its answer: too few to judge, at least 30 are needed.\n",
    )  # fmt: skip
    known = tmp_path / "model" / "baseline.json"
    known.write_text("{")
    assert drift(tmp_path, []).stderr.startswith(f"{known} is no baseline of EvaluateModel's (")


def test_a_model_of_an_earlier_release_is_a_sentence(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "model" / "drift_baseline.npz").unlink()
    done = drift(tmp_path, lines_of(pictures(30, 3)))
    assert done.returncode == 1
    assert done.stderr.startswith("The model holds no drift_baseline.npz, which the final training writes. ")


def test_the_same_images_give_the_same_report(tmp_path):
    found = []
    for _ in range(2):
        drift(tmp_path, lines_of(pictures(40, 3)))
        found.append([(tmp_path / "report" / name).read_bytes() for name in ("drift.json", "drift.html")])
    assert found[0] == found[1]
