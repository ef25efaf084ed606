"""report.html: complete, self-contained, and safe with any class name."""

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifier.data.thumbnails import data_uri
from classifier.evaluation.comparison import Comparison
from classifier.evaluation.metrics import classification_metrics, effect
from classifier.evaluation.report import Mistake, report
from classifier.training.calibration import reliability, softmax

SPACE = "\N{NARROW NO-BREAK SPACE}"
CLASSES = ["cat", "<script>alert(1)</script>", 'dog "rex" & co']
VOID = {"meta", "img", "br", "link", "input"}


MODEL = {
    "backbone": "test_resnet",
    "preprocess": {"image_size": 32},
    "validation": {"epoch": 4, "validation_accuracy": 0.75},
    "hyperparameters": {"lr": "0.0034100000000000003", "hidden_units": 7, "final": True},
}
MANIFEST = {
    "counts": {"train": {"cat": 1200, "dog": 34}, "validation": {"cat": 9}, "test": {"cat": 6}},
    "augmented_views": 3,
    "skipped": [{"path": "x", "reason": "y"}],
    "duplicates": [],
    "dataset_sha256": "abc123",
}


def figures(classes: list[str], labels: list[int], predicted: list[int]) -> dict[str, Any]:
    rest = 0.06 / len(classes)
    probabilities = np.full((len(labels), len(classes)), rest, dtype=np.float32)
    probabilities[np.arange(len(labels)), predicted] = 1 - rest * (len(classes) - 1)
    return classification_metrics(np.array(labels), probabilities, classes)


def page_of(metrics: dict[str, Any], mistakes: Sequence[Mistake] = (), **settings: Any) -> str:
    """A page that is well-formed."""
    page = report(metrics, mistakes, MODEL, MANIFEST, **settings)
    Balance(page)
    return page


def mistake(size: tuple[int, int] = (300, 200)) -> Mistake:
    return Mistake(Image.new("RGB", size, "red"), "a&b.png", CLASSES[1], CLASSES[2], 0.912, 0.034)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(figures(CLASSES, [0, 0, 0, 1, 2, 2], [0, 0, 0, 2, 2, 2]), [mistake()])


