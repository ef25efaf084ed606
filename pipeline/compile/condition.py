"""Builds CheckAccuracy and CheckIsNew: what a model has to reach to be registered, and that it is not registered yet.

The service knows no Condition step in a branch of another, hence two beside each other: one ends the execution with a
sentence when a demand is not met, the other goes on when all are and the model is a new one. What is demanded: the
accuracy on the test split, or the lower end of its interval; with registry.require_improvement an improvement on
the model in service; where condition asks for them, the recall of the worst class and the gap between groups; and for
each rule of condition.fail_on_rules, that it found no issue while the model trained.
"""

from collections.abc import Sequence
from typing import Any

from sagemaker.core.workflow.conditions import Condition, ConditionEquals, ConditionNot, ConditionOr
from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo as AtLeast
from sagemaker.core.workflow.conditions import ConditionLessThanOrEqualTo as AtMost
from sagemaker.core.workflow.functions import Join
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.lambda_step import LambdaStep
from sagemaker.mlops.workflow.steps import Step, TrainingStep

from pipeline.compile.context import Context
from pipeline.compile.evaluation import reported
from pipeline.compile.training import rule_metric

ACCURACY = "multiclass_classification_metrics.accuracy.value"  # paths in evaluation.json
LOWER_BOUND = "multiclass_classification_metrics.accuracy.lower_bound"
IMPROVEMENT = "improvement.value"  # over the champion; with no champion the accuracy itself
CHAMPION = "improvement.champion"  # which model, with its accuracy; or that there is none
MODEL = "model_sha256"  # of what the model consists of, whatever packed it
KNOWN = ("registered_sha256", "champion_sha256")  # of DescribeInputs: the newest version, the newest approved one
WORDS = "words"  # of the interval, and of each demand: what was found, and whether it is met
DEMANDS = {  # a setting of condition -> how it is compared, and with what
    "min_class_recall": (AtLeast, "worst_class.recall.value"),
    "max_group_gap": (AtMost, "group_gap.value"),
}


def check_steps(
    context: Context, describe: LambdaStep, train: TrainingStep, *, if_steps: Sequence[Step]
) -> list[ConditionStep]:
    """Return CheckAccuracy, which ends the execution unless all demands are met, and CheckIsNew before `if_steps`."""
    config, outputs, demands = context.config, describe.properties.Outputs, demanded(context, train)
    known = [ConditionEquals(left=reported(MODEL), right=outputs[name]) for name in KNOWN]
    better = AtLeast(left=reported(IMPROVEMENT), right=config.registry.improvement_margin)
    better_or_known = ConditionOr(conditions=[better, *known])  # a registered model need not improve on itself
    more = ", classes and groups do as condition demands" if demands_of(context) else ""
    more += " and improves on the model in service" if config.registry.require_improvement else ""
    more += " and no rule of condition.fail_on_rules found an issue" if config.condition.fail_on_rules else ""
    check_accuracy = ConditionStep(
        name="CheckAccuracy",
        display_name="Check accuracy",
        description=f"Continues only if the accuracy on the test split reaches AccuracyThreshold{more}.",
        conditions=[*demands, *([better_or_known] if config.registry.require_improvement else [])],
        if_steps=[],
        else_steps=[
            FailStep(
                name="AccuracyTooLow",
                display_name="Accuracy too low",
                description="Ends the execution: nothing is registered.",
                error_message=Join(on="", values=refusal(context, train)),
            )
        ],
    )
    new = [ConditionNot(expression=condition) for condition in known]
    check_is_new = ConditionStep(
        name="CheckIsNew",
        display_name="Check whether the model is new",
        description="Continues only with a model that CheckAccuracy accepts and that is not registered yet.",
        conditions=[*demands, *([better] if config.registry.require_improvement else []), *new],
        if_steps=list(if_steps),
        else_steps=[],
    )
    return [check_accuracy, check_is_new]


def demanded(context: Context, train: TrainingStep) -> list[Condition]:
    """Return what is demanded of a model but for the improvement."""
    condition = context.config.condition
    accuracy = reported(LOWER_BOUND if condition.lower_bound else ACCURACY)
    found = [AtLeast(left=accuracy, right=context.parameters["AccuracyThreshold"])]
    for name, share in demands_of(context).items():
        kind, path = DEMANDS[name]
        found.append(kind(left=reported(path), right=share))
    return found + [ConditionEquals(left=issues, right=0) for issues in rule_issues(context, train).values()]


def demands_of(context: Context) -> dict[str, float]:
    """Return which of DEMANDS are set, with their values."""
    values = {name: getattr(context.config.condition, name) for name in DEMANDS}
    return {name: value for name, value in values.items() if value is not None}


def refusal(context: Context, train: TrainingStep) -> list[Any]:
    """Return AccuracyTooLow's sentence, with every number that was compared."""
    accuracy, threshold = reported(ACCURACY), context.parameters["AccuracyThreshold"]
    registry, condition, demands = context.config.registry, context.config.condition, demands_of(context)
    words = ["Test accuracy ", accuracy, " (", reported(f"{WORDS}.accuracy")]
    if condition.lower_bound:
        words += [", whose lower bound ", reported(LOWER_BOUND), " counts"]
    if not registry.require_improvement and not condition.fail_on_rules and not demands:
        return [*words, ") is below the threshold AccuracyThreshold = ", threshold]
    words += ["; at least AccuracyThreshold = ", threshold, " is needed)"]
    if registry.require_improvement:
        words += [" is an improvement of ", reported(IMPROVEMENT), " over ", reported(CHAMPION)]
        words += [" (at least registry.improvement_margin = ", registry.improvement_margin, " is needed)"]
    words += [word for name in demands for word in ("; ", reported(f"{WORDS}.{name}"))]
    if condition.fail_on_rules:
        words += ["; rules that watched the training (0 is needed; 1 is an issue, -1 that it was not judged)"]
        words += [word for name, issues in rule_issues(context, train).items() for word in (f", {name}: ", issues)]
    return [*words, ", so nothing is registered."]


def rule_issues(context: Context, train: TrainingStep) -> dict[str, Any]:
    """Return the metric of each rule that must not have found an issue."""
    metrics = train.properties.FinalMetricDataList
    return {name: metrics[rule_metric(name)].Value for name in context.config.condition.fail_on_rules}
