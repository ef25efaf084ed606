"""SageMaker Debugger's own rules beside ours: the Debug* and Profiler* fields of CreateTrainingJob.

For accounts that still have the service: AWS closed it to new customers on 2026-07-30. The fields and the registry of
the evaluator image are those of the guide's "debugger-createtrainingjob-api" and "debugger-reference". SDK v3's
ModelTrainer has no parameter for them, so the step's arguments take them.
"""

from collections.abc import Mapping
from typing import Any

from sagemaker.mlops.workflow.steps import TrainingStep

from pipeline.compile.context import Context
from pipeline.config.debug_config import DebugConfig
from pipeline.errors import ConfigError

EVALUATOR_ACCOUNTS = {
    "us-east-1": "503895931360",
    "us-east-2": "915447279597",
    "us-west-1": "685455198987",
    "us-west-2": "895741380848",
    "ca-central-1": "519511493484",
    "sa-east-1": "818342061345",
    "eu-west-1": "929884845733",
    "eu-west-2": "250201462417",
    "eu-west-3": "447278800020",
    "eu-central-1": "482524230118",
    "eu-north-1": "314864569078",
    "eu-south-1": "563282790590",
    "ap-northeast-1": "430734990657",
    "ap-northeast-2": "578805364391",
    "ap-northeast-3": "479947661362",
    "ap-south-1": "904829902805",
    "ap-southeast-1": "972752614525",
    "ap-southeast-2": "184798709955",
    "ap-east-1": "199566480951",
    "af-south-1": "314341159256",
    "me-south-1": "986000313247",
}
TENSOR_RULES = (
    "VanishingGradient", "ExplodingTensor", "PoorWeightInitialization", "SaturatedActivation", "DeadRelu",
    "WeightUpdateRatio", "AllZero", "ClassImbalance", "LossNotDecreasing", "Overfit", "Overtraining", "TensorVariance",
    "UnchangedTensor", "StalledTrainingRule", "CheckInputImages", "Confusion",
)  # fmt: skip
PROFILER_RULES = (
    "LowGPUUtilization", "CPUBottleneck", "IOBottleneck", "GPUMemoryIncrease", "LoadBalancing", "BatchSize",
    "StepOutlier", "MaxInitializationTime", "OverallSystemUsage", "Dataloader", "ProfilerReport",
)  # fmt: skip
SPELLINGS = {"StalledTraining": "StalledTrainingRule"}  # ours -> AWS's
MOST_RULES = 20  # of each list
COLLECTIONS: Mapping[str, dict[str, str]] = {
    "losses": {},
    "gradients": {},
    "weights": {},
    "biases": {},
    "relu_input": {"include_regex": ".*relu_input"},
    "relu_output": {"include_regex": ".*relu_output"},
}
LOCAL_TENSORS = "/opt/ml/output/tensors"
OWN_KEYS = ("rule", "action")


class WatchedTrainingStep(TrainingStep):  # type: ignore[misc]
    """A training step whose request carries more than the SDK's trainer can say."""

    def __init__(self, *, more: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.more = more

    @property
    def arguments(self) -> dict[str, Any]:
        """The CreateTrainingJob request with the additional fields."""
        request: dict[str, Any] = super().arguments
        return {**request, **self.more}


def managed_fields(context: Context, save_interval_steps: int) -> dict[str, Any]:
    """DebugHookConfig, DebugRuleConfigurations, ProfilerConfig and ProfilerRuleConfigurations; nothing when off.

    Raises:
        ConfigError: the region has no evaluator image.
    """
    debug = context.config.debug
    if not (debug.enabled and debug.managed_rules):
        return {}
    image = evaluator_image(context.placement.region)
    name = context.config.pipeline.name
    interval = {"save_interval": str(save_interval_steps)}
    return {
        "DebugHookConfig": {
            "S3OutputPath": context.placement.uri(name, "debug-output"),
            "LocalPath": LOCAL_TENSORS,
            "HookParameters": interval,
            "CollectionConfigurations": [
                {"CollectionName": collection, "CollectionParameters": {**parameters, **interval}}
                for collection, parameters in COLLECTIONS.items()
            ],
        },
        "DebugRuleConfigurations": configurations(debug, TENSOR_RULES, image),
        "ProfilerConfig": {
            "S3OutputPath": context.placement.uri(name, "profiler-output"),
            "ProfilingIntervalInMilliseconds": debug.sample_interval_ms,
        },
        "ProfilerRuleConfigurations": configurations(debug, PROFILER_RULES, image),
    }


def evaluator_image(region: str) -> str:
    """The image that evaluates AWS's rules, free of charge.

    Raises:
        ConfigError: AWS lists none for the region.
    """
    if region not in EVALUATOR_ACCOUNTS:
        raise ConfigError(
            [
                f"debug.managed_rules must be false in {region}, for which AWS lists no image of its rules; "
                f"it does for {', '.join(EVALUATOR_ACCOUNTS)}."
            ]
        )
    return f"{EVALUATOR_ACCOUNTS[region]}.dkr.ecr.{region}.amazonaws.com/sagemaker-debugger-rules:latest"


def configurations(debug: DebugConfig, known: tuple[str, ...], image: str) -> list[dict[str, Any]]:
    """The configured rules that AWS has as well, at most twenty; a rule of the user's own is not among them."""
    found = []
    for name, entry in debug.rules.items():
        rule = SPELLINGS.get(entry.get("rule", name), entry.get("rule", name))
        if rule in known:
            parameters = {key: as_text(value) for key, value in entry.items() if key not in OWN_KEYS}
            found.append(
                {
                    "RuleConfigurationName": name,
                    "RuleEvaluatorImage": image,
                    "RuleParameters": {"rule_to_invoke": rule, **parameters},
                }
            )
    return found[:MOST_RULES]


def as_text(value: Any) -> str:
    """A parameter as the service takes it: text, lists with commas between."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
