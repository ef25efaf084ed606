"""Builds CheckAccuracy: what a model has to reach to be registered, and the sentence when it does not.

The accuracy on the test split, or the lower end of its interval; with registry.require_improvement an improvement on
the model in service; where condition asks for them, the recall of the worst class and the gap between groups; and for
each rule of condition.fail_on_rules, that it found no issue while the model trained.
"""

from collections.abc import Sequence
from typing import Any

from sagemaker.core.workflow.conditions import Condition, ConditionEquals
from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo as AtLeast
from sagemaker.core.workflow.conditions import ConditionLessThanOrEqualTo as AtMost
from sagemaker.core.workflow.functions import Join
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step, TrainingStep

from pipeline.compile.context import Context
from pipeline.compile.evaluation import reported
from pipeline.compile.training import rule_metric

ACCURACY = "multiclass_classification_metrics.accuracy.value"  # paths in evaluation.json
LOWER_BOUND = "multiclass_classification_metrics.accuracy.lower_bound"
IMPROVEMENT = "improvement.value"  # over the champion; with no champion the accuracy itself
CHAMPION = "improvement.champion"  # which model, with its accuracy; or that there is none
WORDS = "words"  # of the interval, and of each demand: what was found, and whether it is met
DEMANDS = {  # a setting of condition -> how it is compared, and with what
    "min_class_recall": (AtLeast, "worst_class.recall.value"),
    "max_group_gap": (AtMost, "group_gap.value"),
}


def check_accuracy_step(
    context: Context, train: TrainingStep, evaluate: ProcessingStep, if_steps: Sequence[Step]
) -> ConditionStep:
    """Return the step after which the model is registered and deployed, or the execution fails."""
    config = context.config
    more = ", classes and groups do as condition demands" if demands_of(context) else ""
    more += " and improves on the model in service" if config.registry.require_improvement else ""
    more += " and no rule of condition.fail_on_rules found an issue" if config.condition.fail_on_rules else ""
    return ConditionStep(
        name="CheckAccuracy",
        display_name="Check accuracy",
        description=f"Continues only if the accuracy on the test split reaches AccuracyThreshold{more}.",
        conditions=conditions(context, train, evaluate),
        if_steps=list(if_steps),
        else_steps=[
            FailStep(
                name="AccuracyTooLow",
                display_name="Accuracy too low",
                description="Ends the execution: nothing is registered.",
                error_message=Join(on="", values=refusal(context, train, evaluate)),
            )
        ],
    )


def conditions(context: Context, train: TrainingStep, evaluate: ProcessingStep) -> list[Condition]:
    """Return all that is demanded of a model."""
    registry, condition = context.config.registry, context.config.condition
    accuracy = reported(evaluate, LOWER_BOUND if condition.lower_bound else ACCURACY)
    found = [AtLeast(left=accuracy, right=context.parameters["AccuracyThreshold"])]
    if registry.require_improvement:
        improvement = reported(evaluate, IMPROVEMENT)
        found.append(AtLeast(left=improvement, right=registry.improvement_margin))
    for name, share in demands_of(context).items():
        kind, path = DEMANDS[name]
        found.append(kind(left=reported(evaluate, path), right=share))
    return found + [ConditionEquals(left=issues, right=0) for issues in rule_issues(context, train).values()]


def demands_of(context: Context) -> dict[str, float]:
    """Return which of DEMANDS are set, with their values."""
    values = {name: getattr(context.config.condition, name) for name in DEMANDS}
    return {name: value for name, value in values.items() if value is not None}


def refusal(context: Context, train: TrainingStep, evaluate: ProcessingStep) -> list[Any]:
    """Return AccuracyTooLow's sentence, with every number that was compared."""
    accuracy, threshold = reported(evaluate, ACCURACY), context.parameters["AccuracyThreshold"]
    registry, condition, demands = context.config.registry, context.config.condition, demands_of(context)
    words = ["Test accuracy ", accuracy, " (", reported(evaluate, f"{WORDS}.accuracy")]
    if condition.lower_bound:
        words += [", whose lower bound ", reported(evaluate, LOWER_BOUND), " counts"]
    if not registry.require_improvement and not condition.fail_on_rules and not demands:
        return [*words, ") is below the threshold AccuracyThreshold = ", threshold]
    words += ["; at least AccuracyThreshold = ", threshold, " is needed)"]
    if registry.require_improvement:
        words += [" is an improvement of ", reported(evaluate, IMPROVEMENT), " over ", reported(evaluate, CHAMPION)]
        words += [" (at least registry.improvement_margin = ", registry.improvement_margin, " is needed)"]
    words += [word for name in demands for word in ("; ", reported(evaluate, f"{WORDS}.{name}"))]
    if condition.fail_on_rules:
        words += ["; rules that watched the training (0 is needed; 1 is an issue, -1 that it was not judged)"]
        words += [word for name, issues in rule_issues(context, train).items() for word in (f", {name}: ", issues)]
    return [*words, ", so nothing is registered."]


def rule_issues(context: Context, train: TrainingStep) -> dict[str, Any]:
    """Return the metric of each rule that must not have found an issue."""
    metrics = train.properties.FinalMetricDataList
    return {name: metrics[rule_metric(name)].Value for name in context.config.condition.fail_on_rules}
