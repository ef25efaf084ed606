"""The champion beside a new model: scored by the same code, refused with a reason, named in every number."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import evaluate
from classifier.evaluation.comparison import Comparison, compare
from classifier.job.failures import StepError
from tests.steps.prepared_data import CLASSES, Prepared, Trained

ARN = "arn:aws:sagemaker:us-east-1:000000000000:model-package/digits/3"


def metrics(accuracy: float) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "macro_f1": 0.5, "top_5_accuracy": 1.0, "loss": 0.25}
    return {name: {"value": value} for name, value in figures.items()}


def stored(directory: Path, model: bytes, description: str = json.dumps({"model_package_arn": ARN})) -> Path:
    """A champion's folder."""
    directory.mkdir()
    (directory / "README.txt").write_text("what this is")
    (directory / "model.tar.gz").write_bytes(model)
    (directory / "champion.json").write_text(description)
    return directory


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The new model's archive."""
    path = tmp_path / "model.tar.gz"
    path.write_bytes(b"new")
    return path


def test_a_prefix_with_nothing_but_its_placeholder_holds_no_champion(tmp_path: Path, archive: Path) -> None:
    folder = stored(tmp_path / "champion", b"old")
    (folder / "model.tar.gz").unlink()
    found = compare(folder, archive, metrics(0.9), lambda other: metrics(0.8))
    assert found == Comparison(reason="no model has been approved and deployed yet")


def test_a_champion_is_scored_and_named(tmp_path: Path, archive: Path) -> None:
    found = compare(stored(tmp_path / "champion", b"old"), archive, metrics(0.9), lambda other: metrics(0.8))
    assert found == Comparison(metrics(0.8), ARN)


@pytest.mark.parametrize("description", ["", "[", "[]", "{}", '{"model_package_arn": 3}'])
def test_a_champion_of_an_unknown_version_counts_all_the_same(tmp_path: Path, archive: Path, description: str) -> None:
    folder = stored(tmp_path / "champion", b"old", description)
    found = compare(folder, archive, metrics(0.9), lambda other: metrics(0.8))
    assert (found.metrics, found.name) == (metrics(0.8), "the model in service")


def test_the_champion_itself_is_not_scored_again(tmp_path: Path, archive: Path) -> None:
    def score(other: Path) -> dict[str, Any]:
        raise AssertionError(other)

    found = compare(stored(tmp_path / "champion", b"new"), archive, metrics(0.9), score)
    assert found == Comparison(metrics(0.9), ARN, is_same_model=True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StepError("The model knows 3 classes, not 4. Evaluate another."), "The model knows 3 classes, not 4"),
        (KeyError("classes"), "KeyError, 'classes'"),
        (RuntimeError("Unknown builtin op.\nMore"), "RuntimeError, Unknown builtin op"),
    ],
)
def test_a_champion_that_cannot_be_compared_counts_as_none(
    tmp_path: Path, archive: Path, error: Exception, said: str
) -> None:
    def score(other: Path) -> dict[str, Any]:
        raise error

    found = compare(stored(tmp_path / "champion", b"old"), archive, metrics(0.9), score)
    assert found == Comparison(reason=f"the model in service cannot be compared: {said}")


@pytest.mark.parametrize(
    ("comparison", "improvement"),
    [
        (Comparison(metrics(0.2), ARN, accuracy=0.3), 0.1),
        (Comparison(metrics(0.95), ARN, accuracy=0.9, margin=0.01), -0.05),
        (Comparison(metrics(0.9), ARN, accuracy=0.9, margin=0.01), 0.0),
        (Comparison(metrics(0.9), ARN, is_same_model=True, accuracy=0.9), 0.0),
        (Comparison(metrics(0.9), ARN, is_same_model=True, accuracy=0.9, margin=0.01), 0.01),
        (Comparison(accuracy=0.9, margin=0.01), 0.9),
        (Comparison(accuracy=0.1, margin=0.5), 0.5),
    ],
)
def test_improvement_is_the_difference_and_never_stops_a_run_that_replaces_nothing(
    comparison: Comparison, improvement: float
) -> None:
    assert comparison.improvement == improvement


