"""`audit`: wrong labels, outliers and near-duplicates of an execution's images, on a page and in a file to correct."""

import csv
import json
import re
from pathlib import Path

import audited as made
import numpy as np
import pytest

from tests.local.lab import Lab
from tests.local.samples import run_cli

COPY = """
import shutil
from pathlib import Path
for folder in Path("/opt/ml/processing/input/prepared").iterdir():
    shutil.copytree(folder, Path("/opt/ml/processing/output", folder.name), dirs_exist_ok=True)
"""
OUTPUTS = ("train", "validation", "test", "embeddings", "manifest")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def prepared(lab: Lab) -> Path:
    """Run PrepareData, which leaves a prepared data set; the folder of its outputs."""
    uri = "s3://bucket/prepared"
    made.write_prepared(lab.path(uri))
    report = lab.run(lab.processing("PrepareData", COPY, inputs={"prepared": uri}, outputs=OUTPUTS))
    assert report.code == 0, report.stderr
    found = (lab.home / "s3").rglob("manifest/images.jsonl")
    return next(path.parents[1] for path in found if path.parents[1] != lab.path(uri))


def test_wrong_labels_come_first_and_the_page_shows_what_was_found(lab: Lab, tmp_path: Path) -> None:
    outputs = prepared(lab)
    words = ["audit", "--pipeline", "lab", "--home", lab.home, "--no-open"]
    done = run_cli(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    [page] = tmp_path.glob("home/reports/audit-*/audit.html")
    corrections = page.with_name("corrections.csv")
    first, *lines = done.stdout.splitlines()
    assert re.fullmatch("60 images: [2-4] labels look wrong", first)
    assert f"Page         {page.relative_to(tmp_path)}" in lines
    assert any(line.startswith(f"  cp {corrections.relative_to(tmp_path)} ") for line in lines)
    assert "  corrections: corrections.csv" in lines
    with corrections.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows[:4]} == {*made.WRONG, made.STRANGE}
    suggested = {row["path"]: (row["label"], row["suggested"]) for row in rows}
    assert suggested[made.WRONG[0]] == (made.CLASSES[0], made.CLASSES[1])
    scores = [float(row["score"]) for row in rows if row["score"]]
    assert scores == sorted(scores)
    # What an earlier file has corrected is in this one, too.
    assert [row["label"] for row in rows if row["path"] in ("train/0.png", "gone.png")] == ["sky", "-"]
    text = page.read_text()
    assert "&lt;grass&gt; &amp; co" in text and "<grass>" not in text
    assert made.STRANGE in text[text.index("Outliers") :]
    assert text.index("sky and &lt;grass&gt; &amp; co") < text.index("distance 0.250")  # pairs of two labels first
    assert text.count("data:image/png") >= 28 and "http:" not in text

    first_score = rows[0]["score"]
    corrections.write_text(corrections.read_text().replace(first_score, "0.4321"))  # as of another machine
    assert run_cli(*words, cwd=tmp_path).returncode == 0
    assert first_score in corrections.read_text()
    corrections.write_text(corrections.read_text().replace(",sky", ",rust"))
    done = run_cli(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Nothing was audited: {corrections} has been edited: move it ")
    done = run_cli(*words, "--json", "--out", "again", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["images"], document["near_duplicates"], document["not_judged"]) == (60, 4, 0)
    assert Path(document["report"]) == tmp_path / "again/audit.html"

    for file in (outputs / "embeddings").glob("*_groups.npy"):
        np.save(file, np.zeros_like(np.load(file)))
    done = run_cli(*words, "--out", "other", cwd=tmp_path)
    sentence = "Nothing was audited: The 60 images cannot be judged: no class has images of more than one group.\n"
    assert (done.returncode, done.stderr) == (1, sentence)
    (outputs / "manifest/images.jsonl").unlink()
    done = run_cli(*words, "--out", "other", cwd=tmp_path)
    assert done.stderr.startswith("Nothing was audited: ")
    assert "images.jsonl" in done.stderr and "Run PrepareData again." in done.stderr
    for file in (outputs / "manifest").iterdir():
        file.unlink()
    assert "/manifest, is gone; run the pipeline again." in run_cli(*words, cwd=tmp_path).stderr


def test_without_prepared_images_there_is_nothing_to_audit(lab: Lab, tmp_path: Path) -> None:
    report = lab.run(lab.processing("Other", "pass"))
    execution = report.document["execution_arn"].rpartition("/")[2]
    done = run_cli("audit", "--pipeline", "lab", "--home", lab.home, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Execution {execution} has not prepared any images yet, so there is nothing to audit.\n"
    assert run_cli("audit", "none", "--pipeline", "lab", "--home", lab.home, cwd=tmp_path).returncode == 1
