"""Compiled definitions, and what tests look at in them."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.compile.compiler import Inputs, compile_pipeline
from pipeline.compile.placement import Placement, local_placement
from pipeline.config.config import load
from pipeline.definition.check import check

PROCESSING_STEPS = ("PrepareData", "EvaluateModel")
TRAINING_STEPS = ("TuneHyperparameters", "TrainWithDebugger")
Json = dict[str, Any]
HERE = local_placement("deploy")


def compiler(path: Path) -> Callable[..., Json]:
    """A function from the text of a pipeline.yaml, which it writes to `path`, to its definition; a sound one.

    What else it is given by name is an input of the compiler.
    """

    @functools.cache  # a second each
    def compile_text(text: str = "data: {source: sample}", placement: Placement = HERE, **named: Any) -> Json:
        path.write_text(text)
        uris = {"input_data_uri": "s3://local/data"}
        uris |= {f"{name}_uri": f"s3://local/{name}" for name in ("weights", "annotations")}
        compiled = compile_pipeline(Inputs(load(path), placement, **uris, **named))
        definition: Json = json.loads(compiled.definition)
        assert check(definition) == []
        return definition

    return compile_text


def steps_of(definition: Json) -> dict[str, Json]:
    """Name -> step, those of branches included."""
    found = {step["Name"]: step for step in definition["Steps"]}
    for step in definition["Steps"]:
        for branch in ("IfSteps", "ElseSteps"):
            found |= {inner["Name"]: inner for inner in step["Arguments"].get(branch, [])}
    return found


def jobs_of(definition: Json) -> dict[str, Json]:
    """Name -> the request of each step that is a job, a search's that of its trials."""
    steps = steps_of(definition)
    arguments = {name: steps[name]["Arguments"] for name in (*PROCESSING_STEPS, *TRAINING_STEPS)}
    return {name: found.get("TrainingJobDefinition", found) for name, found in arguments.items()}
