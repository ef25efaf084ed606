"""The page of the data, on images that look as PrepareData leaves them, and corrections written to the user's files."""

import csv
import io
import json
import shutil
import time
from collections.abc import Iterator

import pytest
from PIL import Image

from classifier.data.prepared_images import ImageWriter
from pipeline.local import session
from pipeline.paths import ROOT
from tests.local.lab import ROLE
from tests.local.samples import definition, wait_until
from tests.studio.conftest import Studio

NAME, HOSTILE = "image-classification", "<script>alert('1')</script>"
ARN = f"arn:aws:sagemaker:us-east-1:000000000000:pipeline/{NAME}"
CLASSES = ["cat", HOSTILE, "../x"]
DATA = f"/data?execution={NAME}/e1"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server whose pipeline.yaml may be changed; of two executions the older one has prepared images."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(ROOT / "pipeline.yaml", folder)
    server = Studio(folder / "home", folder / "log", "--config", str(folder / "pipeline.yaml"))
    fail = {"Name": "Fail", "Type": "Fail", "Arguments": {"ErrorMessage": "no"}}
    text = json.dumps(definition(fail))
    session(server.home).client("sagemaker").create_pipeline(
        PipelineName=NAME, PipelineDefinition=text, RoleArn=ROLE, ClientRequestToken="x" * 32
    )
    add_execution(server, "e1", CLASSES, images=7)
    add_execution(server, "e2", [])
    yield server
    server.end()


