"""A home whose SageMaker is asked through a boto3 session, and steps that wait for the test."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from tests.local.lab import ROLE, Json, Lab
from tests.local.samples import definition, processes_of, python_step, wait_until

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Home(Lab):
    """One home, its client, and what ran in it."""

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
        """The steps of flows that ran, in the order of their starts."""
        logs = [self.home / "jobs" / job["ProcessingJobName"] / "log.txt" for job in self.state.all("ProcessingJob")]
        lines = [line for log in logs if log.is_file() for line in log.read_text().splitlines()]
        return [line.removeprefix("ran ") for line in lines if line.startswith("ran ")]

    def flow(self, text: str) -> list[Json]:
        """Steps such as `A | B! < A:Any`: `!` fails, `?` does so until `go`, and `~` waits for it."""
        is_there = f"os.path.exists({str(self.gate)!r})"
        code = {
            "!": "raise SystemExit(1)",
            "?": f"import os, time\ntime.sleep(0.2)\nassert {is_there}",
            "~": f"import os, time\nwhile not {is_there}: time.sleep(0.02)",
        }
        steps = []
        for line in text.split("|"):
            name, _, after = line.strip().partition(" < ")
            pairs = [word.partition(":") for word in after.split()]
            waits: Any = [{"Step": other, "Trigger": trigger} if trigger else other for other, _, trigger in pairs]
            prints = f"print('ran {name.rstrip('!?~')}', flush=True)\n"
            steps.append(python_step(name.rstrip("!?~"), prints + code.get(name[-1], ""), depends_on=waits))
        return steps

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
    wait_until(lambda: not processes_of(tmp_path), seconds=5)  # an ended process has neither arguments nor environment
