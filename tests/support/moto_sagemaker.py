"""Operations of SageMaker that moto lacks."""

import json
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult, EmptyResult
from moto.sagemaker.models import sagemaker_backends


def delete_model_package(self: Any) -> Any:
    """DeleteModelPackage by ARN."""
    backend = self.sagemaker_backend
    arn = self._get_param("ModelPackageName")
    backend.model_packages.pop(arn.rpartition("model-package/")[2] if arn not in backend.model_packages else arn)
    for name, known in list(backend.model_package_name_mapping.items()):
        if known == arn:
            del backend.model_package_name_mapping[name]
    return EmptyResult()


def delete_model_package_group(self: Any) -> Any:
    """DeleteModelPackageGroup, refused while it holds versions."""
    backend, name = self.sagemaker_backend, self._get_param("ModelPackageGroupName")
    if any(package.model_package_group_name == name for package in backend.model_packages.values()):
        raise JsonRESTError("ConflictException", f"Model Package Group {name} cannot be deleted while it has versions.")
    backend.model_package_groups.pop(name)
    return EmptyResult()


def put_model_package_group_policy(self: Any) -> Any:
    """PutModelPackageGroupPolicy."""
    group = self.sagemaker_backend.model_package_groups[self._get_param("ModelPackageGroupName")]
    group.resource_policy = self._get_param("ResourcePolicy")
    return ActionResult({"ModelPackageGroupArn": group.arn})


def get_model_package_group_policy(self: Any) -> Any:
    """GetModelPackageGroupPolicy, an error while there is none."""
    name = self._get_param("ModelPackageGroupName")
    policy = getattr(self.sagemaker_backend.model_package_groups[name], "resource_policy", None)
    if policy is None:
        raise JsonRESTError("ValidationException", f"Cannot find resource policy for: {name}")
    return ActionResult({"ResourcePolicy": policy})


def delete_model_package_group_policy(self: Any) -> Any:
    """DeleteModelPackageGroupPolicy."""
    self.sagemaker_backend.model_package_groups[self._get_param("ModelPackageGroupName")].resource_policy = None
    return EmptyResult()


def list_pipeline_execution_steps(self: Any) -> Any:
    """moto runs nothing; a test may set `steps_of_executions` on the backend."""
    steps = getattr(self.sagemaker_backend, "steps_of_executions", {})
    return ActionResult({"PipelineExecutionSteps": steps.get(self._get_param("PipelineExecutionArn"), [])})


def stop_pipeline_execution(self: Any) -> Any:
    """Stops at once."""
    arn = self._get_param("PipelineExecutionArn")
    for pipeline in self.sagemaker_backend.pipelines.values():
        if arn in pipeline.pipeline_executions:
            pipeline.pipeline_executions[arn].pipeline_execution_status = "Stopped"
    return ActionResult({"PipelineExecutionArn": arn})


def update_endpoint(self: Any) -> Any:
    """At once, as moto creates endpoints."""
    backend = self.sagemaker_backend
    name, config_name = self._get_param("EndpointName"), self._get_param("EndpointConfigName")
    old = backend.endpoints[name]
    new = backend.create_endpoint(name, config_name, old.tags)
    new.creation_time = old.creation_time
    return ActionResult({"EndpointArn": new.arn})


def delete_training_job(self: Any) -> Any:
    self.sagemaker_backend.training_jobs.pop(self._get_param("TrainingJobName"), None)
    return EmptyResult()


def delete_processing_job(self: Any) -> Any:
    self.sagemaker_backend.processing_jobs.pop(self._get_param("ProcessingJobName"), None)
    return EmptyResult()


def list_training_jobs_for_hyper_parameter_tuning_job(self: Any) -> Any:
    """A search's trials: the training jobs whose names begin with its name."""
    name = self._get_param("HyperParameterTuningJobName")
    summaries = [
        {
            "TrainingJobName": job.training_job_name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.creation_time,
            "TrainingJobStatus": job.training_job_status,
            "TunedHyperParameters": {},
        }
        for job in self.sagemaker_backend.training_jobs.values()
        if job.training_job_name.startswith(f"{name}-")
    ]
    return ActionResult({"TrainingJobSummaries": summaries})


def invoke_endpoint(self: Any) -> Any:
    """Says how many bytes an endpoint that there is was sent: moto serves no model, and takes text only."""
    name = self.parsed_url.path.split("/")[2]
    if name not in sagemaker_backends[self.current_account][self.region].endpoints:
        message = f"Endpoint {name} of account {self.current_account} not found."
        return 400, {"x-amzn-ErrorType": "ValidationError"}, json.dumps({"Message": message})
    return 200, {"Content-Type": "application/json"}, json.dumps({"bytes": len(self.body)})


SAGEMAKER = (
    delete_model_package,
    delete_model_package_group,
    put_model_package_group_policy,
    get_model_package_group_policy,
    delete_model_package_group_policy,
    list_pipeline_execution_steps,
    stop_pipeline_execution,
    delete_training_job,
    delete_processing_job,
    list_training_jobs_for_hyper_parameter_tuning_job,
    update_endpoint,
)