def add_execution(studio: Studio, name: str, classes: list[str], images: int = 0) -> None:
    """An execution with prepared images of each class in each split, or without."""
    state, started = studio.state(), time.time()
    summary = {"PipelineArn": ARN, "PipelineName": NAME, "CreationTime": started, "LastModifiedTime": started}
    arn = f"{ARN}/execution/{name}"
    state.add_execution({**summary, "PipelineExecutionArn": arn, "PipelineExecutionStatus": "Failed", "Definition": {}})
    if not classes:
        return
    metadata = {"ProcessingJob": {"Arn": f"arn:aws:sagemaker:us-east-1:000000000000:processing-job/{name}"}}
    step = {"StepName": "PrepareData", "StepType": "Processing", "StepStatus": "Succeeded", "Metadata": metadata}
    state.put_step(arn, {**step, "StartTime": started})
    outputs, lines, home = [], [], studio.home / "s3/bucket" / name
    for split in ("manifest", "train", "validation", "test"):
        outputs.append({"OutputName": split, "S3Output": {"S3Uri": f"s3://bucket/{name}/{split}"}})
        (home / split).mkdir(parents=True)
        if split == "manifest":
            continue
        writer = ImageWriter(home / split, split)
        for label in range(len(classes)):
            for number in range(images):
                stream = io.BytesIO()
                Image.new("RGB", (40, 30), (80 * label, 5 * number, 9)).save(stream, "PNG")
                key = f"{len(lines):016x}"
                writer.add(f"{key}.png", label, stream.getvalue())
                path = f"{classes[label]}/{split} {number}.png"
                lines.append({"name": f"{key}.png", "source": path, "sha256": key * 4, "split": split, "label": label})
        writer.close()
    counts = {split: dict.fromkeys(classes, images) for split in ("train", "validation", "test")}
    pair = {"paths": [lines[0]["source"], lines[9]["source"]], "distance": 0.1}
    manifest = {"classes": classes, "counts": counts, "near_duplicates": [pair], "near_duplicate_count": 1}
    (home / "manifest/manifest.json").write_text(json.dumps(manifest))
    (home / "manifest/images.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = {"ProcessingJobName": name, "ProcessingJobArn": metadata["ProcessingJob"]["Arn"], "CreationTime": started}
    state.put("ProcessingJob", name, {**job, "ProcessingJobStatus": "Completed",
                                      "ProcessingOutputConfig": {"Outputs": outputs}})  # fmt: skip


def correct(studio: Studio, number: int, label: str | None = None, **fields: str) -> str:
    """Click below an image, or on its Undo; the page that comes."""
    given = {"execution": f"{NAME}/e1", "image": f"{number:016x}.png", "back": DATA, **fields}
    return studio.post("/data/correct", given | ({} if label is None else {"label": label})).text


def rows(studio: Studio) -> list[dict[str, str]]:
    with (studio.home.parent / "corrections.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_newest_execution_with_images_is_shown_by_class_split_and_page(studio: Studio) -> None:
    found = studio.get("/data").text
    assert f"execution={NAME}/e1" in found
    for said in ("cat", "../x", "21", "Near-duplicates", "Nobody has looked yet"):
        assert said in found
    assert HOSTILE not in found
    one = studio.get("/data", params={"class": HOSTILE, "split": "test"}).text
    assert "7 images of test" in one
    assert HOSTILE not in one
    assert "21 images" in studio.get("/data?class=cat&page=99999999").text
    assert studio.get("/data?class=dog").status_code == 404


def test_a_picture_is_small_and_one_that_is_not_there_is_404(studio: Studio) -> None:
    found = studio.get(f"/pictures/{NAME}/e1/{0:016x}.png")
    assert Image.open(io.BytesIO(found.content)).size == (40, 30)
    assert "max-age" in found.headers["Cache-Control"]
    for place in (f"{NAME}/e1/{99:016x}.png", f"{NAME}/e2/{0:016x}.png", f"{NAME}/none/x", f"no/e1/{0:016x}.png"):
        assert studio.get(f"/pictures/{place}").status_code == 404


def test_without_prepared_images_the_page_says_what_prepares_some(studio: Studio) -> None:
    for execution in (f"{NAME}/e2", "no/e1", "x"):
        found = studio.get("/data", params={"execution": execution})
        assert (found.status_code, "run_pipeline.py run" in found.text) == (200, True)


def test_a_click_corrects_a_label_and_another_takes_it_back(studio: Studio) -> None:
    config = studio.home.parent / "pipeline.yaml"
    before = config.read_text()
    assert "is ../x from the next run on" in correct(studio, 0, "../x")
    assert config.read_text() == before.replace("corrections: null", "corrections: corrections.csv")
    found = correct(studio, 1, "-")
    assert "is left out from the next run on" in found
    assert "Start a run with them" in found
    assert [row["label"] for row in rows(studio)] == ["../x", "-"]
    assert "is taken as it was" in correct(studio, 0)
    assert "is taken as it was" in correct(studio, 1, "cat")
    assert rows(studio) == []
    data = {"execution": f"{NAME}/e1", "image": "\u5199\u771f\r\nX-Injected: 1", "label": ""}
    odd = studio.post("/data/correct", data, allow_redirects=False)
    assert (odd.status_code, "X-Injected" in odd.headers) == (303, False)
    assert studio.get(f"{DATA}&class=cat&page={'9' * 5000}").ok


def test_what_else_a_file_of_corrections_holds_stays(studio: Studio) -> None:
    file = studio.home.parent / "corrections.csv"
    kept = '\ufeffpath,label,who\r\n"gone, long/1.png",cat,me\r\n'
    file.write_bytes(f'{kept}"cat/train 0.png",cat,"you, too"'.encode())
    correct(studio, 0, HOSTILE)
    correct(studio, 2, "../x")
    text = file.read_bytes().decode()
    assert text == f'{kept}cat/train 0.png,{HOSTILE},"you, too"\r\ncat/train 2.png,../x,\r\n'
    assert "gone, long/1.png" in correct(studio, 0)
    assert rows(studio)[1] == {"path": "cat/train 0.png", "label": "cat", "who": "you, too"}
    correct(studio, 999, image="gone, long/1.png")
    assert [row["path"] for row in rows(studio)] == ["cat/train 0.png", "cat/train 2.png"]


@pytest.mark.parametrize(
    ("number", "label", "said"), [(0, "dog", "is no class of this data"), (999, "cat", "There is no image")]
)
def test_what_is_no_correction_is_refused(studio: Studio, number: int, label: str, said: str) -> None:
    before = (studio.home.parent / "corrections.csv").read_bytes()
    assert said in correct(studio, number, label)
    assert (studio.home.parent / "corrections.csv").read_bytes() == before


def test_a_file_that_is_no_csv_of_corrections_is_named_and_left_alone(studio: Studio) -> None:
    file = studio.home.parent / "corrections.csv"
    for content in (b"a,b\n", b"\xff\xfe", b""):
        file.write_bytes(content)
        assert "corrections.csv" in studio.get(DATA).text
        correct(studio, 0, "../x")
        assert file.read_bytes() == content
    file.unlink()


def test_suspects_of_an_audit_are_corrected_by_one_click(studio: Studio) -> None:
    folder = studio.home / "reports/audit-e1"
    folder.mkdir(parents=True)
    (folder / "audit.json").write_text('{"wrong": 1, "images": 63}')
    (folder / "corrections.csv").write_text("\ufeffpath,label,suggested,score\ncat/train 3.png,cat,../x,0.0123\n")
    found = studio.get(f"/data/suspects?execution={NAME}/e1").text
    assert "1 of 63 labels look wrong" in found
    assert "It is ../x" in found


def test_an_audit_that_fails_says_why(studio: Studio) -> None:
    assert studio.post("/data/audit", {"execution": f"{NAME}/--help"}).status_code == 404
    studio.post("/data/audit", {"execution": f"{NAME}/e1"})
    place = f"/data/suspects?execution={NAME}/e1"
    wait_until(lambda: "Looking" not in studio.get(place).text, seconds=30)
    assert "has not prepared any images" in studio.get(place).text  # there are no embeddings
