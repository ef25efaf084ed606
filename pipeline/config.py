"""pipeline.yaml as typed values: one frozen dataclass a section, one attribute a setting.

`load` reports every mistake of the file at once, each with its line. A setting that the file leaves out takes the
default written here; the file that the product ships states every setting.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.errors import ConfigError
from pipeline.ranges import (
    HYPERPARAMETERS,
    WHOLE_HYPERPARAMETERS,
    CategoricalRange,
    ContinuousRange,
    IntegerRange,
    Range,
    ranges,
)
from pipeline.setting import (
    Read,
    Rule,
    Unacceptable,
    auto_or,
    boolean,
    choice,
    null_or,
    number,
    section,
    setting,
    text,
    whole_number,
)
from pipeline.yaml_lines import Problem, read_mapping

__all__ = ["CategoricalRange", "Config", "ContinuousRange", "IntegerRange", "load"]

DAY = 24 * 3600
PROCESSING_SECONDS = whole_number(at_least=1, at_most=9 * DAY)  # ProcessingMaxRuntimeInSeconds
TRAINING_SECONDS = whole_number(at_least=1, at_most=28 * DAY)
VOLUME_SIZE_GB = whole_number(at_least=1, at_most=16384)
INSTANCE_COUNT = whole_number(at_least=1, at_most=100)
SEED = whole_number(at_least=0, at_most=2**31 - 1)
SHARE = number(above=0, below=1)
INSTANCE_TYPE = text(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "an instance type such as ml.m5.xlarge")
S3_URI = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?"
NO_URI = r"(?!\w\w+:/).+"
ARN_OF_ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
IMAGE = text(r"[^\s/]+/\S+", "an image URI such as 123456789012.dkr.ecr.us-east-1.amazonaws.com/name:tag", longest=255)


def aws_name(longest: int) -> Read[str]:
    """A name as SageMaker takes it for pipelines, endpoints and groups."""
    accepted = "letters, digits and dashes, with a letter or digit at both ends"
    return text(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", accepted, longest=longest)


def hyperparameter(name: str) -> Read[float]:
    """What a number among the hyperparameters may be."""
    return HYPERPARAMETERS[name]


@dataclass(frozen=True)
class PipelineConfig:
    """The pipeline as a whole."""

    name: str = setting("image-classification", aws_name(256))
    description: str = setting(
        "Turns a folder of labelled images into a deployed classifier.", text(".+", "a line of text", longest=1024)
    )
    max_parallel_steps: int = setting(4, whole_number(at_least=1))
    cache_expire_days: int = setting(30, whole_number(at_least=1))


def shares_of_a_whole(train: float, validation: float, test: float) -> str | None:
    """The shares sum to 1."""
    total = round(train + validation + test, 6)
    return None if total == 1 else f"must sum to 1, but {train} + {validation} + {test} = {total}."


@dataclass(frozen=True)
class SplitConfig:
    """Shares of each class; they sum to 1."""

    rules: ClassVar = (Rule(("train", "validation", "test"), shares_of_a_whole, at_section=True),)
    train: float = setting(0.70, SHARE)
    validation: float = setting(0.15, SHARE)
    test: float = setting(0.15, SHARE)


@dataclass(frozen=True)
class DataConfig:
    """PrepareData. `image_size_px` and `horizontal_flip` are None for auto."""

    source: str = setting(
        "sample", text(f"{S3_URI}|{NO_URI}", "sample, a folder, a .zip or .tar(.gz), or s3://bucket/prefix")
    )
    image_size_px: int | None = setting(None, auto_or(whole_number(at_least=32, at_most=2048)))
    split: SplitConfig = field(default_factory=SplitConfig)
    split_seed: int = setting(0, SEED)
    augmented_views: int = setting(3, whole_number(at_least=0))
    horizontal_flip: bool | None = setting(None, auto_or(boolean))
    min_images_per_class: int = setting(5, whole_number(at_least=3))
    max_unreadable_fraction: float = setting(0.05, number(at_least=0, at_most=1))
    max_image_megapixels: int = setting(100, whole_number(at_least=1))
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    instance_count: int = setting(1, INSTANCE_COUNT)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(14400, PROCESSING_SECONDS)


@dataclass(frozen=True)
class ModelConfig:
    """The network and the hyperparameters that are not searched."""

    backbone: str = setting("tf_efficientnet_lite0", text(r"[\w.-]+", "the name of a timm network"))
    weights: str = setting("package", text(f"{S3_URI}|{NO_URI}", "package, timm, a file, or s3://bucket/key"))
    hidden_units: int = setting(0, WHOLE_HYPERPARAMETERS["hidden_units"])
    dropout: float = setting(0.2, hyperparameter("dropout"))
    label_smoothing: float = setting(0.05, hyperparameter("label_smoothing"))
    weight_decay: float = setting(0.0001, hyperparameter("weight_decay"))


def more_parallel_than_total(max_parallel_jobs: int, max_jobs: int) -> str | None:
    """CreateHyperParameterTuningJob refuses it."""
    if max_parallel_jobs <= max_jobs:
        return None
    return f"must not exceed max_jobs ({max_jobs}), but got {max_parallel_jobs}."


def hyperband_stopped_early(early_stopping: str, strategy: str) -> str | None:
    """Hyperband stops trials itself."""
    if strategy != "Hyperband" or early_stopping == "Off":
        return None
    return f"must be Off with strategy Hyperband, which stops trials itself, but got '{early_stopping}'."


def grid_of_intervals(searched: dict[str, Range], strategy: str) -> str | None:
    """A grid has a finite number of points."""
    endless = [name for name, found in searched.items() if not isinstance(found, CategoricalRange)]
    if strategy != "Grid" or not endless:
        return None
    return f"must all be categorical with strategy Grid, but these are not: {', '.join(endless)}."


def grid_not_covered(max_jobs: int, strategy: str, searched: dict[str, Range]) -> str | None:
    """MaxNumberOfTrainingJobs of a grid is the number of its points."""
    points = 1
    for found in searched.values():
        points *= len(found.values) if isinstance(found, CategoricalRange) else max_jobs
    if strategy != "Grid" or max_jobs == points or grid_of_intervals(searched, strategy):
        return None
    return f"must be {points} with strategy Grid, which tries every combination of the ranges, but got {max_jobs}."


def default_ranges() -> dict[str, Range]:
    """What is searched when the file does not say."""
    return {
        "lr": ContinuousRange(min=0.0005, max=0.05, scaling="Logarithmic"),
        "batch_size": CategoricalRange(values=(32, 64, 128)),
        "epochs": IntegerRange(min=8, max=24, scaling="Linear"),
    }


@dataclass(frozen=True)
class TuningConfig:
    """TuneHyperparameters."""

    rules: ClassVar = (
        Rule(("max_parallel_jobs", "max_jobs"), more_parallel_than_total),
        Rule(("early_stopping", "strategy"), hyperband_stopped_early),
        Rule(("ranges", "strategy"), grid_of_intervals),
        Rule(("max_jobs", "strategy", "ranges"), grid_not_covered),
    )
    strategy: str = setting("Bayesian", choice("Bayesian", "Random", "Grid", "Hyperband"))
    objective_metric: str = setting("validation:best_accuracy", text(".+", "the name of a metric", longest=255))
    objective_type: str = setting("Maximize", choice("Maximize", "Minimize"))
    max_jobs: int = setting(6, whole_number(at_least=1))
    max_parallel_jobs: int = setting(2, whole_number(at_least=1, at_most=100))
    early_stopping: str = setting("Auto", choice("Auto", "Off"))
    seed: int = setting(0, SEED)
    ranges: dict[str, Range] = field(default_factory=default_ranges, metadata={"read": ranges})
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(3600, TRAINING_SECONDS)


@dataclass(frozen=True)
class TrainingConfig:
    """TrainWithDebugger."""

    seed: int = setting(0, SEED)
    debug_save_interval_steps: int = setting(10, whole_number(at_least=1))
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(14400, TRAINING_SECONDS)


@dataclass(frozen=True)
class EvaluationConfig:
    """EvaluateModel and CheckAccuracy."""

    accuracy_threshold: float = setting(0.80, number(at_least=0, at_most=1))
    instance_type: str = setting("ml.m5.xlarge", INSTANCE_TYPE)
    volume_size_gb: int = setting(30, VOLUME_SIZE_GB)
    max_runtime_seconds: int = setting(3600, PROCESSING_SECONDS)


@dataclass(frozen=True)
class RegistryConfig:
    """RegisterModel."""

    model_package_group: str = setting("image-classification", aws_name(63))
    approval_status: str = setting("Approved", choice("Approved", "PendingManualApproval"))


@dataclass(frozen=True)
class DeployConfig:
    """DeployEndpoint and the endpoint."""

    endpoint_name: str = setting("image-classification", aws_name(63))
    instance_type: str = setting("ml.m5.large", INSTANCE_TYPE)
    instance_count: int = setting(1, INSTANCE_COUNT)
    max_request_megabytes: int = setting(6, whole_number(at_least=1, at_most=6))  # InvokeEndpoint takes 6 MiB
    local_idle_minutes: int = setting(15, whole_number(at_least=1))


@dataclass(frozen=True)
class AwsConfig:
    """What the aws target needs; None where the stack or the account gives it."""

    region: str = setting("us-east-1", text(r"[a-z]{2,}(-[a-z]+)+-\d+", "a region such as us-east-1"))
    bucket: str | None = setting(
        None, null_or(text(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket, without s3://"))
    )
    role_arn: str | None = setting(
        None, null_or(text(ARN_OF_ROLE, "a role's ARN such as arn:aws:iam::123456789012:role/name", longest=2048))
    )
    training_image: str | None = setting(None, null_or(IMAGE))
    inference_image: str | None = setting(None, null_or(IMAGE))
    deploy_function: str = setting(
        "image-classification-deploy", text(r"[a-zA-Z0-9_-]+", "letters, digits, dashes and underscores", longest=64)
    )


@dataclass(frozen=True)
class Config:
    """All of pipeline.yaml."""

    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    deploy: DeployConfig = field(default_factory=DeployConfig)
    aws: AwsConfig = field(default_factory=AwsConfig)


def load(path: Path) -> Config:
    """The configuration of the file; ConfigError holds every mistake, in the order of the lines."""
    name = displayed(path)
    root, problems = read_mapping(path, name)
    config = Config()
    try:
        config = section(Config)(root)
    except Unacceptable as error:
        problems += [(fault.line, f"{fault.path} {fault.text}") for fault in error.faults]
    if problems:
        raise ConfigError(sentences(problems, name))
    return config


def sentences(problems: list[Problem], name: str) -> list[str]:
    """The problems as `pipeline.yaml:31: ...`, by line."""
    return [f"{name}:{line}: {sentence}" for line, sentence in sorted(problems, key=lambda problem: problem[0])]


def displayed(path: Path) -> str:
    """The path as short as it can be typed from here."""
    is_below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if is_below else path)
