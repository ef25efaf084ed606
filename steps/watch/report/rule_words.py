"""What each built-in rule looks for, in words for somebody who has never heard of it."""

MEANINGS = {
    "AllZero": "values that are all zero, as of a layer that is dead or was never initialised",
    "BatchSize": "a batch too small to keep processor, GPU and GPU memory busy",
    "CheckInputImages": "input images that are not normalised",
    "ClassImbalance": "classes with far fewer images than others, or mostly taken for others",
    "Confusion": "classes that the model takes for each other",
    "CPUBottleneck": "a GPU that waits for a busy processor",
    "Dataloader": "too few or too many processes that load data",
    "DeadRelu": "ReLU units that are never active",
    "ExplodingTensor": "values that have become infinite or not a number",
    "GPUMemoryIncrease": "GPU memory that grows from step to step, as with a leak",
    "IOBottleneck": "a GPU that waits for disk or network",
    "LoadBalancing": "work that is unevenly spread over the GPUs",
    "LossNotDecreasing": "a loss that no longer goes down",
    "LowGPUUtilization": "a GPU that is hardly used, or in bursts",
    "MaxInitializationTime": "a long time before the first step",
    "OverallFrameworkMetrics": "nothing: it sums up where the time of steps goes",
    "OverallSystemUsage": "nothing: it sums up how busy the machine is",
    "Overfit": "a validation loss well above the training loss: learnt by heart",
    "Overtraining": "further epochs that bring nothing",
    "PoorWeightInitialization": "initial weights from which training cannot start well",
    "ProfilerReport": "any other profiler rule that found something",
    "SaturatedActivation": "sigmoid or tanh units stuck at their limits",
    "StalledTraining": "a training that makes no step for a long time",
    "StepOutlier": "single steps that take much longer than the others",
    "TensorVariance": "values that vary too much or too little",
    "UnchangedTensor": "values that no longer change",
    "VanishingGradient": "gradients so small that layers stop learning",
    "WeightUpdateRatio": "weight updates that are too large or too small for the weights",
}


def meaning(rule: str) -> str:
    """What the rule looks for; nothing for a rule of the user's own."""
    return MEANINGS.get(rule.removesuffix("Rule"), "")
