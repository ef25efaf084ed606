"""The sections of pipeline.yaml: a model each, a field a setting, with its type, default, bounds and what it does.

A title says in words what a setting accepts where its type cannot. Rules between settings are in relations.py.
"""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.config import schedule_expression
from pipeline.config.backbones import DEFAULT_BACKBONE
from pipeline.config.job_code import DEFAULT_RULES as DEFAULT_RULES
from pipeline.config.job_code import FINE_TUNING, BatchNorm, FineTune, Precision, bounds, default, known_hyperparameter

T = TypeVar("T")
DAY = 24 * 3600
RESOURCE = "epochs"  # what Hyperband shares out
LONGEST_HYPERPARAMETER = 2500  # characters
S3_URI = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?"
LOCAL_STORAGE = re.compile(r"ml\.([a-z]+\d+[a-z]*d|g[5-9]|p[5-9]|trn|dl)")  # types whose own disks refuse a KMS key
SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
Metric = Literal[
    "train:loss", "train:accuracy", "validation:loss", "validation:accuracy", "selection:accuracy", "selection:log_loss"
]
METRICS: tuple[str, ...] = get_args(Metric)  # which SageMaker reads from the log, a line an epoch: `train_loss=0.1`


class Section(BaseModel):
    """A section: it has no unknown keys, its values are not converted, and one that is empty has its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def fill_empty(cls, data: Any) -> Any:
        return {} if data is None else data


def matching(pattern: str, title: str, longest: int = 2048) -> Any:
    """Return the Field of text that matches a pattern as a whole."""
    return Field(pattern=f"^(?:{pattern})$", title=title, max_length=longest)


def hyperparameter(name: str, description: str) -> Any:
    """Return the Field of a hyperparameter, whose default and bounds the job code states."""
    return Field(default(name), description=description, **bounds(name))


def show_auto(schema: dict[str, Any]) -> None:
    schema |= {"anyOf": [*schema["anyOf"][:-1], {"const": "auto"}], "default": "auto"}


def only(accepts: Callable[[str], object]) -> AfterValidator:
    """Return a validator that refuses text where a function returns nothing, or raises a ValueError."""

    def check(text: str) -> str:
        if not accepts(text):
            raise ValueError
        return text

    return AfterValidator(check)


def check_overlay(overlay: dict[str, Any]) -> dict[str, Any]:
    if "environments" in overlay:
        raise ValueError("must not hold environments in turn.")
    return overlay


def check_schedule(text: str) -> str:
    if problem := schedule_expression.fault(text):
        raise ValueError(problem)
    return text


def check_group_pattern(text: str) -> str:
    try:
        count = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"must be a regular expression, but got '{text}': {error}.") from error
    if count != 1:
        raise ValueError(f"must have one group in parentheses, whose text names an image's group, but got '{text}'.")
    return text


def check_values(values: tuple[float, ...]) -> tuple[int | float, ...]:
    if repeated := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"must not repeat a value, but holds {repeated[0]:g} more than once.")
    return tuple(int(value) if value == int(value) else value for value in values)


def check_rules(rules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    characters = len(json.dumps(json.dumps(rules, separators=(",", ":"))))
    if characters > LONGEST_HYPERPARAMETER:
        limit = f"must be at most {LONGEST_HYPERPARAMETER} characters as encoded JSON"
        raise ValueError(f"{limit}, but takes {characters}.")
    return rules


def check_rule(entry: dict[str, Any]) -> dict[str, Any]:
    items = [item for value in entry.values() for item in (value if isinstance(value, list) else [value])]
    if not all(isinstance(item, str | int | float | None) for item in items) or isinstance(entry.get("rule"), list):
        raise ValueError("must hold numbers, text and lists of those.")
    return entry


Auto = Annotated[
    T | None,
    BeforeValidator(lambda value: None if value == "auto" else "null" if value is None else value),
    Field(json_schema_extra=show_auto),
]
Listed = Annotated[tuple[T, ...], Field(strict=False)]
Switch = Annotated[bool, BeforeValidator(lambda value: SWITCHES.get(value, value) if isinstance(value, str) else value)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(**bounds("seed"))]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Pixels = Annotated[int, Field(**bounds("finetune_image_size"))]
InstanceCount = Annotated[int, Field(ge=1, le=100)]
VolumeGb = Annotated[int, Field(ge=1, le=16384)]
ProcessingSeconds = Annotated[int, Field(ge=1, le=9 * DAY)]  # ProcessingMaxRuntimeInSeconds
TrainingSeconds = Annotated[int, Field(ge=1, le=28 * DAY)]
NAME = (r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", "letters, digits and dashes, with a letter or digit at both ends")
PipelineName = Annotated[str, matching(*NAME, longest=256)]
Name = Annotated[str, matching(*NAME, longest=63)]
Sentence = Annotated[str, matching(r"[^\s-].*", "a line of text that begins with no dash", 256)]  # ContainerArgument
Line = Annotated[str, matching(".+", "a line of text", 1024)]
InstanceType = Annotated[str, matching(r"ml\.[a-z0-9-]+\.[a-z0-9]+", "an instance type such as ml.m5.xlarge")]
CsvFile = Annotated[str, matching(r".+\.[cC][sS][vV]", "a .csv file")]
GroupPattern = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_group_pattern)]
DATA_WORDS = "sample, digits, a folder, a .zip or .tar(.gz), or s3://bucket/prefix"
IS_LOCATION = only(lambda text: text and (re.fullmatch(S3_URI, text) or not re.match(r"\w\w+:/", text)))
DataLocation = Annotated[str, IS_LOCATION, Field(title=DATA_WORDS)]
WeightsLocation = Annotated[str, IS_LOCATION, Field(title="package, timm, a file, or s3://bucket/key")]
Backbone = Annotated[str, matching(r"[\w.-]+", "the name of a timm network")]
RuleName = Annotated[str, matching("[A-Za-z][A-Za-z0-9_]{0,63}", "the name of a rule")]
EMPTY = BeforeValidator(lambda value: {} if value is None else value)
Rule = Annotated[dict[str, Any], EMPTY, AfterValidator(check_rule)]
Rules = Annotated[dict[str, Rule], Field(max_length=40 - len(METRICS)), AfterValidator(check_rules)]  # a job's metrics
SubnetId = Annotated[str, matching("subnet-[0-9a-f]{8,17}", "an identifier such as subnet-0123abcd")]
SecurityGroupId = Annotated[str, matching("sg-[0-9a-f]{8,17}", "an identifier such as sg-0123abcd")]
Region = Annotated[str, matching(r"[a-z]{2,}(-[a-z]+)+-\d+", "a region such as us-east-1")]
Project = Annotated[str, matching("[a-z](-?[a-z0-9])*", "lower-case letters, digits and single dashes", 40)]
Bucket = Annotated[str, matching("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of an S3 bucket, without s3://")]
IAM = r"arn:aws[a-z-]*:iam::(\d{12}|aws):"
Role = Annotated[str, matching(IAM + r"role/[\w+=,.@/-]+", "a role's ARN such as arn:aws:iam::123456789012:role/name")]
TRACKING_SERVER = r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:mlflow-(tracking-server|app)/.+"
SERVER_WORDS = "an MLflow server's ARN such as arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/name"
TrackingServer = Annotated[str, matching(TRACKING_SERVER, SERVER_WORDS)]
POLICY_WORDS = "a policy's ARN such as arn:aws:iam::123456789012:policy/name"
Policy = Annotated[str, matching(IAM + r"policy/[\w+=,.@/-]+", POLICY_WORDS)]
KEY_WORDS = "a key's ARN such as arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
Key = Annotated[str, matching(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+", KEY_WORDS)]
IMAGE_WORDS = "an image URI such as 123456789012.dkr.ecr.us-east-1.amazonaws.com/name:tag"
Image = Annotated[str, matching(r"[^\s/]+/\S+", IMAGE_WORDS, 255)]
FunctionName = Annotated[str, matching("[a-zA-Z0-9_-]+", "letters, digits, dashes and underscores", 64)]
TAG_WORDS = "letters, digits, spaces and . : / = + - @ _"
TagKey = Annotated[str, matching(r"[\w .:/=+\-@]+", TAG_WORDS, 128), only(lambda key: not key.startswith("aws:"))]
Email = Annotated[str, matching(r"[^@\s]+@[^@\s]+\.[^@\s.]+", "an e-mail address")]
AccountId = Annotated[str, matching(r"\d{12}", "an account id of 12 digits, in quotes")]
Schedule = Annotated[str, AfterValidator(check_schedule)]
EnvironmentName = Annotated[str, Field(pattern="^[a-z0-9](-?[a-z0-9])*$", max_length=20)]
ENVIRONMENT_WORDS = "named by at most 20 lower-case letters, digits and single dashes"
Overlay = Annotated[dict[str, Any], EMPTY, AfterValidator(check_overlay)]
Environments = Annotated[dict[EnvironmentName, Overlay], Field(title=ENVIRONMENT_WORDS)]
TagValue = Annotated[str, matching(r"[\w .:/=+\-@]*", TAG_WORDS, 256)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=40, title=f"named by {TAG_WORDS}")]


class PipelineConfig(Section):
    """The pipeline as a whole."""

    name: PipelineName = Field("image-classification", description="the pipeline's name")
    description: Line = Field("Turns a folder of labelled images into a deployed classifier.", description="in Studio")
    max_parallel_steps: Count = Field(4, description="steps that may run at the same time")
    cache_expire_days: Count = Field(30, description="an unchanged step younger than this is not run again")


class SplitConfig(Section):
    """Shares of each class; they sum to 1."""

    train: Share = Field(0.70, description="what the model learns from")
    validation: Share = Field(0.15, description="what shows how the training gets on")
    test: Share = Field(0.15, description="what is kept for the evaluation")

    @model_validator(mode="after")
    def sum_to_one(self) -> "SplitConfig":
        total = round(self.train + self.validation + self.test, 6)
        if total != 1:
            raise ValueError(f"must sum to 1, but {self.train} + {self.validation} + {self.test} = {total}.")
        return self


class GroupConfig(Section):
    """How an image's group is found: by one of these."""

    folder: int | None = Field(None, ge=1, le=20, description="the folder so many levels below the class folder")
    pattern: GroupPattern | None = Field(None, description="what it finds in the path, such as 'patient(\\d+)'")
    file: CsvFile | None = Field(None, description="columns path (or sha256), group")

    @model_validator(mode="after")
    def is_one_of_three(self) -> "GroupConfig":
        if [self.folder, self.pattern, self.file].count(None) != 2:
            ways = "{folder: 1}, {pattern: REGEX} or {file: FILE.csv}"
            raise ValueError(f"must be null or hold one of folder, pattern and file: {ways}.")
        return self

    def arguments(self) -> list[str]:
        """Return PrepareData's arguments; a file is in its input."""
        named = {"folder": self.folder, "pattern": self.pattern}
        return [f"--group-{name}={value}" for name, value in named.items() if value is not None]


