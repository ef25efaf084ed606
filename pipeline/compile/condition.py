"""Builds CheckAccuracy: what a model has to reach to be registered, and the sentence when it does not.

The accuracy on the test split, or the lower end of its interval; with registry.require_improvement an improvement on
the model in service; where condition asks for them, the recall of the worst class and the gap between groups; and for
each rule of condition.fail_on_rules, that it found no issue while the model trained.
"""

from collections.abc import Sequence
from typing import Any

from sagemaker.core.workflow.conditions import (
    Condition,
    ConditionEquals,
    ConditionGreaterThanOrEqualTo,
    ConditionLessThanOrEqualTo,
)
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step, TrainingStep

from pipeline.compile.context import Context
from pipeline.compile.evaluation import EVALUATION
from pipeline.compile.training import rule_metric

ACCURACY_PATH = "multiclass_classification_metrics.accuracy.value"
LOWER_BOUND_PATH = "multiclass_classification_metrics.accuracy.lower_bound"
DEMANDS = {  # of classes and groups: the setting of condition, how it is compared, and with what
    "min_class_recall": (ConditionGreaterThanOrEqualTo, "worst_class.recall.value"),
    "max_group_gap": (ConditionLessThanOrEqualTo, "group_gap.value"),
}
WORDS_PATH = "words"  # of the interval, and of the demands of condition: what was found, and whether it is met
IMPROVEMENT_PATH = "improvement.value"
CHAMPION_PATH = "improvement.champion"  # which model, with its accuracy; or that there is none


def check_accuracy_step(
    context: Context, train: TrainingStep, evaluate: ProcessingStep, if_steps: Sequence[Step]
) -> ConditionStep:
    """All that is demanded is met: register and deploy; else fail, naming every number."""
    config = context.config
    improves = " and improves on the model in service" if config.registry.require_improvement else ""
    fair = ", classes and groups do as condition demands" if shares_demanded(context) else ""
    sound = " and no rule of condition.fail_on_rules found an issue" if config.condition.fail_on_rules else ""
    return ConditionStep(
        name="CheckAccuracy",
        display_name="Check accuracy",
        description=f"Continues only if the accuracy on the test split reaches "
        f"AccuracyThreshold{fair}{improves}{sound}.",
        conditions=[
            ConditionGreaterThanOrEqualTo(
                left=reported(evaluate, LOWER_BOUND_PATH if config.condition.lower_bound else ACCURACY_PATH),
                right=context.parameters.accuracy_threshold,
            ),
            *improvement_conditions(context, evaluate),
            *share_conditions(context, evaluate),
            *rule_conditions(context, train),
        ],
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


def improvement_conditions(context: Context, evaluate: ProcessingStep) -> list[Condition]:
    """The accuracy less the champion's, if that is asked for; with no champion the accuracy itself."""
    registry = context.config.registry
    if not registry.require_improvement:
        return []
    improvement = reported(evaluate, IMPROVEMENT_PATH)
    return [ConditionGreaterThanOrEqualTo(left=improvement, right=registry.improvement_margin)]


def shares_demanded(context: Context) -> list[str]:
    """Which of DEMANDS are set."""
    return [name for name in DEMANDS if getattr(context.config.condition, name) is not None]


def share_conditions(context: Context, evaluate: ProcessingStep) -> list[Condition]:
    """Of the worst class, and of the groups that an attribute makes."""
    asked = [(*DEMANDS[name], getattr(context.config.condition, name)) for name in shares_demanded(context)]
    return [condition(left=reported(evaluate, path), right=share) for condition, path, share in asked]


def rule_conditions(context: Context, train: TrainingStep) -> list[Condition]:
    """No issue found, rule by rule."""
    return [ConditionEquals(left=issues(train, name), right=0) for name in context.config.condition.fail_on_rules]


def refusal(context: Context, train: TrainingStep, evaluate: ProcessingStep) -> list[Any]:
    """AccuracyTooLow's sentence, with every number that was compared."""
    accuracy, threshold = reported(evaluate, ACCURACY_PATH), context.parameters.accuracy_threshold
    registry, condition = context.config.registry, context.config.condition
    words = ["Test accuracy ", accuracy, " (", reported(evaluate, f"{WORDS_PATH}.accuracy")]
    if condition.lower_bound:
        words += [", whose lower bound ", reported(evaluate, LOWER_BOUND_PATH), " counts"]
    demands = shares_demanded(context)
    if not registry.require_improvement and not condition.fail_on_rules and not demands:
        return [*words, ") is below the threshold AccuracyThreshold = ", threshold]
    words += ["; at least AccuracyThreshold = ", threshold, " is needed)"]
    if registry.require_improvement:
        words += [" is an improvement of ", reported(evaluate, IMPROVEMENT_PATH)]
        words += [" over ", reported(evaluate, CHAMPION_PATH)]
        words += [" (at least registry.improvement_margin = ", registry.improvement_margin, " is needed)"]
    words += [word for name in demands for word in ("; ", reported(evaluate, f"{WORDS_PATH}.{name}"))]
    if condition.fail_on_rules:
        words += ["; rules that watched the training (0 is needed; 1 is an issue, -1 that it was not judged)"]
        words += [word for name in condition.fail_on_rules for word in (f", {name}: ", issues(train, name))]
    return [*words, ", so nothing is registered."]


def issues(train: TrainingStep, rule: str) -> Any:
    """The metric of a rule, see `training.rule_metrics`."""
    return train.properties.FinalMetricDataList[rule_metric(rule)].Value


def reported(evaluate: ProcessingStep, path: str) -> JsonGet:
    """A value of evaluation.json."""
    return JsonGet(step_name=evaluate.name, property_file=EVALUATION, json_path=path)
