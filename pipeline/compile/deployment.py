"""Builds DeployEndpoint: the Lambda function that creates or updates the endpoint, and never waits for it."""

from sagemaker.core.lambda_helper import Lambda
from sagemaker.mlops.workflow.lambda_step import LambdaOutput, LambdaOutputTypeEnum, LambdaStep
from sagemaker.mlops.workflow.model_step import ModelStep

from pipeline.compile.carried_over import champion_uri
from pipeline.compile.context import Context

OUTPUTS = ("endpoint_name", "endpoint_status", "model_package_arn", "message")


def deploy_step(context: Context, register: ModelStep) -> LambdaStep:
    """Calls steps/deploy.py with the version just registered."""
    deploy = context.config.deploy
    kept = {"champion_uri": champion_uri(context.config, context.placement)}
    return LambdaStep(
        name="DeployEndpoint",
        display_name="Deploy endpoint",
        description="Deploys an approved version; says so when it waits for approval.",
        lambda_func=Lambda(function_arn=context.placement.function_arn, session=context.session),
        inputs={
            "model_package_arn": register.properties.ModelPackageArn,
            "endpoint_name": context.parameters.endpoint_name,
            "instance_type": deploy.instance_type,
            "initial_instance_count": deploy.instance_count,
            **(kept if context.config.registry.require_improvement else {}),
        },
        outputs=[LambdaOutput(output_name=name, output_type=LambdaOutputTypeEnum.String) for name in OUTPUTS],
    )