class DataConfig(Section):
    """PrepareData: where the images come from, and how they are split."""

    source: DataLocation = Field("sample", description="where the images are")
    image_size_px: Auto[Pixels] = Field(None, description="auto: 256; with model.finetune 224; of tiny images 128")
    split: SplitConfig = SplitConfig()
    split_seed: Seed = Field(0, description="the same seed gives the same split")
    keep_splits: Switch = Field(True, description="an image keeps the split of earlier runs; false: all are dealt anew")
    near_duplicates: Switch = Field(True, description="resized, cropped or re-encoded copies and bursts form groups")
    group: GroupConfig | None = Field(None, description="images of one patient or product, which no split shares out")
    attributes: CsvFile | None = Field(None, description="path (or sha256), then columns evaluated apart, as camera")
    corrections: CsvFile | None = Field(None, description="path (or sha256), label: another one; - leaves it out")
    augmented_views: Whole = Field(0, description="extra random crops embedded per training image: rarely a gain")
    horizontal_flip: Auto[Switch] = Field(None, description="mirrored views; auto: except of tiny images")
    min_images_per_class: int = Field(5, ge=3, description="fewer are refused")
    max_unreadable_fraction: Fraction = Field(0.05, description="more unreadable files than this fail the step")
    max_image_megapixels: Count = Field(100, description="a larger image is left out")
    instance_type: InstanceType = Field("ml.m5.xlarge", description="of PrepareData")
    instance_count: InstanceCount = Field(1, description="each embeds its share of the images")
    volume_size_gb: VolumeGb = Field(30, description="disk of each instance")
    max_runtime_seconds: ProcessingSeconds = Field(14400, description="of PrepareData")


