"""The stock SageMaker SDK on a local session, in this process, since importing it takes seconds."""

import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import WaiterError

ROLE = "arn:aws:iam::000000000000:role/any"
IMAGE = "000000000000.dkr.ecr.us-east-1.amazonaws.com/any:1"
FOREIGN = {  # a shell that is set up for AWS, in another region, behind a proxy that does not exist
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_SECRET_ACCESS_KEY": "real",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}


@dataclass
class Sdk:
    """A PipelineSession, a folder for scripts, and what comes of a pipeline."""

    folder: Path
    aws: Any
    session: Any

    def script(self, name: str, code: str) -> str:
        """A file of the user's; its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(code).lstrip("\n"))
        return str(path)

    def processor(self) -> Any:
        """A ScriptProcessor."""
        from sagemaker.core.processing import ScriptProcessor

        return ScriptProcessor(
            role=ROLE,
            image_uri=IMAGE,
            command=["python3"],
            instance_count=1,
            instance_type="ml.m5.large",
            sagemaker_session=self.session,
        )

    def run(self, name: str, steps: list[Any], parameters: Any = (), **values: Any) -> "Outcome":
        """Upsert a pipeline, start it with these parameters' values and wait."""
        from sagemaker.mlops.workflow.pipeline import Pipeline

        pipeline = Pipeline(name=name, parameters=list(parameters), steps=steps, sagemaker_session=self.session)
        pipeline.upsert(role_arn=ROLE)
        return self.start(pipeline, **values)

    def start(self, pipeline: Any, **values: Any) -> "Outcome":
        """Start a pipeline and wait."""
        execution = pipeline.start(parameters=values)
        try:
            execution.wait(delay=0.5, max_attempts=120)
        except WaiterError as problem:
            if "terminal failure" not in str(problem):
                raise
        return Outcome(self, pipeline, execution, {step["StepName"]: step for step in execution.list_steps()})

    def read(self, uri: str) -> str:
        """An object's text."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        content: bytes = self.aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return content.decode()


@dataclass
class Outcome:
    """An execution that has ended."""

    sdk: Sdk
    pipeline: Any
    execution: Any
    steps: dict[str, Any]

    @property
    def statuses(self) -> dict[str, str]:
        """Step name -> status, with the reason of a failure."""
        return {name: step.get("FailureReason") or step["StepStatus"] for name, step in sorted(self.steps.items())}

    def job(self, step: str) -> Any:
        """The description of a step's job."""
        ((kind, found),) = self.steps[step]["Metadata"].items()
        name = found["Arn"].rpartition("/")[2]
        client = self.sdk.aws.client("sagemaker")
        describe: dict[str, Callable[[], Any]] = {
            "ProcessingJob": lambda: client.describe_processing_job(ProcessingJobName=name),
            "TrainingJob": lambda: client.describe_training_job(TrainingJobName=name),
            "TuningJob": lambda: client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name),
            "TransformJob": lambda: client.describe_transform_job(TransformJobName=name),
            "RegisterModel": lambda: client.describe_model_package(ModelPackageName=found["Arn"]),
        }
        return describe[kind]()

    def output(self, step: str, file: str) -> str:
        """A file of a Processing step's first output."""
        uri = self.job(step)["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]
        return self.sdk.read(f"{uri}/{file}")


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory, can_mount: bool) -> Iterator[Sdk]:
    if not can_mount:
        pytest.skip("this machine does not let jobs mount an /opt/ml of their own")
    folder = tmp_path_factory.mktemp("sdk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith(("AWS_", "SAGEMAKER_"))]:
            patch.delenv(name)
        for name, value in {**FOREIGN, "HOME": str(folder)}.items():
            patch.setenv(name, value)
        patch.setenv("SAGEMAKER_ADMIN_CONFIG_OVERRIDE", "")  # so that what session() sets goes away again
        patch.delenv("SAGEMAKER_ADMIN_CONFIG_OVERRIDE")
        from sagemaker.core.workflow.pipeline_context import PipelineSession

        from pipeline.local import session

        aws = session(folder / "home")
        yield Sdk(folder, aws, PipelineSession(boto_session=aws))


def output(name: str, path: str) -> Any:
    """A ProcessingOutput below the session's own bucket."""
    from sagemaker.core.shapes import ProcessingOutput, ProcessingS3Output
    from sagemaker.core.workflow.execution_variables import ExecutionVariables
    from sagemaker.core.workflow.functions import Join

    uri = Join(on="/", values=["s3:/", "results", ExecutionVariables.PIPELINE_EXECUTION_ID, name])
    return ProcessingOutput(
        output_name=name, s3_output=ProcessingS3Output(s3_uri=uri, local_path=path, s3_upload_mode="EndOfJob")
    )


def processing_input(name: str, uri: Any, path: str) -> Any:
    """A ProcessingInput."""
    from sagemaker.core.shapes import ProcessingInput, ProcessingS3Input

    s3 = ProcessingS3Input(s3_uri=uri, local_path=path, s3_data_type="S3Prefix", s3_input_mode="File")
    return ProcessingInput(input_name=name, s3_input=s3)
