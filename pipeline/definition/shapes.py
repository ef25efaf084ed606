"""The format of a definition (version 2020-12-01) around its requests, in botocore's model language: `format.json`.

It is published only in prose, as a JSON schema that refuses the SDK's own output, and in what the SDK emits; the limits
are those of all three. `document` stands for any JSON.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.definition.service_model import Shape
from pipeline.definition.step_types import STEP_TYPES

REQUIRED_MEMBERS = ("FunctionArn", "SqsQueueUrl")
STEP_ERRORS = ["Step.SERVICE_FAULT", "Step.THROTTLING"]
JOB_ERRORS = ["SageMaker.JOB_INTERNAL_ERROR", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"]
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
TYPES = {"String": "string", "Integer": "integer", "Float": "double", "Boolean": "boolean"}  # of parameters, of outputs
EXPRESSION_SHAPES = frozenset(("ExperimentText", "FunctionArn", "SqsQueueUrl"))  # outside Arguments
FORMAT: dict[str, Any] = json.loads((Path(__file__).parent / "format.json").read_text())


def format_shape(name: str) -> Shape:
    """A shape of the definition's own format."""
    return Shape(name, FORMAT)


def parameter_shape(parameter: Mapping[str, Any]) -> Shape:
    """What a parameter's declaration must be, by its Type; EnumValues, if any, go with strings only."""
    parameter_type, listed = str(parameter.get("Type")), parameter.get("EnumValues")
    default: dict[str, Any] = {"type": TYPES[parameter_type]} if parameter_type in TYPES else FORMAT["Any"]
    members = dict(FORMAT["Parameter"]["members"])
    if parameter_type == "String":
        default["max"] = 4096
        if accepted := [value for value in listed if isinstance(value, str)] if isinstance(listed, list) else []:
            default["enum"] = accepted
    elif parameter_type in TYPES:
        del members["EnumValues"]
    return Shape("Parameter", {**FORMAT, "Default": default, "Parameter": {**FORMAT["Parameter"], "members": members}})


@cache
def step_shape(step_type: str) -> Shape:
    """A step of the type, its Arguments open."""
    own = STEP_TYPES[step_type].members or ()
    members = {"Name": "IdentifierName", "Type": "Text", "Arguments": "Any", "DependsOn": "Anything"}
    members |= {name: name for name in ("DisplayName", "Description", *own)}
    required = ["Name", "Type", "Arguments", *(name for name in own if name in REQUIRED_MEMBERS)]
    step = {"type": "structure", "required": required, "members": members}
    errors = {"type": "string", "enum": STEP_ERRORS + (JOB_ERRORS if STEP_TYPES[step_type].job_kind else [])}
    return Shape("Step", {**FORMAT, "Step": step, "ExceptionType": errors})
