"""The champion beside a new model: scored by the same code, refused with a reason, named in every number."""

import hashlib
import json
import shutil
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
from classifier.data.prepared_images import PreparedImages
from classifier.data.split import assign_splits
from classifier.evaluation.comparison import Comparison, Difference, difference, unseen
from classifier.job.failures import StepError
from classifier.model.archive import digests, read_seen, write_seen
from tests.steps.prepared_data import CLASSES, Prepared, Trained

ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package/digits/3"
FIGURES = {"macro_f1": 0.5, "top_5_accuracy": 1.0, "loss": 0.25}
Evaluated = Callable[[Path], tuple[dict[str, Any], str, str]]


def metrics(accuracy: float) -> dict[str, Any]:
    return {name: {"value": value} for name, value in FIGURES.items()} | {"accuracy": {"value": accuracy}}


def stored(directory: Path, model: bytes) -> Path:
    """A champion's folder."""
    directory.mkdir()
    (directory / "README.txt").write_text("what this is")
    (directory / "model.tar.gz").write_bytes(model)
    (directory / "champion.json").write_text(json.dumps({"model_package_arn": ARN}))
    return directory


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StepError("The model knows 3 classes, not 4. Evaluate another."), "The model knows 3 classes, not 4"),
        (KeyError("classes"), "KeyError, 'classes'"),
        (RuntimeError("Unknown builtin op.\nMore"), "RuntimeError, Unknown builtin op"),
    ],
)
def test_a_champion_that_cannot_be_compared_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def score(*_: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "score", score)
    arguments = Namespace(champion_dir=stored(tmp_path / "champion", b"old"), improvement_margin=0.0)
    model: Any = SimpleNamespace(metrics=metrics(0.9), description={"classes": CLASSES})
    images: Any = None
    found = evaluate.compare(arguments, model, images, [])
    assert found == Comparison(metrics(0.9), 0.0, reason=f"the model in service cannot be compared: {said}")


@pytest.mark.parametrize(
    ("comparison", "improvement"),
    [
        (Comparison(metrics(0.3), 0.0, metrics(0.2), ARN), 0.1),
        (Comparison(metrics(0.9), 0.01, metrics(0.95), ARN), -0.05),
        (Comparison(metrics(0.9), 0.01, metrics(0.9), ARN), 0.0),
        (Comparison(metrics(0.9), 0.0, metrics(0.9), ARN, is_same_model=True), 0.0),
        (Comparison(metrics(0.9), 0.01, metrics(0.9), ARN, is_same_model=True), 0.01),
        (Comparison(metrics(0.9), 0.01), 0.9),
        (Comparison(metrics(0.1), 0.5), 0.5),
    ],
)
def test_improvement_is_the_difference_and_never_stops_a_run_that_replaces_nothing(
    comparison: Comparison, improvement: float
) -> None:
    assert comparison.improvement == improvement


def test_the_document_names_the_champion_or_says_that_there_is_none() -> None:
    assert Comparison(metrics(0.9), 0.01, metrics(0.8), ARN, warning="few").document() == {
        "champion": {"model_package_arn": ARN, "accuracy": 0.8, **FIGURES, "is_same_model": False},
        "improvement": {"value": 0.1, "margin": 0.01, "warning": "few", "champion": "digits/3 with accuracy 0.8000"},
    }
    assert Comparison(metrics(0.9), 0.0, reason="there is none").document() == {
        "champion": None,
        "improvement": {
            "value": 0.9, "margin": 0.0, "warning": "", "champion": "no model", "reason": "there is none"
        },
    }  # fmt: skip


def answers(predicted: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[predicted] * 0.8 + 0.1


def test_images_on_which_two_models_differ_are_found_and_counted() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 0])
    champion = answers([0, 1, 2, 1, 2, 0, 1])
    found = difference(labels, answers([0, 0, 1, 0, 2, 1, 0]), champion, np.arange(7) < 6)  # the last has been seen
    assert found == Difference(6, better=(1, 2), worse=(3,), both_wrong=1, champion=champion)
    assert found.document()["p_value"] == 1.0
    low, high = found.interval
    assert -0.5 < low < 1 / 6 < high < 0.8
    comparison = Comparison(metrics(4 / 6), 0.0, metrics(0.5), ARN, difference=found)
    assert (
        "2 of 6 images only the new model has right, 1 only this one"
        in comparison.document()["improvement"]["champion"]
    )


