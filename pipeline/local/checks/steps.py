"""What cannot run on this machine of a step, by its type: sentences that follow its name.

An expression stands for whatever is needed in its place.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.definition.expressions import PathError, expressions, is_expression, json_tokens
from pipeline.definition.steps import Step, at, items, members
from pipeline.errors import DefinitionError
from pipeline.local.checks.search import read_search_config
from pipeline.local.checks.serving import endpoint_config_problems, transform_problems

TRAINING_NEEDS = ("AlgorithmSpecification", "OutputDataConfig.S3OutputPath")
# Repositories of AWS's own images, as the SDK's image_uri_config has them: their programs are not on this machine.
ALGORITHMS = """
    blazingtext factorization-machines forecasting-deepar image-classification ipinsights kmeans knn lda linear-learner
    ntm object-detection object2vec pca randomcutforest semantic-segmentation seq2seq sagemaker-xgboost xgboost
    """.split()  # noqa: SIM905
PROGRAMS = {
    "sagemaker-clarify-processing": "Clarify",
    "sagemaker-data-wrangler-container": "Data Wrangler",
    "sagemaker-geospatial-v1-0": "SageMaker geospatial",
    "sagemaker-model-monitor-analyzer": "Model Monitor",
    "sagemaker-spark-processing": "Spark",
}
SPARK = "smspark-submit"
NOTEBOOK = "amazon_sagemaker_scheduler"  # the entry point of the SDK's NotebookJobStep
LARGEST_CLUSTER = 100  # instances of a job, each of which is a process here
LAUNCHERS = {"mpirun": "MPI", "spark_app.py": "Spark", "--job_conda_env": "conda"}  # a word of a command -> its program


def lacking(arguments: Any, paths: Sequence[str], where: str = "") -> Iterator[str]:
    """Yield a sentence for each path that leads to nothing."""
    for path in paths:
        value = arguments
        for name in path.split("."):
            value = value if is_expression(value) else at(value, name)
        if value in (None, "", {}, []):
            yield f"lacks {where}{path}."


def path_problems(step: Step) -> Iterator[str]:
    """Yield the function and the paths of a step that SageMaker would understand, but that cannot be read here."""
    if step.type == "Lambda" and is_expression(step.definition.get("FunctionArn")):
        yield "needs the ARN of a function as FunctionArn, but has an expression."
    for key, operand in members(step.own):
        if key == "Std:JsonGet" and isinstance(path := at(operand, "Path"), str):
            try:
                json_tokens(path)
            except PathError as error:
                yield f"has a Std:JsonGet that cannot be read here: {error}"


def processing_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what cannot run here of a processing job: its program, inputs and outputs."""
    yield from cluster_problems([at(arguments, "ProcessingResources.ClusterConfig")])
    application = at(arguments, "AppSpecification")
    program, entrypoint = PROGRAMS.get(repository(at(application, "ImageUri"))), at(application, "ContainerEntrypoint")
    if program or SPARK in items(application, "ContainerEntrypoint"):
        remedy = "replace it by a Processing step with a script of your own"
        yield f"runs the program of AWS's {program or 'Spark'} image, which is not on this machine; {remedy}."
    elif application and not entrypoint:
        own = "its image's own is not on this machine; name the program"
        yield f"has no AppSpecification.ContainerEntrypoint, and {own}."
    for number, source in enumerate(items(arguments, "ProcessingInputs")):
        where = f"ProcessingInputs[{number}]"
        if at(source, "DatasetDefinition") or at(source, "AppManaged") is True:
            yield f"has an AppManaged input or DatasetDefinition in {where}, which is not downloaded here; use S3Input."
        else:
            yield from lacking(source, ("S3Input.S3Uri", "S3Input.LocalPath"), f"{where}.")
            yield from data_problems(source, "S3Input", at(source, "S3Input.S3InputMode"), where)
    for number, output in enumerate(items(arguments, "ProcessingOutputConfig.Outputs")):
        where = f"ProcessingOutputConfig.Outputs[{number}]"
        if at(output, "FeatureStoreOutput") or at(output, "AppManaged") is True:
            yield f"has an AppManaged or FeatureStoreOutput in {where}, which nobody uploads here; use S3Output."
        else:
            yield from lacking(output, ("OutputName", "S3Output.S3Uri", "S3Output.LocalPath"), f"{where}.")


