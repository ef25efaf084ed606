"""Why the local target could not run a step, told from the step alone: said of every step before anything runs.

Only what the executors rely on is looked at; whether a request is one that SageMaker would take is for
`pipeline.definition.checks` to say. An expression stands for whatever is needed in its place.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.definition.expressions import expressions, is_expression
from pipeline.definition.search_config import read_search_config
from pipeline.definition.transform_request import transform_faults
from pipeline.errors import DefinitionError

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "Processing": ("AppSpecification",),
    "Training": ("AlgorithmSpecification", "OutputDataConfig.S3OutputPath"),
    "Tuning": ("HyperParameterTuningJobConfig",),
    "RegisterModel": ("ModelPackageGroupName",),
    "Transform": ("ModelName", "TransformInput.DataSource.S3DataSource.S3Uri", "TransformOutput.S3OutputPath"),
}
UNIT_SECONDS = {"Y": 31536000, "W": 604800, "D": 86400, "H": 3600, "S": 1}


def step_faults(definition: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a step whose Arguments are an object; sentences that follow the step's name."""
    step_type, arguments = str(definition.get("Type")), definition.get("Arguments") or {}
    yield from lacking(arguments, REQUIRED.get(step_type, ()))
    if step_type in CHECKS:
        yield from CHECKS[step_type](arguments)
    if step_type == "Lambda" and not isinstance(definition.get("FunctionArn"), str):
        yield f"needs the ARN of a function as FunctionArn, but has {definition.get('FunctionArn')!r}."
    expires = (definition.get("CacheConfig") or {}).get("ExpireAfter")
    if expires is not None and duration_seconds(expires) is None:
        yield f"has {expires!r} as CacheConfig.ExpireAfter, which is not an ISO 8601 duration such as P30D or PT2H."
    policies = definition.get("RetryPolicies") or []
    if not isinstance(policies, list) or not all(isinstance(policy, Mapping) for policy in policies):
        yield f"needs a list of objects as RetryPolicies, but has {policies!r}."


def lacking(arguments: Any, paths: Sequence[str], where: str = "") -> Iterator[str]:
    """A sentence for each path that leads to nothing."""
    for path in paths:
        value = arguments
        for name in path.split("."):
            value = value if is_expression(value) else member(value, name)
        if value in (None, "", {}, []):
            yield f"lacks {where}{path}."


def member(value: Any, name: str) -> Any:
    """A member of an object; None where it is none or has none."""
    return value.get(name) if isinstance(value, Mapping) else None


def items(value: Any, name: str) -> list[Any]:
    """The members of a list in an object."""
    found = member(value, name)
    return found if isinstance(found, list) else []


def processing_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Command, inputs and outputs."""
    specification = arguments.get("AppSpecification") or {}
    if specification and not specification.get("ContainerEntrypoint"):
        yield (
            "has no AppSpecification.ContainerEntrypoint, and its image's own is not on this machine; name the program."
        )
    for number, source in enumerate(items(arguments, "ProcessingInputs")):
        where = f"ProcessingInputs[{number}]"
        if member(source, "DatasetDefinition") or member(source, "AppManaged") is True:
            yield f"has an AppManaged input or DatasetDefinition in {where}, which is not downloaded here; use S3Input."
            continue
        yield from lacking(source, ("S3Input.S3Uri", "S3Input.LocalPath"), f"{where}.")
        yield from data_faults(
            member(source, "S3Input"), member(member(source, "S3Input"), "S3InputMode"), f"{where}.S3Input"
        )
    for number, output in enumerate(items(member(arguments, "ProcessingOutputConfig"), "Outputs")):
        where = f"ProcessingOutputConfig.Outputs[{number}]"
        if member(output, "FeatureStoreOutput") or member(output, "AppManaged") is True:
            yield f"has an AppManaged or FeatureStoreOutput in {where}, which nobody uploads here; use S3Output."
            continue
        yield from lacking(output, ("OutputName", "S3Output.S3Uri", "S3Output.LocalPath"), f"{where}.")


def data_faults(source: Any, mode: Any, where: str) -> Iterator[str]:
    """What an S3Input or a channel asks for that files are not: a stream, an augmented manifest."""
    packed = member(source, "S3CompressionType") or member(source, "CompressionType")
    if mode == "Pipe" or packed == "Gzip":
        yield f"has a pipe in {where}; the local target reads files: use the mode File or FastFile, uncompressed."
    if not is_expression(kind := member(source, "S3DataType")) and kind not in (None, "S3Prefix", "ManifestFile"):
        yield f"has {kind!r} as S3DataType in {where}; the local target reads an S3Prefix or a ManifestFile."


def training_faults(arguments: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Launcher, checkpoints, channels and metrics."""
    yield from launcher_faults(arguments, where)
    if arguments.get("CheckpointConfig"):
        yield from lacking(arguments, ("CheckpointConfig.S3Uri",), where)
    usual_mode = member(arguments.get("AlgorithmSpecification"), "TrainingInputMode")
    for number, channel in enumerate(items(arguments, "InputDataConfig")):
        path = f"{where}InputDataConfig[{number}]."
        yield from lacking(channel, ("ChannelName", "DataSource.S3DataSource.S3Uri"), path)
        mode = member(channel, "InputMode") or usual_mode
        source = member(member(channel, "DataSource"), "S3DataSource")
        packed = {"CompressionType": member(channel, "CompressionType")}
        yield from data_faults({**packed, **source} if isinstance(source, Mapping) else packed, mode, path.rstrip("."))
    for number, metric in enumerate(items(arguments.get("AlgorithmSpecification"), "MetricDefinitions")):
        path = f"{where}AlgorithmSpecification.MetricDefinitions[{number}]."
        yield from lacking(metric, ("Name", "Regex"), path)
        if isinstance(regex := member(metric, "Regex"), str):
            try:
                re.compile(regex)
            except re.error as problem:
                yield f"has {regex!r} as {path}Regex, which is not a regular expression: {problem}."