def test_the_document_names_the_champion_or_says_that_there_is_none() -> None:
    assert Comparison(metrics(0.8), ARN, accuracy=0.9, margin=0.01).document() == {
        "champion": {
            "model_package_arn": ARN,
            "accuracy": 0.8,
            "macro_f1": 0.5,
            "top_5_accuracy": 1.0,
            "loss": 0.25,
            "is_same_model": False,
        },
        "improvement": {"value": 0.1, "margin": 0.01, "champion": "digits/3 with accuracy 0.8000"},
    }
    assert Comparison(accuracy=0.9, reason="there is none").document() == {
        "champion": None,
        "improvement": {"value": 0.9, "margin": 0.0, "champion": "no model", "reason": "there is none"},
    }


class Constant(torch.nn.Module):
    """Always the first of three classes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.tensor([[9.0, 0.0, 0.0]]).repeat(images.shape[0], 1), dim=1)


@pytest.fixture(scope="session")
def worse_model_dir(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Path:
    """A model of the same classes that is right by chance only."""
    directory = tmp_path_factory.mktemp("worse")
    shutil.copy(trained.model_dir / "model.json", directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript ages, as in predictor.load_network
        torch.jit.script(Constant()).save(directory / "model.pt")
    return directory


Evaluated = Callable[[Path], tuple[dict[str, Any], str, str]]


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


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]], ids=["the same classes", "other classes"])
def test_evaluation_compares_with_a_trained_champion_or_says_why_not(
    evaluated: Evaluated, worse_model_dir: Path, tmp_path: Path, classes: list[str]
) -> None:
    champion = tmp_path / "champion"
    champion.mkdir()
    model = shutil.copytree(worse_model_dir, tmp_path / "model")
    description = json.loads((model / "model.json").read_text())
    if classes != CLASSES:
        description["classes"] = ["other", *description["classes"][1:]]
    (model / "model.json").write_text(json.dumps(description))
    shutil.make_archive(str(champion / "model"), "gztar", model)

    document, page, log = evaluated(champion)

    accuracy = document["multiclass_classification_metrics"]["accuracy"]["value"]
    if classes != CLASSES:
        reason = (
            "the model in service cannot be compared: The model knows 3 classes, and they are not the 3 classes of "
            "manifest.json in the same order"
        )
        assert (document["champion"], document["improvement"]["value"]) == (None, accuracy)
        assert document["improvement"]["reason"] == reason
        assert f"champion=none improvement={accuracy:.4f} ({reason})" in log
        assert f"There is none to compare with: {reason}." in page
    else:
        assert document["champion"]["accuracy"] < accuracy
        assert document["improvement"]["value"] == pytest.approx(accuracy - document["champion"]["accuracy"])
        assert f"champion={document['champion']['accuracy']:.4f} improvement=" in log
        assert "points more accurate</b> than <b>the model in service</b>" in page


def test_evaluation_of_the_champion_itself_passes_any_margin(
    evaluated: Evaluated, archive_dir: Path, tmp_path: Path
) -> None:
    champion = stored(tmp_path / "champion", (archive_dir / "model.tar.gz").read_bytes())
    document, page, log = evaluated(champion)
    assert document["champion"]["model_package_arn"] == ARN
    assert document["improvement"] == {
        "value": 0.02,
        "margin": 0.02,
        "champion": f"digits/3 with accuracy {document['champion']['accuracy']:.4f}",
    }
    assert "(over digits/3, which is this very model)" in log
    assert "This is <b>digits/3</b>, the model in service itself: it replaces nothing." in page


def test_champion_of_garbage_counts_as_none(evaluated: Evaluated, tmp_path: Path) -> None:
    document, _, _ = evaluated(stored(tmp_path / "champion", b"garbage"))
    assert document["champion"] is None
    assert "cannot be unpacked" in document["improvement"]["reason"]
