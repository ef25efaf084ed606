"""Groups of images: their accuracies, which differences count as found, and what the gates say of them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from classifier.evaluation.gates import gates
from classifier.evaluation.groups import Gap, accuracy_by_group, attributes_of, largest_gap
from classifier.model.accuracy import figure

GAP = Gap(0.2, "camera", "a", "b", p_value=0.01)
WORST = {"class": "hat", "recall": figure(0.5, 8)}


def groups_of(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    """A column `camera` and one of which images are answered rightly: right and all images of each group."""
    rows = [(name, place < right) for name, (right, images) in counts.items() for place in range(images)]
    return pd.DataFrame(rows, columns=["camera", "right"])


def gap_of(counts: dict[str, tuple[int, int]]) -> Gap | None:
    table = groups_of(counts)
    return largest_gap(accuracy_by_group(table[["camera"]], table["right"].to_numpy()))


def test_a_difference_that_chance_does_not_make_is_found() -> None:
    gap = gap_of({"phone": (190, 200), "scan": (92, 100), "webcam": (35, 60), "few": (0, 5)})
    assert gap is not None
    assert (gap.attribute, gap.lowest, gap.highest) == ("camera", "webcam", "phone"), "five images are too few"
    assert gap.value == gap.difference == pytest.approx(0.95 - 35 / 60)
    assert gap.p_value < 0.001


@pytest.mark.parametrize(
    "counts",
    [
        {name: (27 + number % 4, 30) for number, name in enumerate("abcdefghij")},
        {"phone": (100, 100), "webcam": (100, 100)},
        {"phone": (0, 40), "webcam": (0, 40)},
    ],
    ids=["ten small groups", "all right", "all wrong"],
)
def test_a_difference_that_may_be_chance_is_told_but_not_gated(counts: dict[str, tuple[int, int]]) -> None:
    gap = gap_of(counts)
    assert gap is not None
    assert gap.value == 0.0
    assert gap.p_value > 0.05


def test_groups_without_enough_images_are_shown_and_not_compared() -> None:
    table = groups_of({"phone": (40, 40), "webcam": (5, 29)})
    found = accuracy_by_group(table[["camera"]], table["right"].to_numpy())
    assert list(found["camera"]) == ["webcam", "phone"]
    assert found["camera"]["webcam"] == figure(5 / 29, 29)
    assert largest_gap(found) is None
    assert largest_gap({}) is None


@pytest.mark.parametrize(
    ("gap", "least", "most", "met", "words"),
    [
        (None, 0.4, None, [True], "'hat' with 0.5000 (8 images, 95 %: 0.215 to 0.785), which are few, reaches"),
        (None, 0.6, None, [False], "is below condition.min_class_recall = 0.6"),
        (None, None, 0.1, [True], "no attribute has two groups of at least 30 test images"),
        (GAP, None, 0.1, [False], "'b', beyond chance (p = 0.01), is too large; condition.max_group_gap = 0.1"),
        (GAP, None, 0.3, [True], "is accepted; condition.max_group_gap = 0.3"),
        (Gap(0.2, "camera", "a", "b", 0.4), 0.6, 0.1, [False, True], "within chance (p = 0.4), is accepted"),
        (None, None, None, [], ""),
    ],
)  # fmt: skip
def test_gates_say_what_was_found_and_what_was_asked_for(
    gap: Gap | None, least: float | None, most: float | None, met: list[bool], words: str
) -> None:
    found = list(gates(WORST, gap, least, most))
    assert [gate.is_met for gate in found] == met
    assert words in " ".join(gate.words for gate in found)


def test_attributes_are_read_in_the_order_of_the_test_images() -> None:
    rows: list[dict[str, Any]] = [{"split": "test", "attributes": {"camera": f"c{row}"}} for row in range(6)]
    rows[3] |= {"attributes": {"camera": ""}}
    rows[4].pop("attributes")
    found = attributes_of([{"split": "train", "attributes": {"camera": "other"}}, *rows])
    assert found["camera"].tolist() == ["c0", "c1", "c2", "(not given)", "(not given)", "c5"]
    assert attributes_of([{"split": "test"}]).empty


def test_a_hundred_thousand_images_in_many_groups_are_compared_at_once() -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"patient": generator.integers(0, 2000, 100_000).astype(str)})
    found = accuracy_by_group(table, generator.random(100_000) < 0.9)
    assert sum(group["images"] for group in found["patient"].values()) == 100_000
    assert len(found["patient"]) == 21, "the others are one group"
    gap = largest_gap(found)
    assert gap is not None
    assert gap.value == 0.0
