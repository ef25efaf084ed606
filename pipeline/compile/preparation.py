"""Builds PrepareData: check, de-duplicate, split by class, decode once, embed once, stage to S3."""

from sagemaker.core.processing import Processor
from sagemaker.mlops.workflow.steps import ProcessingStep

from pipeline.compile.bundle import prepare_bundle
from pipeline.compile.carried_over import carried_over_uris
from pipeline.compile.context import PROCESSING, Context, flags, processing_input, processing_output

OUTPUTS = ("train", "validation", "test", "embeddings", "manifest")
RESOURCE_CONFIG = "/opt/ml/config/resourceconfig.json"


def prepare_data_step(context: Context) -> ProcessingStep:
    """The first step; its outputs are named as the directories that steps/prepare.py writes."""
    data = context.config.data
    processor = Processor(
        role=context.placement.role_arn,
        image_uri=context.placement.training_image,
        entrypoint=["python3", f"{PROCESSING}/input/code/{prepare_bundle().entry_point}"],
        instance_count=data.instance_count,
        instance_type=context.parameters.processing_instance_type,
        volume_size_in_gb=data.volume_size_gb,
        max_runtime_in_seconds=data.max_runtime_seconds,
        sagemaker_session=context.session,
        network_config=context.network(),
        volume_kms_key=context.volume_key(data.instance_type),
        output_kms_key=context.output_key(),
    )
    carried_over = carried_over_uris(context.config, context.placement)
    return ProcessingStep(
        name="PrepareData",
        display_name="Prepare data",
        description="Checks the images, drops duplicates, splits by class, and computes the embeddings.",
        step_args=processor.run(
            arguments=arguments(context),
            inputs=[
                processing_input("data", context.parameters.input_data_uri),
                processing_input("weights", context.weights_uri),
                processing_input("code", context.code_uri(prepare_bundle(), "source")),
                processing_input("annotations", context.annotations_uri),
                *(processing_input(name, uri) for name, uri in carried_over.items()),
            ],
            outputs=[
                *(processing_output(name, context.output_uri("PrepareData", name)) for name in OUTPUTS),
                processing_output("embedding_cache", carried_over["embedding_cache"], s3_upload_mode="Continuous"),
                processing_output("split_history", carried_over["split_history"]),
            ],
        ),
        cache_config=context.cache(),
        retry_policies=context.job_retries(),
    )


def arguments(context: Context) -> list[str]:
    """The command line of steps/prepare.py."""
    config, data = context.config, context.config.data
    size_depends = config.fine_tunes and data.image_size_px is None  # where it does not, what is cached stays valid
    grouping = data.group.arguments() if data.group else []
    return grouping + flags(
        **({"finetune": config.model.finetune} if size_depends else {}),
        data_dir=f"{PROCESSING}/input/data",
        weights_dir=f"{PROCESSING}/input/weights",
        output_dir=f"{PROCESSING}/output",
        annotations=f"{PROCESSING}/input/annotations",
        embedding_cache=f"{PROCESSING}/input/embedding_cache",
        split_history=f"{PROCESSING}/input/split_history",
        resource_config=RESOURCE_CONFIG,
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
