"""The model card that is registered with a version: what the model is for, what it was trained on, what it is worth.

Sections, names and lengths are those of SageMaker's "model package model card schema" (AWS guide,
"model-registry-details"); CreateModelPackage takes at most 100,000 characters on one line.
"""

import json
from collections.abc import Mapping
from typing import Any

from classifier.evaluation.metrics import HEADLINES
from classifier.model.accuracy import interval_text

LONGEST = 100  # characters of a name or a value; escaped, each may become twelve
SHOWN_CLASSES = 20  # whose recall is given, the lowest first
ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}  # a page that shows the card shall not obey it
USES = "Images like those that it was trained on, each of which shows one of the classes."
LIMITS = "It knows these classes only, and answers with one of them whatever an image shows."


def model_card(document: Mapping[str, Any], manifest: Mapping[str, Any], uses: str | None, limits: str | None) -> str:
    """Return the card as JSON, made from the rest of evaluation.json; uses and limits are settings of `registry`."""
    figures, texts = document["multiclass_classification_metrics"], document["customer_metadata_properties"]
    counts = {split: sum(classes.values()) for split, classes in manifest["counts"].items()}
    data = {split: f"{counts[split]:,} images, dataset sha256 {document['dataset_sha256']}" for split in counts}
    known = {name: {"value": of["recall"], "images": of["support"]} for name, of in figures["per_class"].items()}
    worst = sorted((name for name in known if known[name]["images"]), key=lambda name: known[name]["value"])
    groups = {
        "All classes": {name: figures[name] for name in (*HEADLINES, "expected_calibration_error")},
        "Lowest recalls": {name: known[name] for name in worst[:SHOWN_CLASSES]},
    }
    hyperparameters = [{"name": name, "value": cut(str(each))} for name, each in document["hyperparameters"].items()]
    training = {
        "training_datasets": [f"Trained on {data['train']}", f"Selected and calibrated on {data['validation']}"],
        "user_provided_hyper_parameters": hyperparameters,
    }
    evaluation = {
        "name": "Test split",
        "evaluation_observation": "On images that the model was neither trained nor selected on.",
        "datasets": [data["test"]],
        "metric_groups": [
            {"name": name, "metric_data": [metric(*of) for of in groups[name].items()]} for name in groups
        ],
    }
    card = {
        "model_overview": {"model_artifact": [f"model.tar.gz, sha256 {document['archive_sha256']}"]},
        "intended_uses": {
            "purpose_of_model": f"Says which of these classes an image shows. {texts['classes']}",
            "intended_uses": uses or USES,
            "factors_affecting_model_efficiency": limits or LIMITS,
            "risk_rating": "Unknown",
        },
        "business_details": {"business_problem": f"Sorting images into {len(document['classes'])} classes"},
        "training_details": {
            "training_observations": f"Rules that watched the training: {texts['rules']}",
            "training_job_details": training,
        },
        "evaluation_details": [evaluation],
        "additional_information": {
            "ethical_considerations": f"Largest gap of accuracy between groups, if there are any: {texts['group_gap']}",
            "caveats_and_recommendations": limits or LIMITS,
            "custom_details": {name: document[name] for name in ("model_sha256", "dataset_sha256")},
        },
    }
    return json.dumps(card, separators=(",", ":"), allow_nan=False).translate(ESCAPED)


def metric(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number, that of a share with its interval."""
    notes = {"notes": interval_text(figure["value"], figure["images"])} if "images" in figure else {}
    return {"name": cut(name), "type": "number", "value": figure["value"], **notes}


def cut(text: str) -> str:
    """Return a text on one line and not too long."""
    line = " ".join(text.split()) or "(blank)"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
