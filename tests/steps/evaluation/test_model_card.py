"""The model card of a version is what SageMaker's schema and API take, whatever the classes are called."""

import json
from typing import Any

import pytest
from sagemaker.core.shapes.model_card_shapes import ModelCardContent

from classifier.evaluation.metrics import HEADLINES, version_metadata
from classifier.evaluation.model_card import model_card
from classifier.model.accuracy import figure

FACES = "\N{GRINNING FACE}" * 300
HOSTILE = [FACES, "</script><b>&amp;", 'a "quoted"\nline', " ", "\x00\u2028"]
MANY = [f"{number} {FACES}" for number in range(1000)]


def card_of(classes: list[str], uses: str | None = None, limits: str | None = None) -> tuple[str, Any]:
    """The card's text, and what it says."""
    scores = {"recall": 0.5, "support": 8}
    document: dict[str, Any] = {
        "multiclass_classification_metrics": {
            **{name: figure(0.5, 80) for name in (*HEADLINES, "expected_calibration_error")},
            "per_class": {name: scores | {"recall": number / 1000} for number, name in enumerate(classes)},
        },
        "worst_class": {"class": classes[0], "recall": figure(0.5, 8)}, "group_gap": {"value": 0.0},
        "test_images": 80, "dataset_images": 400, "classes": classes,
        "hyperparameters": {"lr": 0.01, "name": "x" * 999},
        "rules": {f"Rule{number}": "IssuesFound" for number in range(60)},
        **{f"{name}_sha256": "0" * 64 for name in ("dataset", "model", "archive")},
    }  # fmt: skip
    document["customer_metadata_properties"] = version_metadata(document)
    counts = {split: dict.fromkeys(classes, 8) for split in ("train", "validation", "test")}
    text = model_card(document, {"counts": counts}, uses, limits)
    return text, json.loads(text)


@pytest.mark.parametrize("classes", [["hat", "cap"], HOSTILE, MANY], ids=["usual", "hostile", "many"])
def test_the_card_follows_the_schema_and_fits(classes: list[str]) -> None:
    """The SDK's shapes are made from the service's schema: what they do not know, it may refuse."""
    text, card = card_of(classes, "u" * 256, "\N{GRINNING FACE}" * 256)
    assert ModelCardContent.model_validate(card).model_dump(exclude_none=True, mode="json") == card
    assert text.isascii() and text.isprintable() and len(text) < 80_000
    assert not set("<>&") & set(text)


def test_the_card_says_what_the_model_is_for_and_what_it_is_worth() -> None:
    _, card = card_of(["hat", "cap"])
    assert card["intended_uses"]["intended_uses"].startswith("Images like those that it was trained on")
    assert card["intended_uses"]["purpose_of_model"].endswith("2: hat / cap")
    [evaluation] = card["evaluation_details"]
    metrics = {metric["name"]: metric for group in evaluation["metric_groups"] for metric in group["metric_data"]}
    assert metrics["accuracy"] == {
        "name": "accuracy", "type": "number", "value": 0.5, "notes": "80 images, 95 %: 0.393 to 0.607"
    }  # fmt: skip
    assert metrics["hat"]["notes"] == "8 images, 95 %: 0.000 to 0.324"
    assert card["training_details"]["training_job_details"]["training_datasets"][0].startswith("Trained on 16 images")
    _, card = card_of(["hat", "cap"], "Sorting returned clothes.", "Not for shoes.")
    assert card["intended_uses"]["intended_uses"] == "Sorting returned clothes."
    assert card["additional_information"]["caveats_and_recommendations"] == "Not for shoes."
