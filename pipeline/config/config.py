"""pipeline.yaml as typed values: one frozen dataclass a section, one attribute a setting.

`load` reports every mistake of the file at once, each with its line. A setting that the file leaves out takes the
default written here; the file that the product ships states every setting.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.config import environments
from pipeline.config.annotations import CSV_FILE, GroupConfig, read_group
from pipeline.config.aws_config import AwsConfig, PricesConfig, VpcConfig
from pipeline.config.backbones import DEFAULT_BACKBONE
from pipeline.config.debug_config import GATES, ConditionConfig, DebugConfig
from pipeline.config.finetuning_config import FINETUNE, SEARCHABLE, FineTuningConfig
from pipeline.config.formats import (
    INSTANCE_COUNT,
    INSTANCE_TYPE,
    NO_URI,
    PROCESSING_SECONDS,
    S3_URI,
    SEED,
    SHARE,
    VOLUME_SIZE_GB,
    aws_name,
)
from pipeline.config.hosting_config import AutoscalingConfig, DeployConfig, ServerlessConfig
from pipeline.config.ranges import (
    HYPERPARAMETERS,
    WHOLE_HYPERPARAMETERS,
    CategoricalRange,
    ContinuousRange,
    IntegerRange,
    Range,
)
from pipeline.config.setting import (
    Fault,
    Read,
    Rule,
    auto_or,
    boolean,
    choice,
    collecting,
    null_or,
    number,
    section,
    setting,
    text,
    whole_number,
)
from pipeline.config.training_config import TrainingConfig, TuningConfig
from pipeline.config.yaml_lines import Problem, Value, read_mapping
from pipeline.errors import ConfigError
from pipeline.suggestion import did_you_mean

__all__ = [
    "AutoscalingConfig",
    "AwsConfig",
    "CategoricalRange",
    "ConditionConfig",
    "Config",
    "ContinuousRange",
    "DebugConfig",
    "DeployConfig",
    "IntegerRange",
    "PricesConfig",
    "ServerlessConfig",
    "TrainingConfig",
    "TuningConfig",
    "VpcConfig",
    "load",
]


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
        "sample", text(f"{S3_URI}|{NO_URI}", "sample, digits, a folder, a .zip or .tar(.gz), or s3://bucket/prefix")
    )
    image_size_px: int | None = setting(None, auto_or(whole_number(at_least=32, at_most=2048)))
    split: SplitConfig = field(default_factory=SplitConfig)
    split_seed: int = setting(0, SEED)
    keep_splits: bool = setting(True, boolean)
    near_duplicates: bool = setting(True, boolean)
    group: GroupConfig | None = setting(None, read_group)  # noqa: RUF009 a dataclass field
    attributes: str | None = setting(None, null_or(CSV_FILE))
    corrections: str | None = setting(None, null_or(CSV_FILE))
    augmented_views: int = setting(1, whole_number(at_least=0))
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

    backbone: str = setting(DEFAULT_BACKBONE, text(r"[\w.-]+", "the name of a timm network"))
    weights: str = setting("package", text(f"{S3_URI}|{NO_URI}", "package, timm, a file, or s3://bucket/key"))
    folds: int = setting(5, whole_number(at_least=1, at_most=10))
    hidden_units: int = setting(256, WHOLE_HYPERPARAMETERS["hidden_units"])
    dropout: float = setting(0.3, hyperparameter("dropout"))
    label_smoothing: float = setting(0.05, hyperparameter("label_smoothing"))
    weight_decay: float = setting(0.0001, hyperparameter("weight_decay"))
    class_balance: float = setting(0.0, hyperparameter("class_balance"))
    patience: int = setting(0, WHOLE_HYPERPARAMETERS["patience"])
    finetune: str = setting("none", choice(*FINETUNE))


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
    require_improvement: bool = setting(False, boolean)
    improvement_margin: float = setting(0.0, number(at_least=0, at_most=1))


@dataclass(frozen=True)
class DriftConfig:
    """What follows from a drift that `drift --publish` has found."""

    retrain: bool = setting(False, boolean)


def retrains_on_nothing(retrain: bool, data_capture_percent: int) -> str | None:
    """The stack has the alarm where there is something to check."""
    if not retrain or data_capture_percent:
        return None
    return "must be false while deploy.data_capture_percent is 0: nothing is captured, so no drift can be found."


def expired_while_cached(artifact_retention_days: int, cache_expire_days: int) -> str | None:
    """A cached step would hand on outputs that the bucket has let go."""
    if artifact_retention_days > cache_expire_days:
        return None
    return f"must be more than pipeline.cache_expire_days ({cache_expire_days}), but got {artifact_retention_days}."


def serverless_in_vpc(memory_mb: int, subnet_ids: tuple[str, ...], network_isolation: bool) -> str | None:
    """CreateEndpointConfig refuses it."""
    if not memory_mb or not (subnet_ids or network_isolation):
        return None
    where = "aws.vpc" if subnet_ids else "aws.network_isolation"
    return f"must be 0 (off) with {where}, which serverless endpoints do not have, but got {memory_mb}."


def searched_without_fine_tuning(ranges: dict[str, Range], finetune: str) -> str | None:
    """The frozen path does not heed it: trials would differ by chance alone."""
    idle = sorted(SEARCHABLE & ranges.keys())
    if finetune != "none" or not idle:
        return None
    return f"must not hold {', '.join(idle)} with model.finetune none, which does without."


def instances_without_fine_tuning(instance_count: int, finetune: str) -> str | None:
    """The head learns within seconds, in one process."""
    if finetune != "none" or instance_count == 1:
        return None
    return f"must be 1 with model.finetune none, which trains in one process, but got {instance_count}."


def gap_without_groups(max_group_gap: float | None, attributes: str | None) -> str | None:
    """It would be met by every model."""
    if max_group_gap is None or attributes:
        return None
    return "must be null without data.attributes, which says which images make a group."


@dataclass(frozen=True)
class Config:
    """All of pipeline.yaml, an environment laid over it if one was chosen."""

    rules: ClassVar = (
        Rule(("aws.artifact_retention_days", "pipeline.cache_expire_days"), expired_while_cached),
        Rule(("deploy.serverless.memory_mb", "aws.vpc.subnet_ids", "aws.network_isolation"), serverless_in_vpc),
        Rule(("tuning.ranges", "model.finetune"), searched_without_fine_tuning),
        Rule(("training.instance_count", "model.finetune"), instances_without_fine_tuning),
        Rule(("drift.retrain", "deploy.data_capture_percent"), retrains_on_nothing),
        Rule(("condition.max_group_gap", "data.attributes"), gap_without_groups),
        GATES,
    )
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    finetuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    deploy: DeployConfig = field(default_factory=DeployConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    aws: AwsConfig = field(default_factory=AwsConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    environments: tuple[str, ...] = setting((), environments.names)

    @property
    def fine_tunes(self) -> bool:
        """Whether the backbone learns, too."""
        return self.model.finetune != "none"

    @property
    def searches_fine_tuning(self) -> bool:
        """Whether trials fine-tune, too; else only the training does."""
        return bool(SEARCHABLE & self.tuning.ranges.keys())


def load(path: Path, environment: str | None = None) -> Config:
    """The configuration of the file, the environment's overlay laid over it.

    Raises:
        ConfigError: every mistake of the file and of all its overlays, in the order of the lines.
    """
    name = displayed(path)
    root, problems = read_mapping(path, name)
    faults: list[Fault] = []
    config = read(root, faults)
    if not any(fault.path.partition(".")[0] == environments.SECTION for fault in faults):
        known = set(faults)
        for overlay in environments.overlays(root):
            found = environments.faults_of(root, overlay, config, section(Config))
            faults += [fault for fault in found if as_written(fault, overlay) not in known]
    problems += [(fault.line, f"{fault.path} {fault.text}") for fault in faults]
    if problems:
        raise ConfigError(sentences(problems, name))
    return config if environment is None else chosen(root, environment, config, name)


def read(root: Value, faults: list[Fault]) -> Config:
    """The configuration; where the file is not acceptable, its faults and the defaults."""
    with collecting(faults):
        return section(Config)(root)
    return Config()


def as_written(fault: Fault, environment: str) -> Fault:
    """A fault met under an overlay, in the words that it would have without."""
    return Fault(fault.line, fault.path.removeprefix(f"{environments.SECTION}.{environment}."), fault.text)


def chosen(root: Value, environment: str, base: Config, name: str) -> Config:
    """The configuration with one environment's overlay.

    Raises:
        ConfigError: the file has no such environment.
    """
    if environment not in base.environments:
        known = ", ".join(base.environments) or "none"
        hint = did_you_mean(environment, base.environments)
        raise ConfigError([f"{name} has no environment '{environment}' in environments; it has {known}.{hint}"])
    return section(Config)(environments.overlaid(root, environment, base))


def sentences(problems: list[Problem], name: str) -> list[str]:
    """The problems as `pipeline.yaml:31: ...`, by line."""
    return [f"{name}:{line}: {sentence}" for line, sentence in sorted(problems, key=lambda problem: problem[0])]


def displayed(path: Path) -> str:
    """The path as short as it can be typed from here."""
    is_below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return str(path.relative_to(Path.cwd()) if is_below else path)
