"""The pipeline, as a table of contents: a builder a step.

PrepareData -> TuneHyperparameters -> TrainWithDebugger -> EvaluateModel -> CheckAccuracy
                                                     true: RegisterModel -> DeployEndpoint
                                                     false: AccuracyTooLow
"""

import boto3
from sagemaker.core.config.config_manager import SageMakerConfig
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline

from pipeline.compile.compiler import Inputs
from pipeline.compile.condition import check_accuracy_step
from pipeline.compile.context import Context, declare
from pipeline.compile.evaluation import evaluate_step
from pipeline.compile.placement import Placement
from pipeline.compile.preparation import prepare_data_step
from pipeline.compile.release import deploy_step, register_step
from pipeline.compile.training import train_step
from pipeline.compile.tuning import tune_step

# The SDK compares the session's settings with a large schema for each of its defaults: nine tenths of the time.
SageMakerConfig.validate_sagemaker_config = staticmethod(lambda settings=None: None)


def build(context: Context) -> Pipeline:
    """Return the pipeline; the context then knows the code and placeholders that it needs."""
    prepare = prepare_data_step(context)
    tune = tune_step(context, prepare)
    train = train_step(context, prepare, tune)
    evaluate = evaluate_step(context, prepare, train)
    register = register_step(context, train, evaluate)
    deploy = deploy_step(context, register)
    check = check_accuracy_step(context, train, evaluate, if_steps=[register, deploy])
    return Pipeline(
        name=context.config.pipeline.name,
        parameters=list(context.parameters.values()),
        pipeline_experiment_config=None,
        steps=[prepare, tune, train, evaluate, check],
        sagemaker_session=context.session,
    )


def context_of(inputs: Inputs) -> Context:
    """Return what the builders are given."""
    return Context(inputs, declare(inputs), OfflineSession(inputs.placement))


class OfflineSession(PipelineSession):  # type: ignore[misc]
    """A session that never speaks to AWS: made-up credentials, no telemetry, no defaults from the user's machine."""

    def __init__(self, placement: Placement) -> None:
        credentials = {"aws_access_key_id": "offline", "aws_secret_access_key": "offline"}
        super().__init__(
            boto_session=boto3.Session(**credentials, region_name=placement.region),
            default_bucket=placement.bucket,
            sagemaker_config={
                "SchemaVersion": "1.0",
                "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}},
            },
        )

    def default_bucket(self) -> str:
        """Return the bucket without asking S3 whether it exists."""
        return str(self._default_bucket_name_override)
