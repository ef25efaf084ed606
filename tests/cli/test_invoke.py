"""`invoke`: files, folders and patterns to a server of the local target; bars, CSV, JSON Lines, JSON."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from said import Cli, Said

import run_pipeline
from pipeline.cli.output import Counting
from pipeline.service.images import Tally
from tests.local.samples import ROOT, processes_of
from tests.service.labelling import deployed, end

REFUSED = "The endpoint refused the image: The image cannot be read."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("invoke") / "home"
    deployed(home)
    yield home
    end(home)
    assert not processes_of(home)


@pytest.fixture
def cli(home, tmp_path, monkeypatch, capsys) -> Cli:
    """A function that runs `invoke` in a working directory with some images."""
    for name, content in {
        "photos/a.jpg": "cat 0.9", "photos/sub/b.PNG": "dog 0.8", "photos/notes.txt": "cat 1", "photos/.c.jpg": "cat 1",
        "bad.jpg": "noise", "one.dat": "cat 0.6",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run_pipeline.py")])

    def run(*words: str) -> Said:
        return Said(run_pipeline.main(["invoke", *words, "--home", str(home)]), *capsys.readouterr())

    return run


def test_an_image_is_shown_with_a_bar_for_each_class(cli):
    assert cli("photos/a.jpg") == (
        0,
        "photos/a.jpg: cat (0.900)\n  cat    0.900 " + 36 * "█" + "\n  other  0.100 " + 4 * "█" + "\n",
        "",
    )


def test_a_folder_stands_for_the_images_below_it_and_each_counts_once(cli):
    said = cli("photos", "photos/a.jpg", "photos/**/*.jpg", "--json")
    assert [row["image"] for row in json.loads(said.out)] == ["photos/a.jpg", "photos/sub/b.PNG"]
    assert (said.status, said.error) == (0, "1/2 images\n2/2 images\n")


def test_a_file_of_any_name_is_sent_and_a_pattern_finds_it(cli):
    for word in ("one.dat", "o*.dat", str(Path("one.dat").resolve())):
        assert cli(word).out.startswith(f"{word.replace('*', 'ne')}: cat (0.600)\n")


def test_a_bad_image_is_one_line_and_not_the_end(cli):
    said = cli("bad.jpg", "photos/a.jpg")
    assert (said.status, said.error) == (1, f"bad.jpg: {REFUSED}\n")
    assert said.out.startswith("photos/a.jpg: cat (0.900)\n")


def test_rows_go_to_a_csv_file(cli):
    said = cli("photos", "bad.jpg", "--out", "labels.csv")
    assert (said.status, said.out) == (
        1,
        "3 images, 1 without an answer\n  cat  1 █████████████\n  dog  1 █████████████\nlabels.csv\n",
    )
    assert f"bad.jpg: {REFUSED}\n" in said.error
    with Path("labels.csv").open(newline="") as stream:
        first, second, third = csv.DictReader(stream)
    assert first == {
        "image": "photos/a.jpg", "label": "cat", "score": "0.900000", "label_2": "other", "score_2": "0.100000",
        **{f"{name}_{rank}": "" for rank in (3, 4, 5) for name in ("label", "score")}, "confident": "", "error": "",
    }  # fmt: skip
    assert (second["label"], second["score"]) == ("dog", "0.800000")
    assert (third["image"], third["label"], third["error"]) == ("bad.jpg", "", REFUSED)


def test_what_the_model_is_not_confident_of_is_told(cli):
    for name, score in (("sure.jpg", 0.9), ("unsure.jpg", 0.4)):
        Path(name).write_text(f"judged {score}")
    lines = cli("sure.jpg", "unsure.jpg").out.splitlines()
    assert (lines[0], lines[3]) == ("sure.jpg: judged (0.900)", "unsure.jpg: judged (0.400), not confident")
    assert cli("*sure.jpg", "--out", "labels.csv").status == 0
    with Path("labels.csv").open(newline="") as stream:
        assert [row["confident"] for row in csv.DictReader(stream)] == ["true", "false"]


def test_rows_go_to_a_json_lines_file_as_the_answers_came(cli):
    assert cli("bad.jpg", "photos/a.jpg", "--out", "labels.jsonl").status == 1
    top = [{"label": "cat", "score": 0.9}, {"label": "other", "score": 0.1}]
    assert [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()] == [
        {"image": "bad.jpg", "error": REFUSED},
        {"image": "photos/a.jpg", "label": "cat", "score": 0.9, "top": top},
    ]


def test_hundreds_of_images_are_asked_at_the_same_time_and_answered_in_order(cli):
    Path("many").mkdir()
    for number in range(300):
        pause = 0.1 if number < 20 else 0
        Path(f"many/{number:03}.jpg").write_text(f"class{number % 3} 0.5 {pause}")
    said = cli("many", "--out", "labels.csv")
    assert said.out.splitlines()[0] == "300 images"
    assert said.error.splitlines() == [f"{count}/300 images" for count in range(30, 301, 30)]
    rows = Path("labels.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [
        [f"many/{number:03}.jpg", f"class{number % 3}"] for number in range(300)
    ]
    Path("most.jpg").write_text("most")
    [answer] = json.loads(cli("most.jpg", "--json").out)
    assert 1 < answer["most"] <= 8


def test_what_an_answer_depends_on_is_drawn_beside_the_image(cli, home):
    Image.effect_noise((60, 40), 80).convert("RGB").save("photos/real.png")
    said = cli("photos/real.png", "--explain")
    place = home / "reports" / "explained" / "photos-real.png.png"
    assert (said.status, said.error) == (0, "")
    assert said.out.startswith("photos/real.png: png (0.750)\n")
    assert said.out.endswith(f"  What it depends on: {place}\n")
    picture = np.asarray(Image.open(place).convert("RGB")).astype(int)
    assert picture.shape == (384, 768, 3)
    assert (picture[:, 384:].max(axis=2) == picture[:, 384:].min(axis=2)).all(), "no place matters to this server: grey"
    [row] = json.loads(cli("photos/real.png", "--explain", "--json").out)
    assert row["explanation"] == str(place)


def test_what_cannot_be_explained_is_a_sentence(cli):
    said = cli("one.dat", "--explain")
    sentence = "one.dat cannot be explained: The file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image."
    assert (said.status, said.error) == (2, f"{sentence}\n")
    Path("most").mkdir()
    for number in range(21):
        Path(f"most/{number}.png").touch()
    said = cli("most", "--explain")
    assert said == (2, "", "--explain takes fifty requests an image: name at most 20, not 21.\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("none.jpg", "No such image: none.jpg"),
        ("photos/a.jpg none*.jpg", "No file matches none*.jpg"),
        ("photos/a.jpg --out labels.txt", "--out labels.txt: the name must end with .csv or .jsonl."),
        ("photos/a.jpg --out none/labels.csv", "--out none/labels.csv: there is no folder none."),
        ("photos/a.jpg --out folder.csv", "--out folder.csv: it is a folder."),
    ],
)
def test_a_mistake_is_found_before_anything_is_asked(cli, words, sentence):
    Path("folder.csv").mkdir()
    assert cli(*words.split()) == (2, "", f"{sentence}\n")


def test_a_file_that_cannot_be_written_is_a_sentence(cli):
    Path("labels.csv").symlink_to("/dev/full")
    said = cli("photos/a.jpg", "--out", "labels.csv")
    assert said == (2, "", "--out labels.csv: it cannot be written (No space left on device).\n")


class Terminal:
    """A stream that is one."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_progress_is_redrawn_in_place_on_a_terminal():
    terminal = Terminal()
    counting = Counting(terminal, 2)  # type: ignore[arg-type]
    counting.show(1)
    counting.show(2)
    counting.clear()
    assert terminal.text == "\r\x1b[K1/2 images\r\x1b[K2/2 images\r\x1b[K"


def test_nothing_counted_is_no_image():
    assert list(Tally().lines()) == ["0 images"]
