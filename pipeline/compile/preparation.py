"""Builds DescribeInputs, and PrepareData: check, de-duplicate, split by class, decode once, embed once, stage to S3.

PrepareData reads and adds to two prefixes that all executions share. A job downloads some 14 KB of embeddings for a
training image with four views, and 70 bytes of splits an image.
"""

from sagemaker.core.helper.pipeline_variable import PipelineVariable
from sagemaker.mlops.workflow.lambda_step import LambdaStep
from sagemaker.mlops.workflow.steps import ProcessingStep

from pipeline.compile.bundle import PROCESSING
from pipeline.compile.context import Context, flags, job_retries, processing_input, processing_output
from pipeline.compile.placement import INPUTS_STEP, champion_uri

DESCRIBED = ("data_version", "registered", "registered_sha256", "approved", "champion_sha256", "champion", "message")
SCRIPT = "prepare.py"
OUTPUTS = ("train", "validation", "test", "embeddings", "manifest")  # the directories that the script writes
ABOUT_EMBEDDINGS = (
    "Embeddings of images, which PrepareData finds here again. They may be deleted; this file must stay.\n"
)
ABOUT_SPLITS = (
    "What each image was used for, so that none is tested on that was ever trained on. Without these files splits are "
    "dealt anew; this one must stay.\n"
)


def describe_inputs_step(context: Context) -> LambdaStep:
    """Return the step that calls the function of steps/describe_inputs.py; it is never taken from the cache."""
    return LambdaStep(
        name=INPUTS_STEP,
        display_name="Describe inputs",
        description="Finds what the data's prefix holds, and which models are registered.",
        **context.function(context.placement.inputs_function, *DESCRIBED),
        inputs={
            "data_uri": context.parameters["InputDataUri"],
            "model_package_group": context.config.registry.model_package_group,
            "champion_uri": champion_uri(context.config, context.placement),
            "inference_image": context.placement.inference_image,
            "environment": context.config.deploy.server_environment,
            "replace_classes": context.parameters["ReplaceClasses"],
        },
    )


def prepare_data_step(context: Context, described: LambdaStep) -> ProcessingStep:
    """Return the step that prepares the data; what lies at its URI is part of the step's cache key."""
    name, data = "PrepareData", context.config.data
    embedding_cache = context.shared_uri("embedding-cache", context.config.model.backbone, about=ABOUT_EMBEDDINGS)
    split_history = context.shared_uri("split-history", about=ABOUT_SPLITS)
    instance_type = context.parameters["ProcessingInstanceType"]
    return ProcessingStep(
        name=name,
        display_name="Prepare data",
        description="Checks the images, drops duplicates, splits by class, and computes the embeddings.",
        step_args=context.processor(SCRIPT, data, instance_type, data.instance_count).run(
            arguments=arguments(context, described),
            inputs=[
                processing_input("data", context.parameters["InputDataUri"]),
                processing_input("weights", context.weights_uri),
                processing_input("code", context.code_uri(SCRIPT)),
                processing_input("annotations", context.annotations_uri),
                processing_input("embedding_cache", embedding_cache),
                processing_input("split_history", split_history),
            ],
            outputs=[
                *(processing_output(each, context.execution_uri("executions", name, each)) for each in OUTPUTS),
                processing_output("embedding_cache", embedding_cache, s3_upload_mode="Continuous"),
                processing_output("split_history", split_history),
            ],
        ),
        cache_config=context.cache(),
        retry_policies=job_retries(),
    )


def arguments(context: Context, described: LambdaStep) -> list[str | PipelineVariable]:
    """Return the command line of the script."""
    config, data = context.config, context.config.data
    size_depends = config.fine_tunes and data.image_size_px is None  # where it does not, what is cached stays valid
    grouping = data.group.arguments() if data.group else []
    return grouping + flags(
        **({"finetune": config.model.finetune} if size_depends else {}),
        data_dir=f"{PROCESSING}/input/data",
        data_version=described.properties.Outputs["data_version"],
        weights_dir=f"{PROCESSING}/input/weights",
        output_dir=f"{PROCESSING}/output",
        annotations=f"{PROCESSING}/input/annotations",
        embedding_cache=f"{PROCESSING}/input/embedding_cache",
        split_history=f"{PROCESSING}/input/split_history",
        resource_config="/opt/ml/config/resourceconfig.json",
        backbone=config.model.backbone,
        image_size=data.image_size_px,
        train_fraction=data.split.train,
        validation_fraction=data.split.validation,
        test_fraction=data.split.test,
        split_seed=data.split_seed,
        keep_splits=data.keep_splits,
        near_duplicates=data.near_duplicates,
        augmented_views=data.augmented_views,
        horizontal_flip=data.horizontal_flip,
        min_images_per_class=data.min_images_per_class,
        max_unreadable_fraction=data.max_unreadable_fraction,
        max_image_megapixels=data.max_image_megapixels,
    )