class ModelConfig(Section):
    """The network, and the hyperparameters of its head that are not searched."""

    backbone: Backbone = Field(DEFAULT_BACKBONE, description="any timm network: docs/training.md")
    weights: WeightsLocation = Field("package", description="the backbone's; timm: as `weights fetch` downloads them")
    folds: int = hyperparameter("folds", "members of the head, each trained on all folds of the images but one")
    hidden_units: int = hyperparameter("hidden_units", "hidden layer of each member; 0 is a linear head")
    dropout: float = hyperparameter("dropout", "of the hidden layer, and of what it sees")
    label_smoothing: float = hyperparameter("label_smoothing", "share of the target that the other classes get")
    weight_decay: float = hyperparameter("weight_decay", "of AdamW")
    class_balance: float = hyperparameter("class_balance", "0: every image counts alike; 1: every class does")
    patience: int = hyperparameter("patience", "the head's training ends after so many epochs without gain; 0 is off")
    finetune: FineTune = hyperparameter("finetune", "what of the backbone learns from images, after the head")


class FineTuningConfig(Section):
    """TrainWithDebugger with model.finetune last_block or all."""

    epochs: Auto[int] = hyperparameter("finetune_epochs", "auto: 12, of tiny images 8")
    batch_size: int = hyperparameter("finetune_batch_size", "images of a step, in all processes together")
    lr: float = hyperparameter("finetune_lr", "peak learning rate, of the head and of the last block")
    layer_lr_decay: float = hyperparameter("layer_lr_decay", "of the rate, from a block to the one before")
    frozen_stride: Auto[int] = hyperparameter("frozen_stride", "layers down to it stay; auto: 4, of tiny images 0")
    image_size_px: Auto[int] = hyperparameter("finetune_image_size", "of crops; auto: a little less than the model's")
    crop_area_min: Auto[float] = hyperparameter("crop_area_min", "of the image; auto: 0.4, of tiny images 0.75")
    randaugment_magnitude: Auto[int] = hyperparameter("randaugment_magnitude", "0 is off; auto: 5, of tiny images 0")
    mixup_alpha: float = hyperparameter("mixup_alpha", "0 is off")
    cutmix_alpha: float = hyperparameter("cutmix_alpha", "0 is off")
    erasing_probability: float = hyperparameter("erasing_probability", "of a rectangle that is blotted out")
    ema_decay: float = hyperparameter("ema_decay", "of the average of the weights, which is validated and kept")
    batchnorm: BatchNorm = hyperparameter("batchnorm", "its statistics; auto: frozen below 10,000 images")
    precision: Precision = hyperparameter("precision", "auto: bf16 on a GPU")
    compile: Switch = hyperparameter("compile", "torch.compile; pays on a GPU, in long trainings")

    @property
    def hyperparameters(self) -> dict[str, object]:
        """The values by the names that the job code has for them, without those that it chooses."""
        names = {"epochs": "finetune_epochs", "batch_size": "finetune_batch_size", "lr": "finetune_lr"}
        names["image_size_px"] = "finetune_image_size"
        return {names.get(name, name): value for name, value in self if value is not None}