@pytest.mark.parametrize(("better", "worse", "p_value"), [(0, 0, 1.0), (9, 1, 0.0215), (5, 5, 1.0), (0, 6, 0.03125)])
def test_a_difference_is_judged_by_the_images_that_only_one_model_has_right(
    better: int, worse: int, p_value: float
) -> None:
    found = Difference(100, tuple(range(better)), tuple(range(worse)), 3, answers([0]))
    assert found.p_value == pytest.approx(p_value, abs=1e-4)
    assert found.is_significant == (p_value < 0.05)
    low, high = found.interval
    assert low < (better - worse) / 100 < high


SOURCES = [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(400)]


def dealt(seed: int, test: float = 0.2) -> list[dict[str, Any]]:
    """images.jsonl of a split by this seed and this share of test images."""
    images = pd.DataFrame({"sha256": SOURCES, "label": 0, "group": range(len(SOURCES)), "earlier": None})
    images["given"] = pd.Categorical([None] * len(SOURCES), categories=["train", "validation", "test"])
    shares = {"train": 0.9 - test, "validation": 0.1, "test": test}
    return assign_splits(images, ["one"], shares, seed, []).to_dict("records")


def used(listing: list[dict[str, Any]], *splits: str) -> list[str]:
    """The sha256 of the images of these splits."""
    return [image["sha256"] for image in listing if image["split"] in splits]


@pytest.mark.parametrize("before", [dealt(0), dealt(1), dealt(0, test=0.5)], ids=["same", "seed", "share"])
def test_images_that_the_champion_was_trained_on_under_another_split_are_left_out(before: list[dict[str, Any]]) -> None:
    now = dealt(0)
    new, champion = (digests(used(listing, "train", "validation")) for listing in (now, before))
    fair, words = unseen(now, new, champion)
    tested = used(now, "test")
    assert np.array(tested)[fair].tolist() == [sha256 for sha256 in tested if sha256 in used(before, "test")]
    assert (words == "") == fair.all()


@pytest.mark.parametrize(
    ("count", "known", "said"),
    [
        (0, True, ""),
        (30, True, "30 of 80 test images are left out, which one of the models has seen"),
        (31, True, "of 80 test images 49 are new to both models, which is too few to compare them (at least 50 are "
         "needed), so AccuracyThreshold alone decides"),
        (80, True, "of 80 test images 0 are new to both models"),
        (0, False, "the model in service does not say what it was trained on, and may have seen some of these images"),
    ],
)  # fmt: skip
def test_below_fifty_images_that_neither_has_seen_the_threshold_alone_decides(
    count: int, known: bool, said: str
) -> None:
    listing = dealt(0)
    new, champion = digests(used(listing, "train", "validation")), digests(used(listing, "test")[:count])
    fair, words = unseen(listing, new, champion if known else None)
    assert (int(fair.sum()), words[: len(said)]) == (80 - count, said)


def test_a_near_duplicate_of_an_image_that_was_trained_on_counts_as_seen() -> None:
    listing = dealt(0)
    training, *tests = (image for image in listing if image is listing[0] or image["split"] == "test")
    tests[0]["group"] = tests[1]["group"] = training["group"]
    fair, _ = unseen(listing, digests([]), digests([training["sha256"]]))
    assert np.flatnonzero(~fair).tolist() == [0, 1]


def test_a_hundred_thousand_images_are_less_than_a_megabyte_in_a_model(tmp_path: Path) -> None:
    write_seen(tmp_path, [f"{number:064x}"[::-1] for number in range(100_000)])
    assert next(tmp_path.iterdir()).stat().st_size < 1e6
    assert len(read_seen(tmp_path)) == 100_000


class Constant(torch.nn.Module):
    """Always the first of three classes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.tensor([[9.0, 0.0, 0.0]]).repeat(images.shape[0], 1), dim=1)


@pytest.fixture
def worse_model_dir(tmp_path: Path, trained: Trained) -> Path:
    """A model of the same classes that is right by chance only."""
    directory = tmp_path / "worse"
    directory.mkdir()
    shutil.copy(trained.model_dir / "model.json", directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, as in predictor.load_network
        torch.jit.script(Constant()).save(directory / "model.pt")
    return directory


@pytest.fixture
def evaluated(
    archive_dir: Path,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Evaluated:
    """A function from a champion's folder to evaluation.json, report.html and the log of evaluate.py."""

    def run_beside(champion: Path) -> tuple[dict[str, Any], str, str]:
        output = tmp_path / "out"
        words = ["--model-dir", archive_dir, "--test-dir", prepared.test, "--manifest-dir", prepared.manifest]
        words += ["--output-dir", output, "--champion-dir", champion, "--improvement-margin", 0.02]
        monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, words)])
        evaluate.main()
        document = json.loads((output / "evaluation.json").read_text())
        return document, (output / "report.html").read_text(), capsys.readouterr().out

    return run_beside


