"""evaluate.py: the packed model scores the test split, and one sentence says what is wrong."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import evaluate
from classifier.data.prepared_images import PreparedImages
from classifier.evaluation.gates import training_faults
from classifier.evaluation.metrics import classification_metrics, version_metadata
from classifier.job.failures import PROCESSING_MESSAGE, run
from classifier.model.predictor import Predictor
from tests.steps.prepared_data import CLASSES, Prepared, Trained, run_step

Failure = Callable[[Path, Prepared], str]


def arguments(archive_dir: Path, prepared: Prepared, output: Path) -> list[str]:
    folders = {"model": archive_dir, "test": prepared.test, "manifest": prepared.manifest, "output": output}
    return [word for name, folder in folders.items() for word in (f"--{name}-dir", str(folder))]


@pytest.fixture(scope="module")
def evaluated(archive_dir: Path, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of evaluate.py, run as a processing job runs it."""
    output = tmp_path_factory.mktemp("evaluation") / "out"
    process = run_step("evaluate.py", *arguments(archive_dir, prepared, output), "--min-precision", "0.5", env={})
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("test_accuracy=")
    return output


@pytest.fixture
def failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Failure:
    """Runs evaluate.py in this process where it must fail; returns its sentence."""

    def fail(archive_dir: Path, prepared: Prepared) -> str:
        message = tmp_path / "message"
        monkeypatch.setenv("SM_OUTPUT_MESSAGE", str(message))
        monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments(archive_dir, prepared, tmp_path / "out")])
        assert run(evaluate.main, PROCESSING_MESSAGE) == 1
        sentence = capsys.readouterr().err
        assert message.read_text() + "\n" == sentence
        return sentence

    return fail


def archive(directory: Path, members: dict[str, bytes]) -> Path:
    """A directory with a model.tar.gz of these members."""
    directory.mkdir()
    with tarfile.open(directory / "model.tar.gz", "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "../../../etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    return directory


def test_the_baseline_holds_what_later_requests_are_compared_with(evaluated: Path) -> None:
    known = json.loads((evaluated / "baseline.json").read_text())
    document = json.loads((evaluated / "evaluation.json").read_text())
    matrix = document["multiclass_classification_metrics"]["confusion_matrix"]
    assert (known["images"], known["classes"]) == (document["test_images"], list(matrix))
    assert sum(known["predicted_counts"]) == known["images"]
    assert known["predicted_counts"] == [sum(row[name] for row in matrix.values()) for name in known["classes"]]
    assert list(known["figures"]) == ["confidence", "brightness", "contrast", "saturation"]
    for figure in known["figures"].values():
        assert sum(figure["counts"]) == known["images"]
        assert len(figure["counts"]) == len(figure["bounds"]) + 1
    assert known["preprocess"]["image_size"] == 32


def test_evaluation_holds_the_figures_of_the_model_s_answers(
    evaluated: Path, prepared: Prepared, trained: Trained
) -> None:
    document = json.loads((evaluated / "evaluation.json").read_text())
    answers = Predictor(trained.model_dir).predict(prepared.test_files)
    expected = classification_metrics(np.load(prepared.embeddings / "test_labels.npy"), answers, CLASSES)

    names = "abstaining archive_sha256 calibration classes customer_metadata_properties dataset_images dataset_sha256 "
    names += "group_gap groups hyperparameters model_card model_sha256 multiclass_classification_metrics rules "
    names += "test_images training_faults words worst_class"
    assert sorted(document) == names.split()
    assert (document["dataset_sha256"], document["test_images"]) == ("0" * 64, 54)
    assert (document["hyperparameters"], document["rules"]) == (trained.description["hyperparameters"], {})
    assert document["customer_metadata_properties"] == version_metadata(document)
    assert document["abstaining"]["test"]["coverage"]["images"] == 54
    calibration = document["calibration"]
    assert calibration["temperature"] == trained.description["calibration"]["temperature"]
    assert sum(part["images"] for part in calibration["reliability"]) == 54
    found = document["multiclass_classification_metrics"]
    assert calibration["expected_calibration_error"] == found["expected_calibration_error"]["value"]
    assert found["loss"]["value"] == pytest.approx(expected["loss"]["value"], rel=1e-3)
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    assert found["accuracy"] == expected["accuracy"]
    assert found["accuracy"]["value"] > 0.9, "three colours are easily told apart"


def test_outcome_of_the_rules_is_read_from_the_model(prepared: Prepared, trained: Trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained.model_dir, tmp_path / "model")
    (model / "rules.json").write_text('{"Overfit": "NoIssuesFound"}')
    (model / "training_faults.json").write_text('{"LossExploding": "It rose."}')
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "gztar", model))
    scored = evaluate.score(archive, PreparedImages(prepared.test, "test"), CLASSES)
    assert scored.rules == {"Overfit": "NoIssuesFound"}
    assert training_faults("fatal", scored.rules, scored.fatal) == {"LossExploding": "It rose."}


