"""Builds RegisterModel: a new version in the model package group, with its metrics."""

from sagemaker.core.metadata_properties import MetadataProperties
from sagemaker.core.model_metrics import MetricsSource, ModelMetrics
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep
from sagemaker.serve.model_builder import ModelBuilder

from pipeline.compile.context import Context
from pipeline.compile.evaluation import EVALUATION

CONTENT_TYPES = [
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/x-image",
    "application/x-npy",
    "application/json",
    "multipart/form-data",
]
RESPONSE_TYPES = ["application/json", "text/csv", "application/jsonlines", "application/x-npy"]
METADATA = (  # of the version, from customer_metadata_properties in evaluation.json, where all of it is text
    "accuracy",
    "macro_f1",
    "top_5_accuracy",
    "loss",
    "test_images",
    "accuracy_interval",
    "worst_class",
    "group_gap",
    "dataset_sha256",
    "hyperparameters",
    "rules",
)


def register_step(context: Context, train: TrainingStep, evaluate: ProcessingStep) -> ModelStep:
    """The model, the server's environment, evaluation.json and where it all came from as one model package version."""
    config = context.config
    builder = ModelBuilder(
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        image_uri=context.placement.inference_image,
        role_arn=context.placement.role_arn,
        sagemaker_session=context.session,
        instance_type=config.deploy.instance_type,
        env_vars={
            "SAGEMAKER_PROGRAM": "serve.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
            "INFERENCE_RUNTIME": config.deploy.runtime,
            "MAX_REQUEST_MEGABYTES": str(config.deploy.max_request_megabytes),
            **({"MIN_PRECISION": str(config.deploy.min_precision)} if config.deploy.min_precision else {}),
        },
    )
    evaluation_uri = evaluate.properties.ProcessingOutputConfig.Outputs["evaluation"].S3Output.S3Uri
    statistics = MetricsSource(
        content_type="application/json", s3_uri=Join(on="/", values=[evaluation_uri, "evaluation.json"])
    )
    return ModelStep(
        name="RegisterModel",
        display_name="Register model",
        description="Registers a new version of the model with its metrics.",
        step_args=builder.register(
            model_package_group_name=config.registry.model_package_group,
            content_types=CONTENT_TYPES,
            response_types=RESPONSE_TYPES,
            inference_instances=[config.deploy.instance_type],
            transform_instances=[config.deploy.instance_type],
            model_metrics=ModelMetrics(model_statistics=statistics),
            metadata_properties=MetadataProperties(
                commit_id=context.commit, generated_by=ExecutionVariables.PIPELINE_EXECUTION_ARN
            ),
            customer_metadata_properties={name: measured(evaluate, name) for name in METADATA},
            approval_status=context.parameters.model_approval_status,
            description=config.pipeline.description,
            domain="COMPUTER_VISION",
            task="IMAGE_CLASSIFICATION",
            skip_model_validation="All",
        ),
        retry_policies=context.step_retries(),
    )


def measured(evaluate: ProcessingStep, name: str) -> JsonGet:
    """What EvaluateModel says for a property of the version."""
    path = f"customer_metadata_properties.{name}"
    return JsonGet(step_name=evaluate.name, property_file=EVALUATION, json_path=path)