def test_evaluation_compares_with_a_trained_champion(
    evaluated: Evaluated, worse_model_dir: Path, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "champion" / "model"), "gztar", worse_model_dir)
    document, page, log = evaluated(tmp_path / "champion")
    accuracy = document["multiclass_classification_metrics"]["accuracy"]["value"]
    assert document["champion"]["accuracy"] < accuracy
    assert document["improvement"]["value"] == pytest.approx(accuracy - document["champion"]["accuracy"])
    assert f"champion={document['champion']['accuracy']:.4f} improvement=" in log
    assert "points more accurate</b> than <b>the model in service</b>" in page
    differences = document["champion"]["differences"]
    assert differences["only_new"] - differences["only_champion"] == round(54 * document["improvement"]["value"])
    assert "What got better: mistakes of the model in service" in page


@pytest.mark.parametrize(("count", "images"), [(0, 54), (4, 50), (5, None), (None, 54)])
def test_a_champion_that_was_trained_on_test_images_blocks_no_retrain(
    evaluated: Evaluated, trained: Trained, prepared: Prepared, tmp_path: Path, count: int | None, images: int | None
) -> None:
    """It has the same network, so no retrain would be better by the margin, as after a change of the split."""
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    write_seen(model, [f"{PreparedImages(prepared.test, 'test').name(row)[:16]}" for row in range(count or 0)])
    if count is None:  # of an earlier release
        (model / "seen_images.npy").unlink()
    shutil.make_archive(str(tmp_path / "champion" / "model"), "gztar", model)
    document, page, log = evaluated(tmp_path / "champion")
    improvement = document["improvement"]
    assert improvement.get("images") == images
    assert (improvement["value"] < improvement["margin"]) == bool(images)
    assert (improvement["warning"] == "") == (count == 0)
    assert (f"Warning: {improvement['warning']}" in log) == (count != 0)
    assert improvement["warning"][1:] in page


def test_evaluation_says_why_a_champion_of_other_classes_is_not_compared(
    evaluated: Evaluated, worse_model_dir: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(worse_model_dir, tmp_path / "model")
    description = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(description | {"classes": ["other", *CLASSES[1:]]}))
    shutil.make_archive(str(tmp_path / "champion" / "model"), "gztar", model)
    document, page, log = evaluated(tmp_path / "champion")
    accuracy = document["multiclass_classification_metrics"]["accuracy"]["value"]
    reason = (
        "the model in service cannot be compared: The model knows 3 classes, and they are not the 3 classes of "
        "manifest.json in the same order"
    )
    assert (document["champion"], document["improvement"]["value"]) == (None, accuracy)
    assert document["improvement"]["reason"] == reason
    assert f"champion=none improvement={accuracy:.4f} ({reason})" in log
    assert f"There is no comparison: {reason}." in page


def test_evaluation_of_the_champion_itself_passes_any_margin(
    evaluated: Evaluated, archive_dir: Path, tmp_path: Path
) -> None:
    champion = stored(tmp_path / "champion", (archive_dir / "model.tar.gz").read_bytes())
    document, page, log = evaluated(champion)
    assert document["champion"]["model_package_arn"] == ARN
    assert document["improvement"] == {
        "value": 0.02,
        "margin": 0.02,
        "warning": "",
        "champion": f"digits/3 with accuracy {document['champion']['accuracy']:.4f}",
    }
    assert "(over digits/3, which is this very model)" in log
    assert "This is <b>digits/3</b>, the model in service itself: it replaces nothing." in page


def test_a_placeholder_and_garbage_count_as_no_champion(evaluated: Evaluated, tmp_path: Path) -> None:
    champion = stored(tmp_path / "champion", b"garbage")
    document, _, _ = evaluated(champion)
    assert document["champion"] is None
    assert "cannot be unpacked" in document["improvement"]["reason"]
    (champion / "model.tar.gz").unlink()
    document, _, _ = evaluated(champion)
    assert document["improvement"]["reason"] == "no model has been approved and deployed yet"
