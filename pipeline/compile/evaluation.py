"""Builds EvaluateModel: the model as the endpoint will load it, against the test split.

With registry.require_improvement the model in service, the champion, is scored on the same split.
"""

from sagemaker.core.helper.pipeline_variable import PipelineVariable
from sagemaker.core.workflow.functions import JsonGet
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.lambda_step import LambdaStep
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep

from pipeline.compile.bundle import PROCESSING
from pipeline.compile.context import Context, flags, job_retries, processing_input, processing_output
from pipeline.config.sections import Config

STEP, SCRIPT = "EvaluateModel", "evaluate.py"
FATAL = "fatal"  # all rules whose findings make a model worthless
ABOUT_CHAMPION = (
    "The model that the endpoint is asked to serve, kept by the deploy function: model.tar.gz, its baseline.json, and "
    "champion.json, which says which version it is. EvaluateModel compares a newly trained model with it.\n"
)
EVALUATION = PropertyFile(name="Evaluation", output_name="evaluation", path="evaluation.json")


def evaluate_step(
    context: Context, describe: LambdaStep, prepare: ProcessingStep, train: TrainingStep
) -> ProcessingStep:
    """Return the step that writes evaluation.json, which the condition reads, and the report."""
    evaluation, registry = context.config.evaluation, context.config.registry
    prepared = prepare.properties.ProcessingOutputConfig.Outputs
    inputs = [
        processing_input("model", train.properties.ModelArtifacts.S3ModelArtifacts),
        processing_input("test", prepared["test"].S3Output.S3Uri),
        processing_input("manifest", prepared["manifest"].S3Output.S3Uri),
        processing_input("code", context.code_uri(SCRIPT)),
    ]
    if registry.require_improvement:
        inputs.append(processing_input("champion", context.shared_uri("champion", about=ABOUT_CHAMPION)))
    return ProcessingStep(
        name=STEP,
        display_name="Evaluate model",
        description="Loads the model as the endpoint does and scores the test split.",
        step_args=context.processor(SCRIPT, evaluation, evaluation.instance_type).run(
            arguments=arguments(context, describe),
            inputs=inputs,
            outputs=[processing_output("evaluation", context.execution_uri("evaluations"))],
        ),
        property_files=[EVALUATION],
        cache_config=context.cache(),
        retry_policies=job_retries(),
    )


def arguments(context: Context, describe: LambdaStep) -> list[str | PipelineVariable]:
    """Return the command line of the script, with what pipeline.yaml demands and says of the model."""
    config, condition = context.config, context.config.condition
    margin = config.registry.improvement_margin
    version = describe.properties.Outputs["champion"]  # is part of the cache's key, which knows URIs only
    champion = {"champion_dir": f"{PROCESSING}/input/champion", "champion_version": version}
    champion["improvement_margin"] = margin
    given = {
        "intended_use": config.registry.intended_use,
        "limits": config.registry.limits,
        "min_precision": config.deploy.min_precision or None,
        "min_class_recall": condition.min_class_recall,
        "max_group_gap": condition.max_group_gap,
        "fail_on_rules": fail_on_rules(config),
    }
    return flags(
        model_dir=f"{PROCESSING}/input/model",
        test_dir=f"{PROCESSING}/input/test",
        manifest_dir=f"{PROCESSING}/input/manifest",
        output_dir=f"{PROCESSING}/output/evaluation",
        **(champion if config.registry.require_improvement else {}),
        **{name: value for name, value in given.items() if value is not None},
    )


def fail_on_rules(config: Config) -> str | None:
    """Return which rules must have found nothing in the training: names, or `fatal`; None if it is no matter."""
    names = config.condition.fail_on_rules
    if names is None:
        return FATAL if config.debug.enabled and config.debug.rules else None
    return ",".join(names) or None


def reported(path: str) -> JsonGet:
    """Return a value of evaluation.json, known when the step has run."""
    return JsonGet(step_name=STEP, property_file=EVALUATION, json_path=path)
