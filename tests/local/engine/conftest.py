"""A home whose SageMaker is asked through a boto3 session, and steps that wait for the test."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.local.lab import ROLE, Lab
from tests.local.samples import definition, processes_of, python_step, wait_until

Json = dict[str, Any]


@dataclass(frozen=True)
class Home(Lab):
    """One home, its client, and what ran in it: steps of `noting` print their names."""

    # What jobs can see and not write to: neither below /tmp nor in the home.
    gate: Path = field(default_factory=lambda: Path("/var/tmp", secrets.token_hex(12)))

    @cached_property
    def sagemaker(self) -> Any:
        return local_session(self.state).client("sagemaker")

    @property
    def state(self) -> State:
        return State(self.home)

    @property
    def ran(self) -> list[str]:
        """The steps that ran, in the order of their starts."""
        logs = [self.home / "jobs" / job["ProcessingJobName"] / "log.txt" for job in self.state.all("ProcessingJob")]
        lines = [line for log in logs if log.is_file() for line in log.read_text().splitlines()]
        return [line.removeprefix("ran ") for line in lines if line.startswith("ran ")]

    def noting(self, name: str, then: str = "", after: str = "", **members: Any) -> Json:
        """A step that notes that it runs and then does something; `after` are names, or names:triggers."""
        pairs = [word.partition(":") for word in after.split()]
        waits = [{"Step": other, "Trigger": trigger} if trigger else other for other, _, trigger in pairs]
        return python_step(name, f"print('ran {name}', flush=True)\n{then}", depends_on=waits, **members)

    def flow(self, text: str) -> list[Json]:
        """Steps such as `A | B! < A:Any`: `!` fails, `?` does so until `go`, and `~` waits for it."""
        code = {"!": "raise SystemExit(1)", "?": self.failing_until_go, "~": self.until_go}
        lines = [line.strip().partition(" < ") for line in text.split("|")]
        return [self.noting(name.rstrip("!?~"), code.get(name[-1], ""), after) for name, _, after in lines]

    @property
    def until_go(self) -> str:
        return f"import os, time\nwhile not os.path.exists({str(self.gate)!r}): time.sleep(0.02)"

    @property
    def failing_until_go(self) -> str:
        return f"import os, time\ntime.sleep(0.2)\nassert os.path.exists({str(self.gate)!r})"

    def go(self) -> None:
        self.gate.touch()

    def define(self, *steps: Json, name: str = "pipe", **members: Any) -> None:
        """Create the pipeline, or change it."""
        known = [found["PipelineName"] for found in self.sagemaker.list_pipelines()["PipelineSummaries"]]
        operation = self.sagemaker.update_pipeline if name in known else self.sagemaker.create_pipeline
        operation(PipelineName=name, PipelineDefinition=json.dumps(definition(*steps, **members)), RoleArn=ROLE)

    def start(self, name: str = "pipe", **request: Any) -> str:
        """Start an execution; its ARN."""
        return str(self.sagemaker.start_pipeline_execution(PipelineName=name, **request)["PipelineExecutionArn"])

    def stop(self, arn: str, **request: Any) -> None:
        self.sagemaker.stop_pipeline_execution(PipelineExecutionArn=arn, **request)

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
    home = Home(tmp_path)
    yield home
    home.gate.unlink(missing_ok=True)
    wait_until(lambda: not [pid for pid in processes_of(tmp_path) if not is_zombie(pid)], seconds=5)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and is only waited for."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