class ContinuousRange(Section):
    """Any number from `min` to `max`."""

    type: Literal["continuous"] = "continuous"
    min: float
    max: float
    scaling: Literal["Auto", "Linear", "Logarithmic", "ReverseLogarithmic"] = Field("Auto", description="of the search")


class IntegerRange(Section):
    """Any whole number from `min` to `max`."""

    type: Literal["integer"] = "integer"
    min: int
    max: int
    scaling: Literal["Auto", "Linear", "Logarithmic"] = Field("Auto", description="of the search")


class CategoricalRange(Section):
    """One of a few values."""

    type: Literal["categorical"] = "categorical"
    values: Annotated[Listed[float], Field(min_length=1, max_length=30), AfterValidator(check_values)]


Range = ContinuousRange | IntegerRange | CategoricalRange
Ranges = dict[Annotated[str, AfterValidator(known_hyperparameter)], Annotated[Range, Field(discriminator="type")]]
DEFAULT_RANGES: Ranges = {
    "lr": ContinuousRange(min=0.001, max=0.004, scaling="Logarithmic"),
    "batch_size": CategoricalRange(values=(64, 128)),
    "epochs": IntegerRange(min=24, max=48, scaling="Linear"),
}


class TuningConfig(Section):
    """TuneHyperparameters: the search, and its trials."""

    strategy: Literal["Bayesian", "Random", "Grid", "Hyperband"] = Field("Bayesian", description="of the search")
    objective_metric: Metric = Field("selection:log_loss", description="selection: is of cross-validation")
    objective_type: Literal["Maximize", "Minimize"] = Field("Minimize", description="what is done to the metric")
    max_jobs: Count = Field(6, description="trials in all")
    max_parallel_jobs: int = Field(2, ge=1, le=100, description="trials at the same time")
    early_stopping: Literal["Auto", "Off"] = Field("Auto", description="Auto: by the median of the other trials")
    seed: Seed = Field(0, description="of the search and of its trials")
    warm_start: Literal["last"] | None = Field(None, description="last: begins with what the last search has found")
    ranges: Annotated[Ranges, Field(min_length=1)] = Field(DEFAULT_RANGES, description="what is searched")
    instance_type: InstanceType = Field("ml.m5.xlarge", description="of a trial")
    volume_size_gb: VolumeGb = Field(30, description="disk of an instance")
    max_runtime_seconds: TrainingSeconds = Field(3600, description="of a trial")
    use_spot: Switch = Field(False, description="cheaper instances that AWS may take back; such a trial starts anew")
    max_wait_seconds: TrainingSeconds = Field(7200, description="with use_spot: waiting and running, of a trial")

    @property
    def resource(self) -> IntegerRange | None:
        """The epochs that Hyperband shares out; None with another strategy."""
        epochs = self.ranges.get(RESOURCE)
        return epochs if self.strategy == "Hyperband" and isinstance(epochs, IntegerRange) else None

    @property
    def searched(self) -> dict[str, Range]:
        """The ranges that trials draw from: all but that of the epochs that Hyperband shares out."""
        return {name: found for name, found in self.ranges.items() if name != RESOURCE or not self.resource}


