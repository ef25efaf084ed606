"""SageMaker Debugger's own rules beside ours: the Debug* and Profiler* fields of CreateTrainingJob.

For accounts that still have the service: AWS closed it to new customers on 2026-07-30. The fields are those of the
guide's "debugger-createtrainingjob-api" and "debugger-reference". SDK v3's ModelTrainer has no parameter for them, so
the step's arguments take them.
"""

from collections.abc import Mapping
from typing import Any

from sagemaker.core import image_uris

from pipeline.compile.context import Context
from pipeline.config.sections import DebugConfig
from pipeline.errors import ConfigError

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


def managed_fields(context: Context, save_interval_steps: int) -> dict[str, Any]:
    """Return DebugHookConfig, ProfilerConfig and the rules' configurations; nothing when they are off.

    Raises:
        ConfigError: the region has no evaluator image.
    """
    debug, name = context.config.debug, context.config.pipeline.name
    if not (debug.enabled and debug.managed_rules):
        return {}
    image = evaluator_image(context.placement.region)
    interval = {"save_interval": str(save_interval_steps)}
    return {
        "DebugHookConfig": {
            "S3OutputPath": context.placement.uri(name, "debug-output"),
            "LocalPath": "/opt/ml/output/tensors",
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
    """Return the image that evaluates AWS's rules, free of charge; a ConfigError if AWS has none in the region."""
    try:
        return str(image_uris.retrieve("debugger", region))
    except ValueError as error:
        _, _, regions = str(error).partition("Supported region(s): ")
        there_is = "for which AWS lists no image of its rules; it does for"
        raise ConfigError([f"debug.managed_rules must be false in {region}, {there_is} {regions}"]) from error


def configurations(debug: DebugConfig, known: tuple[str, ...], image: str) -> list[dict[str, Any]]:
    """Return the configured rules that AWS has as well, at most twenty, with their parameters as text."""
    found = []
    for name, entry in debug.rules.items():
        rule = SPELLINGS.get(entry.get("rule", name), entry.get("rule", name))
        if rule in known:
            given = {key: value for key, value in entry.items() if key not in ("rule", "action", "semantics")}
            parameters = {key: ",".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in given.items()}
            invoked = {"RuleEvaluatorImage": image, "RuleParameters": {"rule_to_invoke": rule, **parameters}}
            found.append({"RuleConfigurationName": name, **invoked})
    return found[:MOST_RULES]
