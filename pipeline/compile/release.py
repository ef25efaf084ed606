"""Builds RegisterModel and DeployEndpoint: a new version with its metrics, and the endpoint that serves it."""

from sagemaker.core.drift_check_baselines import DriftCheckBaselines
from sagemaker.core.metadata_properties import MetadataProperties
from sagemaker.core.model_metrics import MetricsSource, ModelMetrics
from sagemaker.core.resources import ModelPackageModelCard
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join
from sagemaker.mlops.workflow.lambda_step import LambdaStep
from sagemaker.mlops.workflow.model_step import ModelStep
from sagemaker.mlops.workflow.steps import ProcessingStep, TrainingStep
from sagemaker.serve.model_builder import ModelBuilder

from pipeline.compile.context import Context, step_retries
from pipeline.compile.evaluation import reported

CONTENT_TYPES = [
    *("image/jpeg", "image/png", "image/webp", "application/x-image", "application/x-npy", "application/json"),
    "multipart/form-data",
]
RESPONSE_TYPES = ["application/json", "text/csv", "application/jsonlines", "application/x-npy"]
METADATA = (  # of the version, from customer_metadata_properties in evaluation.json, where all of it is text
    *("accuracy", "macro_f1", "top_5_accuracy", "loss", "test_images", "accuracy_interval", "worst_class"),
    *("group_gap", "dataset_sha256", "dataset_images", "classes", "classes_sha256", "hyperparameters", "rules"),
    *("model_sha256", "archive_sha256"),
)
DEPLOYED = ("endpoint_name", "endpoint_status", "model_package_arn", "message")  # what the function answers


def register_step(context: Context, train: TrainingStep, evaluate: ProcessingStep) -> ModelStep:
    """Return the step that registers the model, its card and baselines, and where they came from."""
    config = context.config
    builder = ModelBuilder(
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        image_uri=context.placement.inference_image,
        role_arn=context.placement.role_arn,
        sagemaker_session=context.session,
        instance_type=config.deploy.instance_type,
        env_vars={
            "SAGEMAKER_PROGRAM": "serve.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/program",  # of the inference image
            **{name: value for name, value in config.deploy.server_environment.items() if value},
        },
    )
    folder = evaluate.properties.ProcessingOutputConfig.Outputs["evaluation"].S3Output.S3Uri
    evaluation, baseline = (
        MetricsSource(content_type="application/json", s3_uri=Join(on="/", values=[folder, name]))
        for name in ("evaluation.json", "baseline.json")
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
            model_metrics=ModelMetrics(model_statistics=evaluation),
            drift_check_baselines=DriftCheckBaselines(model_statistics=evaluation, model_data_statistics=baseline),
            model_card=ModelPackageModelCard(
                model_card_content=reported("model_card"), model_card_status="PendingReview"
            ),
            metadata_properties=MetadataProperties(
                commit_id=context.commit, generated_by=ExecutionVariables.PIPELINE_EXECUTION_ARN
            ),
            customer_metadata_properties={
                **{name: reported(f"customer_metadata_properties.{name}") for name in METADATA},
                "replace_classes": context.parameters["ReplaceClasses"],
            },
            approval_status=context.parameters.get("ModelApprovalStatus", "PendingManualApproval"),
            description=config.pipeline.description,
            domain="COMPUTER_VISION",
            task="IMAGE_CLASSIFICATION",
            skip_model_validation="All",
        ),
        retry_policies=step_retries(),
    )


def deploy_step(context: Context, register: ModelStep) -> LambdaStep:
    """Return the step that calls the function of steps/deploy.py, which has the endpoint's settings; it never waits."""
    return LambdaStep(
        name="DeployEndpoint",
        display_name="Deploy endpoint",
        description="Deploys an approved version; says so when it waits for approval.",
        **context.function(context.placement.deploy_function, *DEPLOYED),
        inputs={
            "model_package_arn": register.properties.ModelPackageArn,
            "endpoint_name": context.parameters["EndpointName"],
        },
    )