class TrainingConfig(Section):
    """TrainWithDebugger: the final training."""

    seed: Seed = Field(0, description="of the training")
    instance_type: InstanceType = Field("ml.m5.xlarge", description="of the training")
    instance_count: InstanceCount = Field(1, description="with model.finetune: torchrun on each, one process a GPU")
    volume_size_gb: VolumeGb = Field(30, description="disk of each instance")
    max_runtime_seconds: TrainingSeconds = Field(14400, description="of the training")
    use_spot: Switch = Field(False, description="as in tuning, but with checkpoints; such a training is never reused")
    max_wait_seconds: TrainingSeconds = Field(28800, description="as in tuning")


class DebugConfig(Section):
    """What watches TrainWithDebugger."""

    enabled: Switch = Field(True, description="false: no tensors, no rules, no profile, no report of the training")
    save_interval_steps: Auto[Count] = Field(
        None, description="of losses, gradients, weights; auto: by the run's length"
    )
    sample_interval_ms: Literal[100, 200, 500, 1000, 5000, 60000] = Field(500, description="of the machine's use")
    profiled_steps: int = Field(5, ge=0, le=50, description="seen operator by operator; 0 is off")
    managed_rules: Switch = Field(False, description="AWS's own rules as well, where the account still has them")
    rules: Rules = Field(DEFAULT_RULES, description="NAME: {PARAMETER: VALUE, rule: CLASS, action: none | stop}")


class EvaluationConfig(Section):
    """EvaluateModel."""

    accuracy_threshold: Fraction = Field(0.80, description="a model below this on the test split is not registered")
    instance_type: InstanceType = Field("ml.m5.xlarge", description="of EvaluateModel")
    volume_size_gb: VolumeGb = Field(30, description="disk of the instance")
    max_runtime_seconds: ProcessingSeconds = Field(3600, description="of EvaluateModel")


