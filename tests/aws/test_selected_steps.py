"""`--from` and `--only` on AWS: a StartPipelineExecution on the newest execution that has what the steps need."""

import json
from types import SimpleNamespace
from typing import Any

import moto_bridge
import pytest

from pipeline.cli.runs import Start, selection
from pipeline.errors import UsageError
from pipeline.service import executions

NAME = "image-classification"
READS = {"Environment": {"A": {"Get": "Steps.First.ProcessingJobName"}}}
STEPS = [
    {"Name": "First", "Type": "Processing", "Arguments": {}},
    {"Name": "Second", "Type": "Processing", "Arguments": READS},
    {"Name": "Third", "Type": "Processing", "Arguments": {}, "DependsOn": ["Second"]},
]


@pytest.fixture
def target(client: Any) -> Any:
    """AWS with a pipeline, and what is asked of it."""
    sagemaker, asked = client("sagemaker"), []
    text = json.dumps({"Version": "2020-12-01", "Parameters": [], "Steps": STEPS})
    sagemaker.create_pipeline(
        PipelineName=NAME, PipelineDefinition=text, RoleArn="arn:aws:iam::123456789012:role/p",
        ClientRequestToken="x" * 32,
    )  # fmt: skip
    event = "before-parameter-build.sagemaker.StartPipelineExecution"
    sagemaker.meta.events.register(event, lambda params, **rest: asked.append(dict(params)))
    return SimpleNamespace(name="aws", client=lambda service: sagemaker, text=text, asked=asked)


def execution(target: Any, **statuses: str) -> str:
    """An execution whose steps ended so."""
    arn = str(target.client("sagemaker").start_pipeline_execution(PipelineName=NAME)["PipelineExecutionArn"])
    backend = moto_bridge.backends()["123456789012"]["us-east-1"]
    known = getattr(backend, "steps_of_executions", {})
    steps = [{"StepName": name, "StepStatus": status} for name, status in statuses.items()]
    backend.steps_of_executions = {**known, arn: steps}
    return arn


def test_the_source_is_the_newest_execution_that_has_what_is_needed(target: Any) -> None:
    arguments = Start(from_step="Second")
    with pytest.raises(UsageError, match="has what the chosen steps read, the values of First; run the whole pipeline"):
        selection(arguments, target, NAME, target.text)
    source = execution(target, First="Succeeded", Second="Failed")
    execution(target, First="Failed")
    config = selection(arguments, target, NAME, target.text)
    executions.start(target, NAME, {}, config)
    assert target.asked[-1]["SelectiveExecutionConfig"] == {
        "SourcePipelineExecutionArn": source,
        "SelectedSteps": [{"StepName": "Second"}, {"StepName": "Third"}],
    }
    executions.start(target, NAME, {}, selection(Start(only="Third"), target, NAME, target.text))
    assert target.asked[-1]["SelectiveExecutionConfig"] == {"SelectedSteps": [{"StepName": "Third"}]}
    executions.start(target, NAME, {}, selection(Start(), target, NAME, target.text))
    assert "SelectiveExecutionConfig" not in target.asked[-1]
