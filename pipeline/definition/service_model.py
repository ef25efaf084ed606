"""SageMaker's service model, as botocore ships it: the request that a step becomes, and the responses about it.

Read from botocore's data files; there is no client, no region, no credential.
"""

from dataclasses import dataclass
from functools import cache

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from pipeline.definition.paths import Token, format_path
from pipeline.suggestion import did_you_mean


@dataclass(frozen=True)
class StepModel:
    """The operations behind a step type: its properties are the members of the `reads` responses.

    `name_member` is the member of the request that Pipelines fills in itself.
    """

    creates: str
    reads: tuple[str, ...]
    name_member: str | None = None


STEP_MODELS = {
    "Processing": StepModel("CreateProcessingJob", ("DescribeProcessingJob",), "ProcessingJobName"),
    "Training": StepModel("CreateTrainingJob", ("DescribeTrainingJob",), "TrainingJobName"),
    "Tuning": StepModel(
        "CreateHyperParameterTuningJob",
        ("DescribeHyperParameterTuningJob", "ListTrainingJobsForHyperParameterTuningJob"),
        "HyperParameterTuningJobName",
    ),
    "Transform": StepModel("CreateTransformJob", ("DescribeTransformJob",), "TransformJobName"),
    "Model": StepModel("CreateModel", ("DescribeModel",), "ModelName"),
    "RegisterModel": StepModel("CreateModelPackage", ("DescribeModelPackage",), "ModelPackageName"),
    "EndpointConfig": StepModel("CreateEndpointConfig", ("DescribeEndpointConfig",)),
    "Endpoint": StepModel("CreateEndpoint", ("DescribeEndpoint",)),
}


class UnknownProperty(LookupError):
    """A path that leads to no property; the text completes "Step 'A' reads Steps.B.C, but ..."."""


@cache
def sagemaker() -> ServiceModel:
    """SageMaker's service model; reading it takes a twentieth of a second."""
    return ServiceModel(Loader().load_service_model("sagemaker", "service-2"))


def request_shape(step_type: str) -> StructureShape:
    """The request that the step's Arguments become."""
    return sagemaker().operation_model(STEP_MODELS[step_type].creates).input_shape


def property_shapes(step_type: str, path: tuple[Token, ...]) -> list[Shape]:
    """The shapes along a path below a step, one for each of its tokens."""
    shapes: list[Shape] = []
    for depth, token in enumerate(path):
        inner = member(shapes[-1], token) if shapes else first_member(step_type, token)
        if inner is None:
            raise UnknownProperty(why_unknown(step_type, shapes, path[: depth + 1]))
        shapes.append(inner)
    return shapes


def first_member(step_type: str, token: Token) -> Shape | None:
    """The member of the first response that has it."""
    return responses(step_type).get(str(token))


@cache
def responses(step_type: str) -> dict[str, Shape]:
    """The members of all responses."""
    members: dict[str, Shape] = {}
    for operation in STEP_MODELS[step_type].reads:
        members = {**sagemaker().operation_model(operation).output_shape.members, **members}
    return members


def member(shape: Shape, token: Token) -> Shape | None:
    """Where one token of a path leads: a list of objects is entered by index or by name, a map by key."""
    if isinstance(shape, StructureShape):
        found: Shape | None = shape.members.get(token)
    elif isinstance(shape, ListShape):
        found = shape.member if isinstance(token, int) or isinstance(shape.member, StructureShape) else None
    else:
        found = shape.value if isinstance(shape, MapShape) and isinstance(token, str) else None
    return found


def why_unknown(step_type: str, shapes: list[Shape], path: tuple[Token, ...]) -> str:
    """What is the matter with the last token of the path."""
    operation, token = STEP_MODELS[step_type].reads[0], str(path[-1])
    if not shapes:
        return f"{operation} does not return {token}.{did_you_mean(token, responses(step_type))}"
    where = format_path(path[:-1])
    if isinstance(shapes[-1], StructureShape):
        return f"{operation} returns no {token} in {where}.{did_you_mean(token, shapes[-1].members)}"
    return f"{where} has no members that {token!r} could name."
