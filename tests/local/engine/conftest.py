"""A home whose SageMaker is asked through a boto3 session, and a definition that waits for the test."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.local.samples import definition, processes_of, python_step, wait_until

Json = dict[str, Any]


@dataclass
class Home:
    """One home, its clients, and what ran in it: steps of `noting` print their names."""

    folder: Path
    gate: Path  # what jobs can see and not write to: neither below /tmp nor in the home
    forgotten: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "home"

    @cached_property
    def sagemaker(self) -> Any:
        return local_session(State(self.path)).client("sagemaker")

    @property
    def ran(self) -> list[str]:
        """The steps that ran since the last `forget`, in the order of their starts."""
        jobs = State(self.path, create=False).all("ProcessingJob")
        logs = [self.path / "jobs" / job["ProcessingJobName"] / "log.txt" for job in jobs]
        lines = [line for log in logs if log.is_file() for line in log.read_text().splitlines()]
        return [line.removeprefix("ran ") for line in lines if line.startswith("ran ")][self.forgotten :]

    def forget(self) -> None:
        self.forgotten += len(self.ran)

    def noting(self, name: str, then: str = "", **members: Any) -> Json:
        """A step that notes that it runs, and then does something."""
        return python_step(name, f"print('ran {name}', flush=True)\n{then}", **members)

    def waiting(self, name: str, **members: Any) -> Json:
        """A step that runs until `go`."""
        wait = f"import os, time\nwhile not os.path.exists({str(self.gate)!r}): time.sleep(0.02)"
        return self.noting(name, wait, **members)

    @property
    def failing_until_go(self) -> str:
        """What a step does that succeeds once the test says so."""
        return f"import os\nassert os.path.exists({str(self.gate)!r})"

    def go(self) -> None:
        self.gate.touch()

    def put(self, *steps: Json, name: str = "pipe", **members: Any) -> None:
        """Create the pipeline, or change it."""
        known = [found["PipelineName"] for found in self.sagemaker.list_pipelines()["PipelineSummaries"]]
        operation = self.sagemaker.update_pipeline if name in known else self.sagemaker.create_pipeline
        text = json.dumps(definition(*steps, **members))
        operation(PipelineName=name, PipelineDefinition=text, RoleArn="arn:aws:iam::000000000000:role/any")

    def start(self, name: str = "pipe", **request: Any) -> str:
        """Start an execution; its ARN."""
        return str(self.sagemaker.start_pipeline_execution(PipelineName=name, **request)["PipelineExecutionArn"])

    def select(self, source: str | None, *steps: str) -> str:
        """Start a selective execution; its ARN."""
        config: Json = {"SelectedSteps": [{"StepName": step} for step in steps]}
        config |= {"SourcePipelineExecutionArn": source} if source else {}
        return self.start(SelectiveExecutionConfig=config)

    def described(self, arn: str) -> Json:
        found: Json = self.sagemaker.describe_pipeline_execution(PipelineExecutionArn=arn)
        return found

    def status(self, arn: str) -> str:
        return str(self.described(arn)["PipelineExecutionStatus"])

    def ended(self, arn: str) -> str:
        """Its status, once it has ended."""
        wait_until(lambda: self.status(arn) not in ("Executing", "Stopping"))
        return self.status(arn)

    def retry(self, arn: str, **request: Any) -> str:
        """Retry an execution; its status once it has ended."""
        self.sagemaker.retry_pipeline_execution(PipelineExecutionArn=arn, **request)
        return self.ended(arn)

    def steps(self, arn: str) -> dict[str, Json]:
        """Step name -> what ListPipelineExecutionSteps says of it."""
        answer = self.sagemaker.list_pipeline_execution_steps(PipelineExecutionArn=arn, SortOrder="Ascending")
        return {step["StepName"]: step for step in answer["PipelineExecutionSteps"]}

    def statuses(self, arn: str) -> dict[str, str]:
        return {name: step["StepStatus"] for name, step in self.steps(arn).items()}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home; whatever a test did, nothing of it runs afterwards."""
    gate = Path("/var/tmp", f"{tmp_path.name}-{secrets.token_hex(8)}")
    yield Home(tmp_path, gate)
    gate.unlink(missing_ok=True)
    wait_until(lambda: not [pid for pid in processes_of(tmp_path) if not is_zombie(pid)], seconds=5)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and is only waited for."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
