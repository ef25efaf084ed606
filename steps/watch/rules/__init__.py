"""Debugger rules: what is checked while a model trains. base.py explains how to add one; registry.py finds them."""

NAMES = """
    LossNotFinite LossExploding OneClass LearningRate FrozenWeights WrongLabels VanishingGradient ExplodingTensor
    PoorWeightInitialization SaturatedActivation DeadRelu WeightUpdateRatio AllZero ClassImbalance LossNotDecreasing
    Overfit Overtraining TensorVariance UnchangedTensor StalledTraining CheckInputImages Confusion
    LowGPUUtilization CPUBottleneck IOBottleneck GPUMemoryIncrease LoadBalancing BatchSize StepOutlier
    MaxInitializationTime OverallSystemUsage DataWait Dataloader
"""
DEFAULT_RULES: dict[str, dict[str, object]] = {
    name: {} for name in NAMES.split()
} | {  # AWS's own thresholds are met by
    "AllZero": {"collection_names": ["weights"]},  # most good models and data sets
    "TensorVariance": {"collection_names": ["weights"], "max_threshold": 100},
    "UnchangedTensor": {"collection_names": ["losses"]},
    "CheckInputImages": {"threshold_mean": 1.5},
}
