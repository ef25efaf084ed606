"""The pipeline, as a table of contents: configuration in, definition JSON out.

PrepareData -> TuneHyperparameters -> TrainWithDebugger -> EvaluateModel -> CheckAccuracy
                                                     true: RegisterModel -> DeployEndpoint
                                                     false: AccuracyTooLow
Compiling is pure: no network, no credentials, no upload, no time. The same configuration gives the same bytes.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from pipeline.compile.placement import Placement
from pipeline.config.config import Config

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # the SDK looks for a region while it is imported

import boto3
from sagemaker.core.config.config_manager import SageMakerConfig
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.mlops.workflow.pipeline import Pipeline

from pipeline.compile.condition import check_accuracy_step
from pipeline.compile.context import Context
from pipeline.compile.deployment import deploy_step
from pipeline.compile.evaluation import evaluate_step
from pipeline.compile.offline import offline
from pipeline.compile.parameters import declare
from pipeline.compile.preparation import prepare_data_step
from pipeline.compile.registration import register_step
from pipeline.compile.training import train_step
from pipeline.compile.tuning import tune_step


def build(
    config: Config,
    placement: Placement,
    *,
    input_data_uri: str,
    weights_uri: str,
    annotations_uri: str,
    commit: str | None = None,
    warm_start_parent: str | None = None,
) -> Pipeline:
    """The eight steps, wired; `commit` is noted on the registered version, the search begins with its parent's."""
    context = Context(
        config=config,
        placement=placement,
        parameters=declare(config, input_data_uri, warm_start_parent),
        session=OfflineSession(placement),
        weights_uri=weights_uri,
        annotations_uri=annotations_uri,
        commit=commit,
    )
    prepare = prepare_data_step(context)
    tune = tune_step(context, prepare)
    train = train_step(context, prepare, tune)
    evaluate = evaluate_step(context, prepare, train)
    register = register_step(context, train, evaluate)
    deploy = deploy_step(context, register)
    check = check_accuracy_step(context, train, evaluate, if_steps=[register, deploy])
    return Pipeline(
        name=config.pipeline.name,
        parameters=context.parameters.all(),
        pipeline_experiment_config=None,
        steps=[prepare, tune, train, evaluate, check],
        sagemaker_session=context.session,
    )


def compile_definition(
    config: Config,
    placement: Placement,
    *,
    input_data_uri: str,
    weights_uri: str,
    annotations_uri: str,
    commit: str | None = None,
    warm_start_parent: str | None = None,
) -> str:
    """The definition JSON of the pipeline."""
    uris = {"input_data_uri": input_data_uri, "weights_uri": weights_uri, "annotations_uri": annotations_uri}
    with quiet(), offline(), settings_checked_once():
        pipeline = build(config, placement, **uris, commit=commit, warm_start_parent=warm_start_parent)
        return str(pipeline.definition())


class OfflineSession(PipelineSession):  # type: ignore[misc]
    """A session that never speaks to AWS: made-up credentials, no telemetry, no defaults from the user's machine."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(
            boto_session=boto3.Session(
                aws_access_key_id="offline", aws_secret_access_key="offline", region_name=placement.region
            ),
            default_bucket=placement.bucket,
            sagemaker_config={
                "SchemaVersion": "1.0",
                "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}},
            },
        )

    def default_bucket(self) -> str:
        """The bucket, without asking S3 whether it exists."""
        return str(self._default_bucket_name_override)


@contextlib.contextmanager
def settings_checked_once() -> Iterator[None]:
    """The SDK compares the session's settings with a large schema for each of its defaults: nine tenths of the time."""
    check = SageMakerConfig.__dict__["validate_sagemaker_config"]
    SageMakerConfig.validate_sagemaker_config = staticmethod(lambda settings=None: None)
    try:
        yield
    finally:
        SageMakerConfig.validate_sagemaker_config = check


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The SDK's log lines and warnings say nothing about the user's pipeline."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
            logging.getLogger().setLevel(logging.WARNING)  # the SDK lowers it to INFO for every library