def test_only_what_is_demanded_of_a_training_is_a_fault() -> None:
    fatal, statuses = (
        {"LossExploding": "It rose."},
        {"LossExploding": "IssuesFound", "A": "NoIssuesFound", "B": "Error"},
    )
    assert training_faults(None, statuses, fatal) == training_faults("fatal", {}, {}) == {}
    assert training_faults("A", statuses, fatal) == {}
    assert training_faults("A,B,LossExploding,C", statuses, fatal) == {
        "B": "Its verdict is Error.",
        "LossExploding": "It rose.",
        "C": "It did not watch this training.",
    }


def test_a_model_is_told_by_its_content_whatever_packed_it(
    evaluated: Path, archive_dir: Path, prepared: Prepared, trained: Trained, tmp_path: Path
) -> None:
    """Two trainings that gave the same network differ in what they measured on the way, and in the archive's times."""
    known = json.loads((evaluated / "evaluation.json").read_text())
    archive = archive_dir / "model.tar.gz"
    assert known["archive_sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    again = shutil.copytree(trained.model_dir, tmp_path / "again", copy_function=shutil.copy)  # with the time of now
    (again / "rules.json").write_text('{"Overfit": "IssuesFound"}')
    (again / "runtimes.json").write_text((again / "runtimes.json").read_text().replace(".", ".1"))
    images = PreparedImages(prepared.test, "test")
    packed = Path(shutil.make_archive(str(again), "gztar", again))
    assert packed.read_bytes() != archive.read_bytes()
    assert evaluate.score(packed, images, CLASSES).sha256 == known["model_sha256"]
    (again / "model.json").write_text((again / "model.json").read_text() + " ")
    packed = Path(shutil.make_archive(str(again), "gztar", again))
    assert evaluate.score(packed, images, CLASSES).sha256 != known["model_sha256"]


def test_a_report_and_an_image_to_try_the_endpoint_with_are_written(evaluated: Path, prepared: Prepared) -> None:
    assert (evaluated / "example.png").read_bytes() == prepared.test_files[0]
    assert "&lt;rust&gt; &amp; co" in (evaluated / "report.html").read_text()


def test_what_each_test_image_was_taken_for_is_kept(evaluated: Path, prepared: Prepared) -> None:
    rows = list(csv.DictReader((evaluated / "predictions.csv").open(newline="")))
    document = json.loads((evaluated / "evaluation.json").read_text())
    accuracy = document["multiclass_classification_metrics"]["accuracy"]["value"]
    assert [row["name"] for row in rows] == PreparedImages(prepared.test, "test").names
    assert {row["label"] for row in rows} == set(CLASSES)
    assert sum(row["label"] == row["predicted"] for row in rows) / len(rows) == pytest.approx(accuracy)
    assert all(0 < float(row["score"]) <= 1 for row in rows)


def test_missing_archive_is_named(prepared: Prepared, tmp_path: Path, failure: Failure) -> None:
    assert failure(tmp_path, prepared) == f"{tmp_path} holds no model.tar.gz, which the final training writes.\n"


@pytest.mark.parametrize("content", [b"", b"not an archive", None], ids=["empty", "text", "cut off"])
def test_damaged_archive_is_refused(
    content: bytes | None, archive_dir: Path, prepared: Prepared, tmp_path: Path, failure: Failure
) -> None:
    whole = (archive_dir / "model.tar.gz").read_bytes()
    (tmp_path / "model.tar.gz").write_bytes(whole[: len(whole) // 2] if content is None else content)
    sentence = failure(tmp_path, prepared)
    assert sentence.startswith(f"{tmp_path / 'model.tar.gz'} cannot be unpacked (")
    assert sentence.endswith("). Run the final training again.\n")


@pytest.mark.parametrize("name", ["../escaped.txt", "code/../../escaped.txt", "link"])
def test_archive_with_a_member_that_escapes_is_refused(
    name: str, prepared: Prepared, tmp_path: Path, failure: Failure
) -> None:
    directory = archive(tmp_path / "archive", {name: b"outside"})
    assert failure(directory, prepared) == (
        f"{directory / 'model.tar.gz'} is refused: its member {name} would not stay inside the model directory. "
        "Use a model.tar.gz that the final training wrote.\n"
    )
    assert not list(tmp_path.rglob("escaped.txt"))


def test_archive_of_another_kind_of_model_is_refused(prepared: Prepared, tmp_path: Path, failure: Failure) -> None:
    directory = archive(tmp_path / "archive", {"weights.h5": b"x"})
    sentence = failure(directory, prepared)
    assert sentence.endswith(" holds no model.json. A model of the final training has one.\n")


def changed(prepared: Prepared, directory: Path, **changes: object) -> Prepared:
    """A copy of the prepared data with another manifest."""
    shutil.copytree(prepared.root, directory)
    document = json.loads((directory / "manifest" / "manifest.json").read_text()) | changes
    (directory / "manifest" / "manifest.json").write_text(json.dumps(document))
    return Prepared(directory, prepared.weights)


@pytest.mark.parametrize(
    ("classes", "left_out", "sentence"),
    [
        (CLASSES, 54, "The test split is empty. Raise its share in data.split, or add images.\n"),
        (
            [*CLASSES, "moss"],
            0,
            "The model knows 3 classes, and they are not the 4 classes of manifest.json in the same order. "
            "Evaluate a model on the data that it was trained with.\n",
        ),
        (
            CLASSES,
            1,
            "{test} holds 54 images, and they are not the 53 that images.jsonl lists in the test split: they belong to "
            "different data. Run PrepareData again.\n",
        ),
    ],
)
def test_data_that_the_model_does_not_belong_to_is_refused(
    classes: list[str], left_out: int, sentence: str, archive_dir: Path, prepared: Prepared, tmp_path: Path,
    failure: Failure,
) -> None:  # fmt: skip
    other = changed(prepared, tmp_path / "other", classes=classes)
    listing = other.manifest / "images.jsonl"
    lines = listing.read_text().splitlines(keepends=True)
    listing.write_text("".join(lines[: len(lines) - left_out]))
    assert failure(archive_dir, other) == sentence.replace("{test}", str(other.test))


def test_a_damaged_test_image_is_named(archive_dir: Path, prepared: Prepared, tmp_path: Path, failure: Failure) -> None:
    other = changed(prepared, tmp_path / "other")
    images = PreparedImages(other.test, "test")
    shard = other.test / "test-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(images.read(13)[100:], bytes(len(images.read(13)) - 100)))
    sentence = failure(archive_dir, other)
    assert sentence.startswith(f"Test image {images.name(13)} in {shard} cannot be read (The image is damaged")


def test_wrong_arguments_are_one_sentence_too(tmp_path: Path) -> None:
    process = run_step("evaluate.py", "--model-dir", tmp_path, env={"SM_OUTPUT_MESSAGE": str(tmp_path / "message")})
    assert process.returncode == 1
    assert process.stderr == (
        "evaluate.py: the following arguments are required: --test-dir, --manifest-dir, --output-dir. "
        "See evaluate.py --help.\n"
    )
    assert (tmp_path / "message").read_text() + "\n" == process.stderr
