"""Builds EvaluateModel: the model as the endpoint will load it, against the test split.

With registry.require_improvement the model in service, the champion, is scored on the same split.
"""

from sagemaker.core.processing import Processor
from sagemaker.core.shapes import ProcessingInput
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep

from pipeline.compile.bundle import evaluation_bundle
from pipeline.compile.carried_over import champion_uri
from pipeline.compile.context import PROCESSING, Context, flags, processing_input, processing_output

EVALUATION = PropertyFile(name="Evaluation", output_name="evaluation", path="evaluation.json")


def evaluate_step(context: Context, prepare: ProcessingStep, train: TrainingStep) -> ProcessingStep:
    """Writes evaluation.json, which the condition reads, and the report."""
    evaluation = context.config.evaluation
    compares = context.config.registry.require_improvement
    margin = context.config.registry.improvement_margin
    precision = {"min_precision": wanted} if (wanted := context.config.deploy.min_precision) else {}
    condition = context.config.condition
    gates = {"min_class_recall": condition.min_class_recall, "max_group_gap": condition.max_group_gap}
    champion = {"champion_dir": f"{PROCESSING}/input/champion", "improvement_margin": margin} if compares else {}
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
        volume_kms_key=context.volume_key(evaluation.instance_type),
        output_kms_key=context.output_key(),
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
                **champion,
                **precision,
                **{name: share for name, share in gates.items() if share is not None},
            ),
            inputs=[
                processing_input("model", train.properties.ModelArtifacts.S3ModelArtifacts),
                processing_input("test", prepared["test"].S3Output.S3Uri),
                processing_input("manifest", prepared["manifest"].S3Output.S3Uri),
                processing_input("code", context.code_uri(evaluation_bundle(), "source")),
                *([champion_input(context)] if compares else []),
            ],
            outputs=[processing_output("evaluation", context.evaluation_uri())],
        ),
        property_files=[EVALUATION],
        # A comparison is never reused: the cache's key knows the champion's URI only, and what lies there changes.
        cache_config=None if compares else context.cache(),
        retry_policies=context.job_retries(),
    )


def champion_input(context: Context) -> ProcessingInput:
    """The model in service, if there is one: the prefix is never empty."""
    return processing_input("champion", f"{champion_uri(context.config, context.placement)}/")
