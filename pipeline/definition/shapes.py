"""The format of a pipeline definition (version 2020-12-01), in botocore's model language.

What a step becomes is in SageMaker's service model; what a definition adds around it is published only in prose, as a
JSON schema that refuses the SDK's own output, and in what the SDK emits. The limits are those of all three. `document`
stands for any JSON.
"""

from functools import cache
from typing import Any

from pipeline.definition.service_model import Shape
from pipeline.definition.step_types import STEP_TYPES

REQUIRED_MEMBERS = ("FunctionArn", "SqsQueueUrl")
STEP_ERRORS = ["Step.SERVICE_FAULT", "Step.THROTTLING"]
JOB_ERRORS = ["SageMaker.JOB_INTERNAL_ERROR", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT"]
MAX_STEPS = 50  # those of branches included
MAX_CHARACTERS = 1_048_576  # PipelineDefinition of CreatePipeline
DEFAULT_TYPES = {"String": "string", "Integer": "integer", "Float": "double", "Boolean": "boolean"}
DURATION = r"(?i)P?(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?"
FUNCTION_ARN = r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:[a-zA-Z0-9-_]{1,64}(:[a-zA-Z0-9-_$]+)?"

EXPRESSION_SHAPES = frozenset(("ExperimentText", "FunctionArn", "SqsQueueUrl"))  # outside Arguments

Shapes = dict[str, Any]


def string(**limits: Any) -> Shapes:
    """A string shape."""
    return {"type": "string", **limits}


def integer(least: int, most: int) -> Shapes:
    """A whole number within bounds."""
    return {"type": "integer", "min": least, "max": most}


def list_of(shape: str, **limits: int) -> Shapes:
    """A list shape."""
    return {"type": "list", "member": {"shape": shape}, **limits}


def structure(*required: str, **members: str) -> Shapes:
    """A structure shape from member names and shape names."""
    return {"type": "structure", "required": list(required), "members": refer(members)}


def refer(members: dict[str, str]) -> Shapes:
    """References to shapes by name."""
    return {name: {"shape": shape} for name, shape in members.items()}


SHAPES: Shapes = {
    "Any": {"type": "structure", "document": True, "members": {}},
    "Anything": list_of("Any"),
    "Object": {"type": "map", "key": {"shape": "Text"}, "value": {"shape": "Any"}},
    "Objects": list_of("Object"),
    "Text": string(),
    "Switch": {"type": "boolean"},
    "Definition": structure(
        "Version",
        Version="Version",
        Metadata="Any",
        Parameters="Parameters",
        PipelineExperimentConfig="Experiment",
        MlflowConfig="Mlflow",
        Steps="Steps",
    ),
    "Version": string(enum=["2020-12-01"]),
    "Parameters": list_of("Object", max=200),
    "Steps": list_of("Any", min=1),
    "Experiment": structure(ExperimentName="ExperimentText", TrialName="ExperimentText"),
    "ExperimentText": string(),
    "Mlflow": structure(MlflowResourceArn="Text", MlflowExperimentName="Text"),
    "Parameter": structure(
        "Name", "Type", Name="IdentifierName", Type="ParameterType", DefaultValue="Default", EnumValues="Texts"
    ),
    "ParameterType": string(enum=list(DEFAULT_TYPES)),
    "Texts": list_of("Text", min=1),
    "IdentifierName": string(pattern=r"[A-Za-z0-9_-]{1,64}"),
    "StepType": string(enum=list(STEP_TYPES)),
    "DisplayName": string(max=256),
    "Description": string(max=4096),
    "CacheConfig": structure("Enabled", Enabled="Switch", ExpireAfter="Duration"),
    "Duration": string(pattern=DURATION),
    "RetryPolicies": list_of("RetryPolicy"),
    "RetryPolicy": structure(
        "ExceptionType",
        ExceptionType="ExceptionTypes",
        IntervalSeconds="IntervalSeconds",
        BackoffRate="BackoffRate",
        MaxAttempts="MaxAttempts",
        ExpireAfterMin="ExpireAfterMin",
    ),
    "ExceptionTypes": list_of("ExceptionType", min=1),
    "IntervalSeconds": integer(1, 43200),
    "BackoffRate": {"type": "double", "min": 1},
    "MaxAttempts": integer(1, 20),
    "ExpireAfterMin": integer(1, 14400),
    "PropertyFiles": list_of("PropertyFile"),
    "PropertyFile": structure(
        "PropertyFileName", "OutputName", "FilePath", PropertyFileName="Text", OutputName="Text", FilePath="Text"
    ),
    "FunctionArn": string(pattern=FUNCTION_ARN),
    "SqsQueueUrl": string(),
    "OutputParameters": list_of("OutputParameter", max=50),
    "OutputParameter": structure("OutputName", "OutputType", OutputName="Text", OutputType="ParameterType"),
    "ConditionArguments": structure("Conditions", Conditions="Conditions", IfSteps="Objects", ElseSteps="Objects"),
    "Conditions": list_of("Object", min=1),
    "FailArguments": structure(ErrorMessage="ErrorMessage"),
    "ErrorMessage": string(max=3072),
}


def definition_shape() -> Shape:
    """The definition as a whole; parameters and steps have shapes of their own."""
    return Shape("Definition", SHAPES)


def parameter_shape(parameter_type: str, enum_values: list[str]) -> Shape:
    """A parameter of the type; EnumValues, if any, go with strings only."""
    default: Shapes = {"type": DEFAULT_TYPES.get(parameter_type, "string")}
    if parameter_type == "String":
        default["max"] = 4096
    if enum_values:
        default["enum"] = enum_values
    members = dict(SHAPES["Parameter"]["members"])
    if parameter_type in DEFAULT_TYPES and parameter_type != "String":
        del members["EnumValues"]
    if parameter_type not in DEFAULT_TYPES:
        default = SHAPES["Any"]
    parameter = {**SHAPES["Parameter"], "members": members}
    return Shape("Parameter", {**SHAPES, "Default": default, "Parameter": parameter})


@cache
def step_shape(step_type: str) -> Shape:
    """A step of the type, its Arguments open."""
    own = STEP_TYPES[step_type].members or ()
    required = ("Name", "Type", "Arguments", *(name for name in own if name in REQUIRED_MEMBERS))
    members = {"Name": "IdentifierName", "Type": "StepType", "Arguments": "Any", "DependsOn": "Anything"}
    step = structure(*required, **members, **{name: name for name in ("DisplayName", "Description", *own)})
    errors = STEP_ERRORS + JOB_ERRORS if STEP_TYPES[step_type].job_kind else STEP_ERRORS
    return Shape("Step", {**SHAPES, "Step": step, "ExceptionType": string(enum=errors)})


def arguments_shape(step_type: str) -> Shape:
    """The Arguments of a step type that is no SageMaker operation."""
    return Shape(STEP_TYPES[step_type].arguments, SHAPES)
