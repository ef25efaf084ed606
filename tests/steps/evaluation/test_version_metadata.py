"""A version's metadata: text that the registry's API takes, whatever the model's own says."""

import re

from classifier.evaluation.version_metadata import accepted, version_metadata

FIGURES = {"accuracy": 0.96268, "macro_f1": 0.9, "top_5_accuracy": 1.0, "loss": 0.25}
DOCUMENT = {
    "multiclass_classification_metrics": {name: {"value": value} for name, value in FIGURES.items()},
    "test_images": 268,
    "dataset_sha256": "0" * 64,
    "hyperparameters": {"lr": 1e-05, "batch_size": 32},
    "rules": {"Overfit": "NoIssuesFound", "LossNotDecreasing": "IssuesFound"},
}


def test_figures_data_hyperparameters_and_rules_become_text() -> None:
    assert version_metadata(DOCUMENT) == {
        "accuracy": "0.9627",
        "macro_f1": "0.9000",
        "top_5_accuracy": "1.0000",
        "loss": "0.2500",
        "test_images": "268",
        "dataset_sha256": "0" * 64,
        "hyperparameters": "batch_size=32 lr=1e-05",
        "rules": "LossNotDecreasing=IssuesFound Overfit=NoIssuesFound",
    }


def test_without_rules_it_says_none_as_the_api_takes_no_empty_text() -> None:
    assert version_metadata({**DOCUMENT, "rules": {}})["rules"] == "none"


def test_what_the_api_refuses_is_replaced_and_cut_and_the_same_each_time() -> None:
    long = {f"Rule{number}": 'odd, "quoted"\n' for number in range(50)}
    value = version_metadata({**DOCUMENT, "rules": long})["rules"]
    assert value == version_metadata({**DOCUMENT, "rules": long})["rules"]
    assert value.startswith("Rule0=odd_ _quoted__ Rule1=")
    assert (len(value), value[-3:]) == (256, "...")
    assert re.fullmatch(r"[\w .:/=+\-@]{1,256}", value)
    assert accepted("x" * 256) == "x" * 256
