"""`audit`: wrong labels, outliers and near-duplicates of an execution's images, on a page and in a file to correct."""

import csv
import json
from pathlib import Path

import audited as made
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


def prepared(lab: Lab, **how: object) -> Path:
    """Run PrepareData, which leaves a prepared data set; the folder of its outputs."""
    uri = "s3://bucket/prepared"
    made.write_prepared(lab.path(uri), **how)  # type: ignore[arg-type]
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
    assert first == "60 images: 4 labels look wrong"
    assert f"Page         {page.relative_to(tmp_path)}" in lines
    assert f"      corrections: {corrections}" in lines
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
    assert text.count("data:image/png") > 30 and "http" not in text

    corrections.write_text(corrections.read_text().replace("sky", "rust"))
    done = run_cli(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Nothing was audited: {corrections} is there and differs, as an edited one does")
    done = run_cli(*words, "--json", "--out", "again", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["wrong"], document["near_duplicates"], document["not_judged"]) == (4, 2, 0)
    assert Path(document["report"]) == tmp_path / "again/audit.html"

    (outputs / "manifest/images.jsonl").unlink()
    done = run_cli(*words, "--out", "other", cwd=tmp_path)
    assert done.stderr.startswith("Nothing was audited: ")
    assert "images.jsonl" in done.stderr and "Run PrepareData again." in done.stderr
    for file in (outputs / "manifest").iterdir():
        file.unlink()
    assert "/manifest, is gone; run the pipeline again." in run_cli(*words, cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [(1, "Nothing was audited: The 60 images are of 1 groups, too few to judge one by the others.\n"), (7, "")],
)
def test_images_of_one_group_do_not_vouch_for_one_another(lab: Lab, tmp_path: Path, groups: int, sentence: str) -> None:
    prepared(lab, near_duplicates=False, groups=groups)
    done = run_cli("audit", "--pipeline", "lab", "--home", lab.home, "--json", cwd=tmp_path)
    assert done.stderr == sentence
    if not sentence:
        assert json.loads(done.stdout)["near_duplicates"] is None


def test_without_prepared_images_there_is_nothing_to_audit(lab: Lab, tmp_path: Path) -> None:
    report = lab.run(lab.processing("Other", "pass"))
    execution = report.document["execution_arn"].rpartition("/")[2]
    done = run_cli("audit", "--pipeline", "lab", "--home", lab.home, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Execution {execution} has not prepared any images yet, so there is nothing to audit.\n"
    assert run_cli("audit", "none", "--pipeline", "lab", "--home", lab.home, cwd=tmp_path).returncode == 1
