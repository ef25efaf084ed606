"""The stock SageMaker SDK on a local session, in this process, since importing it takes seconds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import WaiterError

from pipeline.local import session

ROLE = "arn:aws:iam::000000000000:role/any"
FOREIGN = {  # a shell that is set up for AWS, in another region, behind a proxy that does not exist
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_SECRET_ACCESS_KEY": "real",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}


@dataclass
class Sdk:
    """A PipelineSession, a folder, and what comes of a pipeline."""

    folder: Path
    aws: Any
    session: Any

    def run(self, pipeline: Any, **request: Any) -> "Outcome":
        """Start a pipeline and wait."""
        execution = pipeline.start(**request)
        try:
            execution.wait(delay=0.5, max_attempts=400)
        except WaiterError as problem:
            assert "terminal failure" in str(problem), problem
        return Outcome(self, pipeline, execution, {step["StepName"]: step for step in execution.list_steps()})

    def read(self, uri: str) -> str:
        """An object's text."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()


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
        return {name: step.get("FailureReason") or step["StepStatus"] for name, step in self.steps.items()}

    def job(self, step: str) -> Any:
        """The description of what a step made."""
        ((kind, found),) = self.steps[step]["Metadata"].items()
        name, client = found["Arn"].rpartition("/")[2], self.sdk.aws.client("sagemaker")
        describe, member = {
            "ProcessingJob": (client.describe_processing_job, "ProcessingJobName"),
            "TrainingJob": (client.describe_training_job, "TrainingJobName"),
            "TuningJob": (client.describe_hyper_parameter_tuning_job, "HyperParameterTuningJobName"),
            "Model": (client.describe_model, "ModelName"),
            "RegisterModel": (client.describe_model_package, "ModelPackageName"),
        }[kind]
        return describe(**{member: found["Arn"] if kind == "RegisterModel" else name})

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

        aws = session(folder / "home")
        yield Sdk(folder, aws, PipelineSession(boto_session=aws))