class ConditionConfig(Section):
    """CheckAccuracy: what it demands besides the test accuracy, or of it."""

    lower_bound: Switch = Field(False, description="the accuracy's 95 % interval must lie above the threshold")
    min_class_recall: Share | None = Field(None, description="of every class's test images so many are recognised")
    max_group_gap: Share | None = Field(None, description="of accuracies of data.attributes' groups, beyond chance")
    fail_on_rules: Listed[RuleName] | None = Field(
        None, description="of debug.rules: they must have found no issue; null: no fatal one; []: off"
    )


class RegistryConfig(Section):
    """RegisterModel."""

    model_package_group: Name = Field("image-classification", description="where versions are registered")
    approval_status: Literal["auto", "Approved", "PendingManualApproval"] = Field(
        "auto", description="of a new version; auto: Approved here, on AWS as aws.auto_approve says"
    )
    require_improvement: Switch = Field(False, description="only a model at least as good as the one in service")
    improvement_margin: Fraction = Field(0.0, description="with require_improvement: better by so much accuracy")
    intended_use: Sentence | None = Field(None, description="in the model card; null: images like those trained on")
    limits: Sentence | None = Field(None, description="in the model card; null: it knows its classes only")


class AutoscalingConfig(Section):
    """Instances follow the traffic."""

    min_instances: InstanceCount = Field(1, description="at the least")
    max_instances: InstanceCount = Field(1, description="at the most; 1 is off")
    target_invocations_per_minute: Count = Field(600, description="of one instance")

    @property
    def enabled(self) -> bool:
        """Whether there is anything to scale."""
        return self.max_instances > 1


class ServerlessConfig(Section):
    """An endpoint without instances: no cost while idle, but cold starts and requests of at most 4 MB."""

    memory_mb: Literal[0, 1024, 2048, 3072, 4096, 5120, 6144] = Field(0, description="0 is off")
    max_concurrency: int = Field(5, ge=1, le=200, description="requests at the same time")

    @property
    def enabled(self) -> bool:
        """Whether the endpoint is serverless."""
        return self.memory_mb > 0


Runtime = Literal["auto", "onnxruntime", "openvino", "torchscript", "bf16", "cuda"]
Precise = Annotated[float, Field(ge=0.5, le=0.999)]


class DeployConfig(Section):
    """DeployEndpoint, and the endpoint."""

    endpoint_name: Name = Field("image-classification", description="the endpoint's name")
    instance_type: InstanceType = Field("ml.m5.large", description="of the endpoint")
    instance_count: InstanceCount = Field(1, description="of the endpoint")
    runtime: Runtime = Field("auto", description="auto: the fastest that answers as the trained network does")
    min_precision: Precise | None = Field(None, description="of answers that are said to be confident")
    max_request_megabytes: int = Field(6, ge=1, le=6, description="a larger body is answered 413")
    local_idle_minutes: Count = Field(15, description="the local server then sleeps; `invoke` wakes it")
    canary_fraction: float = Field(0.3, gt=0, le=0.5, description="of two instances or more, updated first")
    canary_wait_seconds: int = Field(300, ge=0, le=3600, description="for an alarm, before the rest is updated")
    rollback: Switch = Field(True, description="an alarm during an update brings the old version back")
    max_latency_ms: Count = Field(1000, description="alarm: 5 of 100 requests take longer")
    max_5xx_per_minute: Whole = Field(5, description="alarm: more answers are the model's own failures")
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    data_capture_percent: int = Field(0, ge=0, le=100, description="of requests, kept in the bucket; 0 is off")
    serverless: ServerlessConfig = ServerlessConfig()
    keep_versions: Count = Field(3, description="endpoint configurations and models kept, the newest first")
    network_isolation: Switch = Field(True, description="the model's container has no network; not when serverless")

    @property
    def server_environment(self) -> dict[str, str]:
        """The server's environment variables; one that is not set is empty."""
        precision, megabytes = str(self.min_precision or ""), str(self.max_request_megabytes)
        return {"INFERENCE_RUNTIME": self.runtime, "MAX_REQUEST_MEGABYTES": megabytes, "MIN_PRECISION": precision}


class DriftConfig(Section):
    """Checks for drift on AWS, and what they lead to."""

    schedule: Schedule | None = Field(None, description="UTC, when a job on AWS checks: rate(1 day); null is never")
    retrain: Switch = Field(False, description="drift starts the pipeline, once until a check without drift")


