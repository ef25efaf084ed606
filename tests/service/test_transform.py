"""`transform` on this machine: a folder or a prefix, an approved version, rows for each image, and its mistakes."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from said import Said

import run_pipeline
from pipeline.local.store.state import State
from pipeline.local.store.storage import Storage
from pipeline.service import transform
from tests.local.samples import ROOT, processes_of, wait_until
from tests.service.labelling import client, registered
from tests.service.plain_versions import GROUP

Cli = Callable[..., Said]
HOME = Path("home")


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Iterator[Cli]:
    """A function that runs `transform` in a working directory with a folder of images."""
    for name, content in {"cat/1.jpg": "cat 0.9", "cat/2 b.jpg": "cat 0.7", "dog.png": "dog 0.8", "x.txt": "-"}.items():
        (tmp_path / "work/photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work/photos" / name).write_text(content)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run_pipeline.py")])
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run(*words: str) -> Said:
        return Said(run_pipeline.main(["transform", *words, "--home", str(HOME)]), *capsys.readouterr())

    yield run
    wait_until(lambda: not processes_of(tmp_path))


def test_a_folder_is_classified_by_the_newest_approved_version(cli):
    registered(HOME, "Approved", "Approved", "PendingManualApproval")
    said = cli("--data", "photos", "--out", "labels.csv")
    assert said.status == 0, said.error
    assert Path("labels.csv").read_text().splitlines() == [
        "image,label,score,label_2,score_2,label_3,score_3,label_4,score_4,label_5,score_5,confident,error",
        "cat/1.jpg,cat,0.900000,other,0.100000,,,,,,,,",
        "cat/2 b.jpg,cat,0.700000,other,0.300000,,,,,,,,",
        "dog.png,dog,0.800000,other,0.200000,,,,,,,,",
    ]
    job, *counts, last = said.out.splitlines()
    assert (job.split()[0], job.split()[-1]) == ("Transform", "Completed")
    assert counts == ["3 images", f"  cat  2 {27 * '█'}", f"  dog  1 {13 * '█'}"]
    assert last == "labels.csv"
    assert said.error.splitlines()[0].endswith(": 3 images, model version 2")
    assert "3/3 images" in said.error
    assert client(HOME).list_models()["Models"] == []


def test_as_json_it_is_one_document_and_the_answers_stay_in_s3(cli):
    registered(HOME, "Approved", "Approved")
    said = cli("--data", "photos", "--json", "--model", "1")
    document = json.loads(said.out)
    name = document["transform_job"]
    assert document == {
        "transform_job": name,
        "status": "Completed",
        "failure_reason": None,
        "images": 3,
        "without_answer": 0,
        "labels": {"cat": 2, "dog": 1},
        "output": f"s3://local/image-classification/transform/{name}/output/",
        "out": None,
    }
    assert said.error.startswith(f"Transform job {name}: 3 images, model version 1\n")
    stored = Storage(State(HOME)).read(f"{document['output']}cat/1.jpg.out")
    assert json.loads(stored)["label"] == "cat"


def test_an_s3_prefix_is_classified_without_what_is_no_image(cli):
    registered(HOME, "Approved")
    storage = Storage(State(HOME))
    for name in ("a.jpg", "sub/b.JPG", "manifest.json"):
        storage.write(f"s3://elsewhere/pictures/{name}", b"cat 0.5")
    storage.write("s3://elsewhere/pictures-of-others/c.jpg", b"cat 0.5")
    assert cli("--data", "s3://elsewhere/pictures", "--out", "labels.jsonl").status == 0
    rows = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert [(row["image"], row["label"]) for row in rows] == [("a.jpg", "cat"), ("sub/b.JPG", "cat")]


def test_a_bad_image_is_a_row_with_an_error_and_the_rest_is_there(cli):
    registered(HOME, "Approved")
    Path("photos/bad.jpg").write_text("noise")
    said = cli("--data", "photos", "--out", "labels.jsonl")
    rows = {row["image"]: row for row in map(json.loads, Path("labels.jsonl").read_text().splitlines())}
    (job,) = client(HOME).list_transform_jobs()["TransformJobSummaries"]
    log = f"home/jobs/{job['TransformJobName']}.TransformJob/log.txt"
    assert rows["bad.jpg"] == {"image": "bad.jpg", "error": f"There is no answer; see the job's log: {log}"}
    assert rows["dog.png"]["label"] == "dog"
    refusal = 'the model refused bad.jpg: {"error": "The image cannot be read."}'
    assert Path(log).read_text() == f"{refusal}\n"
    assert (said.status, said.out.splitlines()[1]) == (1, "4 images, 1 without an answer")
    assert said.error.endswith(f"The job failed: ClientError: {refusal}\n")


@pytest.mark.parametrize(
    ("statuses", "words", "sentence"),
    [
        ((), "--data photos", f"Model package group '{GROUP}' has no approved version; see: run_pipeline.py models"),
        (
            ("PendingManualApproval",),
            "--data photos",
            f"Model package group '{GROUP}' has no approved version; see: run_pipeline.py models",
        ),
        (
            ("Rejected",),
            "--data photos --model 1",
            "Version 1 is Rejected; approve it with: run_pipeline.py approve 1",
        ),
        (
            ("Approved",),
            "--data photos --model 9",
            f"Model package group '{GROUP}' has no version '9'; its versions: 1 (Approved).",
        ),
        (
            ("Approved",),
            "--data empty",
            "empty holds no image; looked for: .avif, .bmp, .gif, .heic, .heif, .jpeg, .jpg, .png, .tif, .tiff, .webp",
        ),
        (
            ("Approved",),
            "--data none",
            "--data none: there is no such folder; a folder or s3://bucket/prefix is accepted.",
        ),
        (
            ("Approved",),
            "--data s3://local/none",
            "--data s3://local/none: there is no image below it; looked for: .avif, .bmp, .gif, "
            ".heic, .heif, .jpeg, .jpg, .png, .tif, .tiff, .webp",
        ),
    ],
)
def test_a_mistake_is_a_sentence_and_starts_nothing(cli, statuses, words, sentence):
    Path("empty").mkdir()
    if statuses:
        registered(HOME, *statuses)
    assert cli(*words.split()) == (2, "", f"{sentence}\n")
    assert HOME.exists() == bool(statuses)
    if statuses:
        assert client(HOME).list_transform_jobs()["TransformJobSummaries"] == []


def test_an_interruption_stops_the_job_and_removes_its_model(cli, monkeypatch):
    registered(HOME, "Approved")
    Path("photos/slow.jpg").write_text("sleep 30")

    def interrupted(*arguments: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(transform, "objects", interrupted)  # as Ctrl-C at the first look
    said = cli("--data", "photos")
    assert (said.status, said.out) == (1, "")
    assert said.error.endswith(" is being stopped.\n")
    (job,) = client(HOME).list_transform_jobs()["TransformJobSummaries"]
    name = job["TransformJobName"]
    wait_until(lambda: status_of_job(name) == "Stopped")
    assert client(HOME).list_models()["Models"] == []


def status_of_job(name: str) -> str:
    """As described now."""
    return str(client(HOME).describe_transform_job(TransformJobName=name)["TransformJobStatus"])
