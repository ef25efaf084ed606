"""model.json: what evaluation, the endpoint and a reader need to know about the network beside it."""

import json
from pathlib import Path
from typing import Any

from classifier.job.failures import StepError


def read_description(model_dir: Path) -> dict[str, Any]:
    """model.json."""
    path = model_dir / "model.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StepError(f"{model_dir} holds no model.json. A model of the final training has one.") from None
    except ValueError as error:
        raise StepError(f"{path} is not JSON ({error}). Train the model again.") from None
    return description