class VpcConfig(Section):
    """An existing VPC for jobs and endpoint; its subnets need a way to S3, ECR and CloudWatch."""

    subnet_ids: Annotated[Listed[SubnetId], Field(max_length=16)] = Field((), description="[subnet-0123abcd, ...]")
    security_group_ids: Annotated[Listed[SecurityGroupId], Field(max_length=5)] = Field((), description="[sg-0123abcd]")

    @model_validator(mode="after")
    def has_both(self) -> "VpcConfig":
        if bool(self.subnet_ids) != bool(self.security_group_ids):
            raise ValueError("must name subnets and security groups, or neither, but only one of the lists is filled.")
        return self


Retention = Literal[  # those that PutRetentionPolicy takes
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653
]  # fmt: skip


class AwsConfig(Section):
    """The account that `--target aws` works in; what is null, the stack of `run_pipeline.py infra` gives."""

    region: Region = Field("us-east-1", description="of everything")
    project: Project = Field("image-classification", description="the stack's name, and part of what is in it")
    bucket: Bucket | None = Field(None, description="one of yours is used, never changed or removed")
    role_arn: Role | None = Field(None, description="the pipeline's execution role")
    job_role_arn: Role | None = Field(None, description="of every job; null: role_arn, or the stack's")
    auto_approve: Switch = Field(
        False, description="versions may be registered as Approved; else each waits for `approve`"
    )
    training_image: Image | None = Field(None, description="of every job; null: what `images push` pushed")
    inference_image: Image | None = Field(None, description="of the endpoint; null: what `images push` pushed")
    deploy_function: FunctionName = Field("image-classification-deploy", description="the Lambda function")
    deploy_concurrency: Count | None = Field(1, description="reserved for it; null: none, where the quota leaves none")
    vpc: VpcConfig = VpcConfig()
    kms_key_arn: Key | None = Field(None, description="encrypts bucket, volumes, outputs; null: keys that AWS manages")
    network_isolation: Switch = Field(False, description="jobs have no network")
    permissions_boundary_arn: Policy | None = Field(None, description="bounds every role of the stack")
    tags: Tags = Field({}, description="on everything, as {team: vision}")
    log_retention_days: Retention = Field(30, description="of what functions and the endpoint log")
    artifact_retention_days: Count = Field(90, description="what executions and trials wrote; models and data stay")
    job_log_retention_days: Retention | None = Field(None, description="of all jobs of the account; null: left alone")
    alarm_email: Email | None = Field(None, description="told of failures, alarms, versions that wait for approval")
    retrain_schedule: Schedule = Field("rate(7 days)", description="off until `run_pipeline.py schedule set`")
    start_on_marker: Switch = Field(False, description="an object _READY below the data's prefix starts the pipeline")
    promote_to: Annotated[Listed[AccountId], Field(max_length=2)] = Field((), description="accounts that may deploy")
    promoted_from: AccountId | None = Field(None, description="the account whose approved versions are deployed here")
    mlflow_tracking_server_arn: TrackingServer | None = Field(None, description="follows executions; null: none does")

    @property
    def inputs_function(self) -> str:
        """The name of the Lambda function that an execution begins with."""
        return f"{self.project}-inputs"


class Config(Section):
    """All of pipeline.yaml, an environment laid over it if one was chosen."""

    pipeline: PipelineConfig = PipelineConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    finetuning: FineTuningConfig = FineTuningConfig()
    tuning: TuningConfig = TuningConfig()
    training: TrainingConfig = TrainingConfig()
    debug: DebugConfig = DebugConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    condition: ConditionConfig = ConditionConfig()
    registry: RegistryConfig = RegistryConfig()
    deploy: DeployConfig = DeployConfig()
    drift: DriftConfig = DriftConfig()
    aws: AwsConfig = AwsConfig()
    environments: Environments = Field({}, description="NAME: what differs from the above")

    @property
    def fine_tunes(self) -> bool:
        """Whether the backbone learns, too."""
        return self.model.finetune != "none"

    @property
    def searches_fine_tuning(self) -> bool:
        """Whether trials fine-tune, too; else only the training does."""
        return bool(FINE_TUNING & self.tuning.ranges.keys())