class Balance(HTMLParser):
    """Fails on a closing tag that does not match; keeps texts and addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []
        self.text = " ".join(self.text.replace(SPACE, " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [tag] if tag not in VOID else []
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    assert all(address.startswith("data:image/") for address in Balance(page).addresses)
    assert not re.search(r"url\(|@import|<script .|https?://", page)
    assert page.count("<script>") == 1, "for the charts"


def test_class_names_are_text_and_never_markup(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "dog &#34;rex&#34; &amp; co" in page


def test_headline_names_accuracy_counts_and_confidence(page: str) -> None:
    text = Balance(page).text
    assert "83.3 % accuracy" in text
    assert "5 of 6 test images are classified correctly. With this many images, the true accuracy lies between" in text


def test_confusion_matrix_colours_cells_by_their_share_of_the_row(page: str) -> None:
    hit = f'<td class="hit" style="--share:1.00" title="cat taken for cat: 3 (100.0{SPACE}%)">3</td>'
    assert hit in page
    assert '<td style="--share:1.00"' in page, "the one image of the second class is taken for the third"
    assert page.count("<td></td>") + page.count('<td class="hit"></td>') == 6


def test_mistakes_show_picture_predicted_and_true_class_with_scores(page: str) -> None:
    figure = re.search(r"<figure>.*?</figure>", page, re.DOTALL)
    assert figure is not None
    caption = " ".join(re.sub(r"<.*?>", " ", figure[0].replace(SPACE, "")).split())
    assert caption == "dog &#34;rex&#34; &amp; co 91.2% &lt;script&gt;alert(1)&lt;/script&gt; 3.4%"


def test_classes_are_sorted_by_f1_the_hardest_first(page: str) -> None:
    names = re.findall(r'<th scope="row">(.*?)</th>', page[page.index('<table class="classes">') :])
    assert names[:3] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "dog &#34;rex&#34; &amp; co", "cat"]


def test_what_was_trained_on_what_is_said(page: str) -> None:
    model = {"Backbone": "test_resnet, frozen, at 32 × 32 px", "Learning rate": "0.00341", "Hidden units": "7"}
    data = {"Train images": "1,234", "Skipped files": "1", "Data set SHA-256": "abc123", "x": "y"}
    for name, fact in {**model, **data}.items():
        assert f'<th scope="row">{name}</th><td>{fact}</td>' in page
    assert "<summary>1 file was skipped</summary>" in page


def test_page_without_mistakes_says_so() -> None:
    page = page_of(figures(CLASSES, [0, 1, 2], [0, 1, 2]))
    assert "None: every test image is classified correctly." in page
    assert "<figure>" not in page


def test_page_with_133_classes_stays_small() -> None:
    classes = [f"{number:03}.breed_{number}" for number in range(133)]
    labels = list(range(133)) * 6
    page = page_of(figures(classes, labels, labels), [mistake()] * 24)
    assert len(page) < 500_000


@pytest.mark.parametrize(
    ("size", "format_name", "longer_side"), [((300, 200), "JPEG", 192), ((8, 8), "PNG", 8), ((100, 90), "JPEG", 100)]
)
def test_pictures_are_small_data_uris(size: tuple[int, int], format_name: str, longer_side: int) -> None:
    kind, _, encoded = data_uri(Image.new("RGB", size, "blue")).partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert kind == f"data:image/{format_name.lower()}"
    assert (picture.format, max(picture.size)) == (format_name, longer_side)


def test_scores_and_how_often_they_are_right_are_drawn_before_and_after_the_temperature() -> None:
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((400, 5)).astype(np.float32) * 2.5
    labels = generator.integers(0, 5, 400)
    calibration = effect(softmax(logits, 2.5), labels, 2.5)
    page = page_of(figures(CLASSES, [0, 1, 2], [0, 1, 2]), calibration=calibration)
    assert "A temperature of 2.500, fitted on the validation split, makes the network\nless sure of itself" in page
    filled = [part for part in reliability(softmax(logits, 2.5), labels).bins if part.images]
    deployed = page[page.index("As deployed") :]
    assert deployed.count("<circle") == len(filled)
    assert f"{filled[0].images} images: {100 * filled[0].accuracy:.1f}{SPACE}% right</title>" in deployed


def test_top_5_is_shown_from_six_classes_on() -> None:
    assert "Top-5" not in page_of(figures(CLASSES, [0], [0]))
    assert "Top-5" in page_of(figures(list("abcdef"), [0], [0]))


def compared(labels: list[int], new: list[int], old: list[int], **settings: Any) -> str:
    """The comparison's section of a page, as text."""
    model, champion = figures(CLASSES, labels, new), figures(CLASSES, labels, old)
    margin = settings.pop("margin", 0.0)
    page = page_of(model, comparison=Comparison(model, margin, champion, "arn:x:model-package/digits/3", **settings))
    section = page[page.index("<h2>Compared") : page.index("<h2>Confusion")].replace(SPACE, " ")
    return " ".join(re.sub(r"<[^>]*>", " ", section).split())


def test_both_models_stand_side_by_side_with_the_classes_that_differ_most() -> None:
    text = compared([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 1], [0, 1, 2, 1, 2, 2])
    assert text.startswith(
        "Compared with the model in service This model is 16.7 points more accurate than digits/3 , and at least as "
        "much was asked for. The whole split This model In service Difference Accuracy 83.3 % 66.7 % +16.7 points "
        "Macro F1 0.822 0.656 +0.167"
    )
    assert text.endswith(
        "F1 of the classes that differ Class This model In service Difference cat 1.000 0.667 +0.333 "
        "&lt;script&gt;alert(1)&lt;/script&gt; 0.800 0.500 +0.300 "
        "dog &#34;rex&#34; &amp; co 0.667 0.800 \N{MINUS SIGN}0.133"
    )


@pytest.mark.parametrize(
    ("old", "settings", "verdict"),
    [
        ([0, 0, 1], {}, "This model is 33.3 points less accurate than digits/3 , but at least as much was asked for."),
        ([0, 1, 1], {"margin": 0.01}, "This model is exactly as accurate as digits/3 , but at least 1 points more"),
        ([0, 1, 1], {}, "This model is exactly as accurate as digits/3 , and at least as much was asked for."),
        ([0, 0, 2], {"is_same_model": True}, "This is digits/3 , the model in service itself: it replaces nothing."),
    ],
)
def test_the_verdict_says_what_was_asked_for(old: list[int], settings: dict[str, Any], verdict: str) -> None:
    assert verdict in compared([0, 0, 1], [0, 0, 2], old, **settings)


def test_a_page_without_a_champion_says_why_and_one_that_was_not_asked_to_compare_says_nothing() -> None:
    alone = figures(CLASSES, [0, 1, 2], [0, 1, 2])
    page = page_of(alone, comparison=Comparison(alone, 0.0, reason="it knows <other> classes"))
    assert "<p>There is no comparison: it knows &lt;other&gt; classes.</p>" in page
    assert "Compared with" not in page_of(alone)
