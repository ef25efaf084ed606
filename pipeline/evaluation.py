"""Builds EvaluateModel and CheckAccuracy: the model as the endpoint will load it, against the test split."""

from collections.abc import Sequence

from sagemaker.core.processing import Processor
from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.condition_step import ConditionStep
from sagemaker.mlops.workflow.fail_step import FailStep
from sagemaker.mlops.workflow.steps import ProcessingStep, Step, TrainingStep

from pipeline.bundle import evaluation_bundle
from pipeline.context import PROCESSING, Context, flags, processing_input, processing_output

ACCURACY_PATH = "multiclass_classification_metrics.accuracy.value"
EVALUATION = PropertyFile(name="Evaluation", output_name="evaluation", path="evaluation.json")


def evaluate_step(context: Context, prepare: ProcessingStep, train: TrainingStep) -> ProcessingStep:
    """Writes evaluation.json, which the condition reads, and the report."""
    evaluation = context.config.evaluation
    processor = Processor(
        role=context.placement.role_arn,
        image_uri=context.placement.training_image,
        entrypoint=["python3", f"{PROCESSING}/input/code/{evaluation_bundle().entry_point}"],
        instance_count=1,
        instance_type=evaluation.instance_type,
        volume_size_in_gb=evaluation.volume_size_gb,
        max_runtime_in_seconds=evaluation.max_runtime_seconds,
        sagemaker_session=context.session,
        network_config=context.network(),
    )
    prepared = prepare.properties.ProcessingOutputConfig.Outputs
    return ProcessingStep(
        name="EvaluateModel",
        display_name="Evaluate model",
        description="Loads the model as the endpoint does and scores the test split.",
        step_args=processor.run(
            arguments=flags(
                model_dir=f"{PROCESSING}/input/model",
                test_dir=f"{PROCESSING}/input/test",
                manifest_dir=f"{PROCESSING}/input/manifest",
                output_dir=f"{PROCESSING}/output/evaluation",
            ),
            inputs=[
                processing_input("model", train.properties.ModelArtifacts.S3ModelArtifacts),
                processing_input("test", prepared["test"].S3Output.S3Uri),
                processing_input("manifest", prepared["manifest"].S3Output.S3Uri),
                processing_input("code", context.code_uri(evaluation_bundle(), "source")),
            ],
            outputs=[processing_output("evaluation", context.output_uri("EvaluateModel", "evaluation"))],
        ),
        property_files=[EVALUATION],
        cache_config=context.cache(),
        retry_policies=context.job_retries(),
    )


def check_accuracy_step(context: Context, evaluate: ProcessingStep, if_steps: Sequence[Step]) -> ConditionStep:
    """Test accuracy >= AccuracyThreshold: register and deploy; else fail, naming both."""
    accuracy = JsonGet(step_name=evaluate.name, property_file=EVALUATION, json_path=ACCURACY_PATH)
    threshold = context.parameters.accuracy_threshold
    return ConditionStep(
        name="CheckAccuracy",
        display_name="Check accuracy",
        description="Continues only if the accuracy on the test split reaches AccuracyThreshold.",
        conditions=[ConditionGreaterThanOrEqualTo(left=accuracy, right=threshold)],
        if_steps=list(if_steps),
        else_steps=[
            FailStep(
                name="AccuracyTooLow",
                display_name="Accuracy too low",
                description="Ends the execution: nothing is registered.",
                error_message=Join(
                    on=" ",
                    values=["Test accuracy", accuracy, "is below the threshold AccuracyThreshold =", threshold],
                ),
            )
        ],
    )