def data_problems(source: Any, path: str, mode: Any, where: str) -> Iterator[str]:
    """Yield what an input or a channel asks for beside files: a pipe, or a manifest with labels."""
    compression = (f"{path}.S3CompressionType", f"{path}.CompressionType", "CompressionType")
    if mode == "Pipe" or "Gzip" in [at(source, each) for each in compression]:
        yield f"has a pipe in {where}; the local target reads files: use the mode File or FastFile, uncompressed."
    kind = at(source, f"{path}.S3DataType")
    if not is_expression(kind) and kind not in (None, "S3Prefix", "ManifestFile"):
        yield f"has {kind!r} as S3DataType in {where}; the local target reads an S3Prefix or a ManifestFile."


def training_problems(arguments: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield what cannot run here of a training job: its program, checkpoints, channels and metrics."""
    yield from launcher_problems(arguments, where)
    resources = at(arguments, "ResourceConfig")
    yield from cluster_problems([resources, *items(resources, "InstanceGroups")])
    if arguments.get("CheckpointConfig"):
        yield from lacking(arguments, ("CheckpointConfig.S3Uri",), where)
    usual_mode = at(arguments, "AlgorithmSpecification.TrainingInputMode")
    for number, channel in enumerate(items(arguments, "InputDataConfig")):
        path = f"{where}InputDataConfig[{number}]"
        yield from lacking(channel, ("ChannelName", "DataSource.S3DataSource.S3Uri"), f"{path}.")
        yield from data_problems(channel, "DataSource.S3DataSource", at(channel, "InputMode") or usual_mode, path)
    for number, metric in enumerate(items(arguments, "AlgorithmSpecification.MetricDefinitions")):
        path = f"{where}AlgorithmSpecification.MetricDefinitions[{number}]."
        yield from lacking(metric, ("Name", "Regex"), path)
        if isinstance(regex := at(metric, "Regex"), str):
            try:
                re.compile(regex)
            except re.error as problem:
                yield f"has {regex!r} as {path}Regex, which is not a regular expression: {problem}."


def cluster_problems(groups: Sequence[Any]) -> Iterator[str]:
    """Yield that a job has more instances than one machine can stand for."""
    count = sum(number for group in groups if isinstance(number := at(group, "InstanceCount"), int))
    if count > LARGEST_CLUSTER:
        yield f"asks for {count} instances, each of which is a process here; ask for at most {LARGEST_CLUSTER}."


def launcher_problems(arguments: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield what a training job is started by that is in AWS's images only."""
    algorithm = arguments.get("AlgorithmSpecification")
    image, entrypoint = repository(at(algorithm, "TrainingImage")), items(algorithm, "ContainerEntrypoint")
    settings: dict[str, Any] = {}
    for member in ("HyperParameters", "StaticHyperParameters"):
        settings |= given if isinstance(given := arguments.get(member), Mapping) else {}
    variables = given if isinstance(given := arguments.get("Environment"), Mapping) else {}
    has_script = bool(entrypoint) or "sagemaker_program" in [str(name).lower() for name in (*settings, *variables)]
    built_in = image if image in ALGORITHMS else at(algorithm, "AlgorithmName")
    if NOTEBOOK in entrypoint:
        yield "is a notebook job, which does not run locally; replace it by a step that runs the code as a script."
    elif built_in and not has_script:
        yield (
            f"trains the built-in algorithm '{built_in}', whose program is not on this machine; "
            "use script mode: a training script of your own with the same library."
        )
    elif not has_script and not is_expression(algorithm):
        yield (
            "would start its image's own 'train' program, which is not on this machine; name a script by a "
            "ContainerEntrypoint or by the hyperparameters sagemaker_program and sagemaker_submit_directory."
        )
    for word in [word for word in (*entrypoint, *items(algorithm, "ContainerArguments")) if isinstance(word, str)]:
        for sign, name in LAUNCHERS.items():
            if word == sign or word.endswith((f"/{sign}", f" {sign}")):
                yield f"is started by {name}, which {where}AlgorithmSpecification names, and which is not run here."
    for name, value in settings.items():
        if re.fullmatch(r"sagemaker_\w+_enabled", str(name)) and str(value).lower() == "true" and "metrics" not in name:
            yield (
                f"asks the image's launcher for {name}, which the local target does not have; "
                "start several processes by a ModelTrainer with Torchrun."
            )


def repository(image: Any) -> str:
    """Return the repository of an image of AWS's registries; empty for others, and where only the run will tell."""
    found = re.fullmatch(r"\d{12}\.dkr\.ecr[.-][a-z0-9.-]+/([^:@]+)([:@].*)?", image if isinstance(image, str) else "")
    return found[1] if found else ""


def tuning_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what cannot run here of a tuning job: its search and its training jobs."""
    config, template = (arguments.get(name) for name in ("HyperParameterTuningJobConfig", "TrainingJobDefinition"))
    if arguments.get("TrainingJobDefinitions") and not template:
        yield "has several TrainingJobDefinitions, which the local target does not search at once; give it one."
        return
    if not isinstance(template, Mapping):
        yield "lacks TrainingJobDefinition."
        return
    yield from lacking(template, TRAINING_NEEDS, "TrainingJobDefinition.")
    yield from training_problems(template, "TrainingJobDefinition.")
    if not isinstance(config, Mapping) or any(expressions(config)):
        return
    try:
        found = read_search_config(arguments)
    except DefinitionError as problem:
        yield from (f"cannot be searched: {sentence}" for sentence in problem.problems)
        return
    names = [at(metric, "Name") for metric in items(template, "AlgorithmSpecification.MetricDefinitions")]
    if found.metric_name not in names and not any(map(is_expression, names)):
        none = "none of the MetricDefinitions of its TrainingJobDefinition has that Name"
        yield f"searches by the objective {found.metric_name!r}, but {none}."


def model_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield what cannot be served here of a model: no container, or that of a built-in algorithm."""
    containers = items(arguments, "Containers") or [arguments.get("PrimaryContainer")]
    if not containers[0]:
        yield "lacks PrimaryContainer."
    if at(arguments, "InferenceExecutionConfig.Mode") == "Direct":
        yield "has InferenceExecutionConfig.Mode Direct, but containers answer in turn here; make a model for each."
    for container in containers:
        if at(container, "Mode") == "MultiModel":
            yield "has a container with Mode MultiModel, whose server is its image's; make a model for each."
        image, variables = repository(at(container, "Image")), at(container, "Environment")
        if image in ALGORITHMS and not at(variables, "SAGEMAKER_PROGRAM") and not is_expression(variables):
            yield (
                f"is served by the built-in algorithm '{image}', whose server is not on this machine; use script mode: "
                "an inference script of your own with the same library, named by SAGEMAKER_PROGRAM."
            )


NEEDS: dict[str, tuple[str, ...]] = {  # a step type -> paths in Arguments without which it cannot run here
    "Processing": ("AppSpecification",),
    "Training": TRAINING_NEEDS,
    "Tuning": ("HyperParameterTuningJobConfig",),
    "Transform": ("ModelName", "TransformInput.DataSource.S3DataSource.S3Uri", "TransformOutput.S3OutputPath"),
    "RegisterModel": ("ModelPackageGroupName",),
}
RULES: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {  # what else of Arguments cannot run here
    "Processing": processing_problems,
    "Training": training_problems,
    "Tuning": tuning_problems,
    "Transform": transform_problems,
    "Model": model_problems,
    "EndpointConfig": endpoint_config_problems,
}
REFUSED = {  # a step type that does not run here -> why, and what to do
    "Callback": "it waits for a message from outside; replace it by a Lambda or Processing step",
    "AutoML": "AutoML runs on the service only; replace it by a Tuning step",
    "ClarifyCheck": "the Clarify image is AWS's; replace it by a Processing step of your own",
    "QualityCheck": "the Model Monitor image is AWS's; replace it by a Processing step of your own",
    "EMR": "there is no cluster here; replace it by a Processing step",
    "EMRServerless": "there is no cluster here; replace it by a Processing step",
    "InferenceComponent": "replace it by EndpointConfig and Endpoint steps",
    "Lineage": "lineage is not kept here; leave the step out",
    "Job": "replace it by a Processing or Training step",
    "Cleanup": "there is nothing to clean up here; leave the step out",
    "ForEach": "replace it by one step for each item",
}
