"""The pipeline, as a table of contents: a builder a step.

DescribeInputs -> PrepareData -> TuneHyperparameters -> TrainWithDebugger -> EvaluateModel
    -> CheckAccuracy  false: ModelRefused
    -> CheckIsNew     true: RegisterModel -> DeployEndpoint
"""

from types import SimpleNamespace

from sagemaker.core.config.config_manager import SageMakerConfig
from sagemaker.core.shapes import MlflowConfig
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline

from pipeline.compile.compiler import Inputs
from pipeline.compile.condition import check_steps
from pipeline.compile.context import Context, declare
from pipeline.compile.evaluation import evaluate_step
from pipeline.compile.placement import Placement
from pipeline.compile.preparation import describe_inputs_step, prepare_data_step
from pipeline.compile.release import deploy_step, register_step
from pipeline.compile.training import train_step
from pipeline.compile.tuning import tune_step

# The SDK compares the session's settings with a large schema for each of its defaults: nine tenths of the time.
SageMakerConfig.validate_sagemaker_config = staticmethod(lambda settings=None: None)


def build(inputs: Inputs) -> tuple[Pipeline, Context]:
    """Return the pipeline, and the context, which knows the code and placeholders that it needs."""
    context = Context(**vars(inputs), session=offline_session(inputs.placement), parameters=declare(inputs))
    describe = describe_inputs_step(context)
    prepare = prepare_data_step(context, describe)
    tune = tune_step(context, prepare)
    train = train_step(context, prepare, tune)
    evaluate = evaluate_step(context, describe, prepare, train)
    register = register_step(context, train, evaluate)
    deploy = deploy_step(context, register)
    checks = check_steps(context, describe, if_steps=[register, deploy])
    name, server = context.config.pipeline.name, context.placement.mlflow_tracking_server_arn
    pipeline = Pipeline(
        name=name,
        parameters=list(context.parameters.values()),
        pipeline_experiment_config=None,
        mlflow_config=MlflowConfig(mlflow_resource_arn=server, mlflow_experiment_name=name) if server else None,
        steps=[describe, prepare, tune, train, evaluate, *checks],
        sagemaker_session=context.session,
    )
    return pipeline, context


def offline_session(placement: Placement) -> PipelineSession:
    """Return a session that cannot speak to AWS: no clients, no telemetry, no defaults from the user's machine.

    Real clients, which nobody calls, would be half of the time of compiling.
    """
    no_telemetry = {"SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    session = PipelineSession(
        boto_session=SimpleNamespace(region_name=placement.region, client=no_client, resource=no_client),
        default_bucket=placement.bucket,
        sagemaker_config={"SchemaVersion": "1.0", **no_telemetry},
    )
    session.default_bucket = lambda: placement.bucket  # else it asks S3 whether there is one
    return session


def no_client(*names: object, **options: object) -> object:
    """Return an object without any operation."""
    return object()