LAUNCHERS = {  # what a request says that starts its script by what is not on this machine
    "mpirun": "MPI",
    "spark_app.py": "Spark",
    "--job_conda_env": "conda",
}


def launcher_faults(arguments: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Ways to start a script that are not here."""
    algorithm = arguments.get("AlgorithmSpecification")
    words = [*items(algorithm, "ContainerEntrypoint"), *items(algorithm, "ContainerArguments")]
    hyperparameters = {**(arguments.get("HyperParameters") or {}), **(arguments.get("StaticHyperParameters") or {})}
    for word in [word for word in words if isinstance(word, str)]:
        for sign, name in LAUNCHERS.items():
            if word == sign or word.endswith((f"/{sign}", f" {sign}")):
                yield f"is started by {name}, which {where}AlgorithmSpecification names, and which is not run here."
    for name, value in hyperparameters.items():
        if re.fullmatch(r"sagemaker_\w+_enabled", name) and str(value).lower() == "true" and "metrics" not in name:
            yield (
                f"asks the image's launcher for {name}, which the local target does not have; "
                "start several processes by a ModelTrainer with Torchrun."
            )


def tuning_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Search and training jobs."""
    config = arguments.get("HyperParameterTuningJobConfig")
    template = arguments.get("TrainingJobDefinition")
    if arguments.get("TrainingJobDefinitions") and not template:
        yield "has several TrainingJobDefinitions, which the local target does not search at once; give it one."
        return
    if not isinstance(template, Mapping):
        yield "lacks TrainingJobDefinition."
        return
    paths = ("AlgorithmSpecification", "OutputDataConfig.S3OutputPath")
    yield from lacking(template, paths, "TrainingJobDefinition.")
    yield from training_faults(template, "TrainingJobDefinition.")
    if not isinstance(config, Mapping) or any(expressions(config)):
        return
    try:
        found = read_search_config(config, static_hyperparameters=template.get("StaticHyperParameters"))
    except DefinitionError as problem:
        yield from (f"cannot be searched: HyperParameterTuningJobConfig.{sentence}" for sentence in problem.problems)
        return
    metrics = items(template.get("AlgorithmSpecification"), "MetricDefinitions")
    names = [member(metric, "Name") for metric in metrics]
    if found.metric_name not in names and not any(map(is_expression, names)):
        yield (
            f"searches by the objective {found.metric_name!r}, but none of the MetricDefinitions of its "
            "TrainingJobDefinition has that Name."
        )


def model_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """A container."""
    if not arguments.get("PrimaryContainer") and not arguments.get("Containers"):
        yield "lacks PrimaryContainer."


CHECKS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "Processing": processing_faults,
    "Training": training_faults,
    "Tuning": tuning_faults,
    "Model": model_faults,
    "Transform": transform_faults,
}


def duration_seconds(duration: Any) -> float | None:
    """An ISO 8601 duration (P30D, PT2H, P1DT12H), and the service's documented short forms 30d and T16m.

    None where it is neither.
    """
    match = re.fullmatch(r"P?((?:\d+[YMWD])*)(?:T((?:\d+(?:\.\d+)?[HMS])+))?", str(duration).upper())
    if not match or not any(match.groups()):
        return None
    days = re.findall(r"(\d+)([YMWD])", match[1] or "")
    times = re.findall(r"([\d.]+)([HMS])", match[2] or "")
    long = sum(int(n) * (2592000 if unit == "M" else UNIT_SECONDS[unit]) for n, unit in days)
    return long + sum(float(n) * (60 if unit == "M" else UNIT_SECONDS[unit]) for n, unit in times)
