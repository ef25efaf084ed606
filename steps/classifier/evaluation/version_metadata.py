"""What the registry keeps with a model version, as text: the values of its CustomerMetadataProperties.

The API takes 1 to 256 characters of letters, digits, spaces and `_.:/=+-@` (CreateModelPackage, CustomerMetadataValue).
"""

import re
from collections.abc import Mapping
from typing import Any

CHARACTERS = 256
REFUSED = re.compile(r"[^\w .:/=+\-@]")
MORE = "..."
NONE = "none"


def version_metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """`customer_metadata_properties` of evaluation.json, made from the rest of it."""
    metrics = document["multiclass_classification_metrics"]
    figures = {name: f"{metrics[name]['value']:.4f}" for name in ("accuracy", "macro_f1", "top_5_accuracy", "loss")}
    values = {
        **figures,
        "test_images": str(document["test_images"]),
        "dataset_sha256": str(document["dataset_sha256"]),
        "hyperparameters": listed(document["hyperparameters"]),
        "rules": listed(document["rules"]),
    }
    return {name: accepted(value) for name, value in values.items()}


def listed(values: Mapping[str, Any]) -> str:
    """name=value, in the order of the names."""
    return " ".join(f"{name}={values[name]}" for name in sorted(values))


def accepted(value: str) -> str:
    """The value as the API takes it: what it refuses becomes `_`, and what is too long ends with three dots."""
    text = REFUSED.sub("_", value).strip() or NONE
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - len(MORE)] + MORE
