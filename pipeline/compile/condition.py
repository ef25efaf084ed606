"""Builds CheckAccuracy and CheckIsNew: what a model has to reach to be registered, and that it is not registered yet.

The service knows no Condition step in a branch of another, hence two beside each other: one ends the execution with a
sentence when a demand is not met, the other goes on when all are and the model is a new one. What is demanded: the
accuracy on the test split, or the lower end of its interval; with registry.require_improvement an improvement on
the model in service; where condition asks for them, the recall of the worst class and the gap between groups; and that
no rule of condition.fail_on_rules found an issue while the model trained, by default none that is fatal.
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
from sagemaker.mlops.workflow.steps import Step

from pipeline.compile.context import Context
from pipeline.compile.evaluation import fail_on_rules, reported

ACCURACY = "multiclass_classification_metrics.accuracy.value"  # paths in evaluation.json
LOWER_BOUND = "multiclass_classification_metrics.accuracy.lower_bound"
IMPROVEMENT = "improvement.value"  # over the champion; with no champion the accuracy itself
FAULTS = "training_faults.value"  # how many rules found the training faulty
CHAMPION = "improvement.champion"  # which model, with its accuracy; or that there is none
MODEL = "model_sha256"  # of what the model consists of, whatever packed it
KNOWN = ("registered_sha256", "champion_sha256")  # of DescribeInputs: the newest version, the newest approved one
WORDS = "words"  # of the interval, and of each demand: what was found, and whether it is met
DEMANDS = {  # a setting of condition -> how it is compared, and with what
    "min_class_recall": (AtLeast, "worst_class.recall.value"),
    "max_group_gap": (AtMost, "group_gap.value"),
}


def check_steps(context: Context, describe: LambdaStep, *, if_steps: Sequence[Step]) -> list[ConditionStep]:
    """Return CheckAccuracy, which ends the execution unless all demands are met, and CheckIsNew before `if_steps`."""
    config, outputs, demands = context.config, describe.properties.Outputs, demanded(context)
    known = [ConditionEquals(left=reported(MODEL), right=outputs[name]) for name in KNOWN]
    better = AtLeast(left=reported(IMPROVEMENT), right=config.registry.improvement_margin)
    better_or_known = ConditionOr(conditions=[better, *known])  # a registered model need not improve on itself
    more = ", classes and groups do as condition demands" if demands_of(context) else ""
    more += " and improves on the model in service" if config.registry.require_improvement else ""
    more += f" and no {watching(context)} found an issue" if fail_on_rules(config) else ""
    check_accuracy = ConditionStep(
        name="CheckAccuracy",
        display_name="Check accuracy",
        description=f"Continues only if the accuracy on the test split reaches AccuracyThreshold{more}.",
        conditions=[*demands, *([better_or_known] if config.registry.require_improvement else [])],
        if_steps=[],
        else_steps=[
            FailStep(
                name="ModelRefused",
                display_name="Model refused",
                description="Ends the execution: nothing is registered.",
                error_message=Join(on="", values=refusal(context)),
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


def watching(context: Context) -> str:
    """Return which rules must not have found an issue, in words."""
    names = context.config.condition.fail_on_rules
    return "rule whose findings are fatal" if names is None else f"rule of {', '.join(names)}"


def demanded(context: Context) -> list[Condition]:
    """Return what is demanded of a model but for the improvement."""
    condition = context.config.condition
    accuracy = reported(LOWER_BOUND if condition.lower_bound else ACCURACY)
    found = [AtLeast(left=accuracy, right=context.parameters["AccuracyThreshold"])]
    for name, share in demands_of(context).items():
        kind, path = DEMANDS[name]
        found.append(kind(left=reported(path), right=share))
    return found + ([ConditionEquals(left=reported(FAULTS), right=0)] if fail_on_rules(context.config) else [])


def demands_of(context: Context) -> dict[str, float]:
    """Return which of DEMANDS are set, with their values."""
    values = {name: getattr(context.config.condition, name) for name in DEMANDS}
    return {name: value for name, value in values.items() if value is not None}


def refusal(context: Context) -> list[Any]:
    """Return ModelRefused's sentences: what is wrong with the training, if rules say so, and what was compared."""
    accuracy, threshold = reported(ACCURACY), context.parameters["AccuracyThreshold"]
    registry, condition, demands = context.config.registry, context.config.condition, demands_of(context)
    watched = bool(fail_on_rules(context.config))
    words = [reported(f"{WORDS}.training_faults")] if watched else []
    words += ["Test accuracy ", accuracy, " (", reported(f"{WORDS}.accuracy")]
    if condition.lower_bound:
        words += [", whose lower bound ", reported(LOWER_BOUND), " counts"]
    if not registry.require_improvement and not watched and not demands:
        return [*words, ") is below the threshold AccuracyThreshold = ", threshold]
    words += ["; at least AccuracyThreshold = ", threshold, " is needed)"]
    if registry.require_improvement:
        words += [" is an improvement of ", reported(IMPROVEMENT), " over ", reported(CHAMPION)]
        words += [" (at least registry.improvement_margin = ", registry.improvement_margin, " is needed)"]
    words += [word for name in demands for word in ("; ", reported(f"{WORDS}.{name}"))]
    return [*words, ", so nothing is registered."]
