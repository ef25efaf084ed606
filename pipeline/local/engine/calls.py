"""Makes the call of a step: its Arguments with every expression resolved, under the name of the job that it becomes."""

import json
import secrets
import string
from datetime import UTC, datetime
from typing import Any

from pipeline.definition.expressions import Scope, resolve
from pipeline.definition.shapes import as_request
from pipeline.definition.step_types import STEP_TYPES
from pipeline.definition.steps import Graph, Step
from pipeline.local.jobs.runtime import StepCall, StepFailure, arn, now
from pipeline.local.store.state import Document
from pipeline.local.store.storage import Storage

NAME_LIMIT, TUNING_NAME_LIMIT = 63, 32  # characters, as SageMaker's service model has them
RANDOM_CHARACTERS, STEP_CHARACTERS = 10, 20


class StepCalls:
    """The calls of one execution's steps; `properties` are those of the steps that have succeeded."""

    def __init__(self, execution: Document, graph: Graph, storage: Storage) -> None:
        self.execution = execution
        self.execution_id = execution["PipelineExecutionArn"].rpartition("/")[2]
        self.graph = graph
        self.storage = storage
        self.properties: dict[str, Document] = {}

    def call(self, step: Step) -> StepCall:
        """The step with its expressions resolved, under a new job name.

        A name in the Arguments is the prefix of the job's (PipelineDefinitionConfig(use_custom_job_prefix=True) of the
        SDK leaves it there); Endpoints and their configurations are named by their users.
        """
        given, step_type = dict(step.definition.get("Arguments") or {}), STEP_TYPES[step.type]
        prefix = self.value(given.pop(step_type.name_member or "", None))
        job_name = new_job_name(self.execution_id, step, prefix)
        arguments = self.value(given, job_name)
        if step_type.creates:  # a Lambda's event keeps its types
            arguments = as_request(step_type.creates, arguments)
        return StepCall(step.name, step.definition, arguments, self.execution_id, job_name)

    def value(self, value: Any, job_name: str | None = None) -> Any:
        """A JSON value with its expressions resolved, here and now."""
        return resolve(value, self.scope(job_name))

    def scope(self, job_name: str | None = None) -> Scope:
        """Where expressions find their values."""
        known = self.execution
        execution = {
            "StartDateTime": timestamp(known["CreationTime"]),
            "CurrentDateTime": timestamp(now()),
            "PipelineName": known["PipelineName"],
            "PipelineArn": known["PipelineArn"],
            "PipelineExecutionId": self.execution_id,
            "PipelineExecutionArn": known["PipelineExecutionArn"],
        }
        if job_name:
            execution |= {"TrainingJobName": job_name, "ProcessingJobName": job_name}
        return Scope(
            parameters=known["Parameters"],
            steps=self.properties,
            execution=execution,
            read_property_file=self.read_property_file,
            read_json=self.read_json,
            experiment=known["Definition"].get("PipelineExperimentConfig") or {},
        )

    def read_property_file(self, step_name: str, property_file: str) -> Any:
        """A property file of a step, from where the step's output was uploaded."""
        declared = self.graph.steps[step_name].definition.get("PropertyFiles", [])
        file = next(item for item in declared if item["PropertyFileName"] == property_file)
        outputs = self.properties[step_name]["ProcessingOutputConfig"]["Outputs"]
        uri = next(o["S3Output"]["S3Uri"] for o in outputs if o["OutputName"] == file["OutputName"])
        return self.read_json(f"{uri.rstrip('/')}/{file['FilePath']}")

    def read_json(self, uri: str) -> Any:
        """Return a JSON object of the storage; StepFailure if it is not JSON."""
        try:
            return json.loads(self.storage.read(uri))
        except (ValueError, RecursionError) as problem:
            raise StepFailure(f"{uri} is not JSON that can be read: {problem}") from problem


def new_job_name(execution_id: str, step: Step, prefix: str | None = None) -> str:
    """A job's name: pipelines-<execution>-<step>-<random>, or <prefix>-<execution>-<random>, as long as it may be.

    A search's is <execution>-<step>-<random> or <prefix>-<random>, for it has half the room.
    """
    random = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(RANDOM_CHARACTERS))
    is_search = step.type == "Tuning"
    if prefix:
        beginning, end = str(prefix), random if is_search else f"{execution_id}-{random}"
    else:
        name = step.name.replace("_", "-")[:STEP_CHARACTERS]
        beginning, end = f"{'' if is_search else 'pipelines-'}{execution_id}-{name}", random
    limit = TUNING_NAME_LIMIT if is_search else NAME_LIMIT
    return f"{beginning[: limit - len(end) - 1].strip('-')}-{end}"


def job_metadata(step_type: str, job_name: str) -> Document:
    """The Metadata of a step whose job has been started."""
    known = STEP_TYPES[step_type]
    if known.job_kind is None or known.metadata is None:
        return {}
    return {known.metadata: {"Arn": arn(str(known.arn_kind), job_name)}}


def timestamp(seconds: float) -> str:
    """ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
