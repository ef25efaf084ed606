"""What moto lacks of the services that the product uses, added to moto; the product knows nothing of it.

`install()` changes moto in this process. `python tests/support/moto_bridge.py PORT` serves moto with it, for command
lines that reach it through AWS_ENDPOINT_URL.

CloudFormation: resource types (alarm, schedule, subscription, policies), conditions that turn true or false with an
update, the outputs of a stack made by a change set, what a change set would change when parameters do, the rollback of
a failed change set with its reason in the events, a bucket's versioning, and a role's policies as JSON.
SageMaker: updating endpoints, stopping executions, deleting model packages, groups and job records, a search's trials,
and the steps of an execution, which are none unless a test sets them. SageMaker Runtime: requests that are no text.
"""

import copy
import functools
import json
import sys
from collections.abc import Callable
from typing import Any

from moto.awslambda.utils import get_backend as lambda_backend
from moto.cloudformation import models as cloudformation
from moto.cloudformation import parsing
from moto.cloudwatch.models import cloudwatch_backends
from moto.core.common_models import CloudFormationModel
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult, EmptyResult
from moto.iam.models import Role
from moto.s3.models import FakeBucket, s3_backends
from moto.sagemaker.models import sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from moto.scheduler.models import scheduler_backends
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends


class Made:
    """A resource of a bridged type: its physical id, how it is removed, and its attributes."""

    make: Callable[[dict[str, Any], str, str, str], "Parts"]

    def __init__(self, parts: "Parts") -> None:
        self.physical_resource_id, self.remove, self.attributes = parts

    def is_created(self) -> bool:
        return True

    def get_cfn_attribute(self, name: str) -> str:
        return self.attributes[name]

    def delete(self, account_id: str, region: str) -> None:
        self.remove()

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str, **kwargs: Any
    ) -> "Made":
        return cls(cls.make(cloudformation_json["Properties"], account_id, region_name, resource_name))

    @classmethod
    def update_from_cloudformation_json(
        cls,
        original_resource: "Made",
        new_resource_name: str,
        cloudformation_json: Any,
        account_id: str,
        region_name: str,
    ) -> "Made":
        original_resource.remove()
        return cls.create_from_cloudformation_json(new_resource_name, cloudformation_json, account_id, region_name)


Parts = tuple[str, Callable[[], Any], dict[str, str]]


def make_alarm(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::CloudWatch::Alarm."""
    backend = cloudwatch_backends[account][region]
    alarm = backend.put_metric_alarm(
        name=properties["AlarmName"],
        namespace=properties["Namespace"],
        metric_name=properties["MetricName"],
        comparison_operator=properties["ComparisonOperator"],
        evaluation_periods=int(properties["EvaluationPeriods"]),
        period=int(properties["Period"]),
        threshold=float(properties["Threshold"]),
        statistic=properties.get("Statistic"),
        extended_statistic=properties.get("ExtendedStatistic"),
        description=properties["AlarmDescription"],
        dimensions=properties["Dimensions"],
        alarm_actions=properties["AlarmActions"],
        treat_missing_data=properties["TreatMissingData"],
    )
    return alarm.name, lambda: backend.delete_alarms([alarm.name]), {"Arn": alarm.alarm_arn}


def make_schedule(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::Scheduler::Schedule."""
    backend = scheduler_backends[account][region]
    schedule = backend.create_schedule(
        description=properties["Description"],
        end_date=None,
        flexible_time_window=properties["FlexibleTimeWindow"],
        group_name=None,
        kms_key_arn=None,
        name=properties["Name"],
        schedule_expression=properties["ScheduleExpression"],
        schedule_expression_timezone=properties["ScheduleExpressionTimezone"],
        start_date=None,
        state=properties["State"],
        target=properties["Target"],
        action_after_completion=None,
    )
    group = backend.get_schedule_group(None)
    return schedule.name, lambda: group.schedules.pop(schedule.name, None), {"Arn": schedule.arn}


def make_subscription(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SNS::Subscription."""
    backend = sns_backends[account][region]
    made = backend.subscribe(properties["TopicArn"], properties["Endpoint"], properties["Protocol"])
    return made.arn, lambda: backend.unsubscribe(made.arn), {}


def make_topic_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SNS::TopicPolicy."""
    for arn in properties["Topics"]:
        sns_backends[account][region].get_topic(arn).policy = json.dumps(properties["PolicyDocument"])
    return name, lambda: None, {}


def make_queue_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::SQS::QueuePolicy."""
    for url in properties["Queues"]:
        queue = sqs_backends[account][region].get_queue(url.rpartition("/")[2])
        queue.policy = json.dumps(properties["PolicyDocument"])
    return name, lambda: None, {}


def make_bucket_policy(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::S3::BucketPolicy; only what has no condition, as moto enforces policies and reads no conditions."""
    backend, bucket = s3_backends[account]["aws"], properties["Bucket"]
    statements = [item for item in properties["PolicyDocument"]["Statement"] if "Condition" not in item]
    if statements:
        backend.put_bucket_policy(bucket, json.dumps({"Statement": statements}).encode())
    return bucket, lambda: None, {}


def make_event_invoke_config(properties: dict[str, Any], account: str, region: str, name: str) -> Parts:
    """AWS::Lambda::EventInvokeConfig."""
    backend, function = lambda_backend(account, region), properties["FunctionName"]
    backend.put_function_event_invoke_config(function, dict(properties))
    return name, lambda: None, {}


TYPES = {
    "AWS::CloudWatch::Alarm": make_alarm,
    "AWS::Lambda::EventInvokeConfig": make_event_invoke_config,
    "AWS::S3::BucketPolicy": make_bucket_policy,
    "AWS::SNS::Subscription": make_subscription,
    "AWS::SNS::TopicPolicy": make_topic_policy,
    "AWS::SQS::QueuePolicy": make_queue_policy,
    "AWS::Scheduler::Schedule": make_schedule,
}


def resource_class(type_name: str, make: Callable[..., Parts]) -> type:
    """A class that moto finds among the direct subclasses of its model; it reads a service from the module's name."""
    members = {
        "__module__": "moto.bridge",
        "make": staticmethod(make),
        "cloudformation_type": staticmethod(lambda: type_name),
    }
    return type(CloudFormationModel)(type_name.replace("::", ""), (Made, CloudFormationModel), members)


# ---- CloudFormation itself


parsed_once = functools.lru_cache(maxsize=8)(cloudformation.Stack.parse_template)


def parse_template(template: str) -> dict[str, Any]:
    """moto parses a template several times a request, in Python."""
    return copy.deepcopy(parsed_once(template))


def parse_own_template(change_set: Any) -> None:
    """The same for a change set."""
    change_set.template_dict = parse_template(change_set.template)


def conditions_of(change_set: Any) -> dict[str, bool]:
    """The template's conditions under the change set's parameters."""
    stack = change_set.stack
    resource_map = parsing.ResourceMap(
        stack.stack_id,
        stack.name,
        change_set.parameters,
        {},
        region_name=stack.region_name,
        account_id=stack.account_id,
        template=change_set.template_dict,
        cross_stack_resources={},
    )
    resource_map.load()
    return {name: resource_map.lazy_condition_map[name] for name in resource_map.lazy_condition_map}


def wanted_resources(change_set: Any) -> set[str]:
    """The resources whose condition holds."""
    conditions = conditions_of(change_set)
    resources = change_set.template_dict["Resources"]
    return {name for name, resource in resources.items() if conditions.get(resource.get("Condition"), True)}


def present_resources(resource_map: Any) -> set[str]:
    """The resources that have been made."""
    made = resource_map._parsed_resources
    return {name for name in resource_map._resource_json_map if made.get(name) is not None}


def changes_of(change_set: Any) -> list[Any]:
    """What the change set would add, modify and remove."""
    resource_map, template = change_set.stack.resource_map, change_set.template_dict
    wanted, present = wanted_resources(change_set), present_resources(resource_map)
    modified = resource_map.build_resource_diff(template, change_set.parameters)["Modify"]
    old = resource_map._resource_json_map
    actions = {
        "Add": wanted - present,
        "Modify": set(modified) & wanted & present,
        "Remove": present - wanted,
    }
    return [
        cloudformation.Change(action, name, (template["Resources"].get(name) or old[name])["Type"])
        for action, names in actions.items()
        for name in sorted(names)
    ]


def only_present(build: Callable[..., Any]) -> Callable[..., Any]:
    """A resource that was not made is not modified."""

    @functools.wraps(build)
    def build_resource_diff(self: Any, template: Any, parameters: Any = None) -> Any:
        found = build(self, template, parameters)
        found["Modify"] = [name for name in found["Modify"] if self._parsed_resources.get(name) is not None]
        return found

    return build_resource_diff


def tell(stack: Any, name: str, resource_type: str, status: str, reason: str | None = None) -> None:
    """An event of a resource."""
    stack.events.append(
        cloudformation.Event(stack.stack_id, stack.name, name, name, resource_type, status, reason, None)
    )


def execute_change_set(self: Any, change_set_name: str, stack_name: str | None = None) -> None:
    """With conditions, events, outputs, and a rollback."""
    change_set = self.describe_change_set(change_set_name)
    stack = change_set.stack
    kind = change_set.change_set_type
    stack._add_stack_event(f"{kind}_IN_PROGRESS", "User Initiated")
    resource_map = stack.resource_map
    try:
        change_set.apply()
        wanted = wanted_resources(change_set)
        for name in sorted(present_resources(resource_map) - wanted):
            remove(stack, name)
        for name in sorted(wanted):
            _ = resource_map[name]
    except Exception as error:  # noqa: BLE001  whatever a resource of moto raises
        roll_back(stack, kind, error)
        return
    for change in change_set.changes:
        status = {"Add": "CREATE", "Modify": "UPDATE", "Remove": "DELETE"}[change.action]
        tell(stack, change.logical_resource_id, change.resource_type, f"{status}_COMPLETE")
    change_set.execution_status = "EXECUTE_COMPLETE"
    stack.template, stack.parameters, stack.tags = change_set.template, change_set.parameters, change_set.tags
    stack._parse_template()
    stack.output_map = stack._create_output_map()
    stack.status = f"{kind}_COMPLETE"
    stack._add_stack_event(f"{kind}_COMPLETE")


def remove(stack: Any, name: str) -> None:
    """Delete one resource."""
    resource_map = stack.resource_map
    resource_map._delete_resource(resource_map._parsed_resources.pop(name), resource_map._resource_json_map[name])


def roll_back(stack: Any, kind: str, error: Exception) -> None:
    """The failed resource's reason in the events; a failed creation leaves nothing."""
    name = getattr(error, "logical_id", stack.name)
    resource_type = stack.resource_map._resource_json_map.get(name, {}).get("Type", "")
    reason = getattr(error, "message", None) or str(error)
    tell(stack, "Another", "AWS::Logs::LogGroup", f"{kind}_FAILED", "Resource creation cancelled")
    tell(stack, name, resource_type, f"{kind}_FAILED", reason)
    if kind == "CREATE":
        for present in reversed(list(stack.resource_map._parsed_resources)):
            if present in present_resources(stack.resource_map):
                remove(stack, present)
    stack.status = "ROLLBACK_COMPLETE" if kind == "CREATE" else "UPDATE_ROLLBACK_COMPLETE"
    stack._add_stack_event(stack.status)


def naming_failures(create: Callable[..., Any]) -> Callable[..., Any]:
    """An error tells which resource it is about: the innermost."""

    @functools.wraps(create)
    def parse_and_create_resource(logical_id: str, *arguments: Any, **named: Any) -> Any:
        try:
            return create(logical_id, *arguments, **named)
        except Exception as error:
            if not hasattr(error, "logical_id"):
                error.logical_id = logical_id  # type: ignore[attr-defined]
            raise

    return parse_and_create_resource


def retaining(delete: Callable[..., Any]) -> Callable[..., Any]:
    """RetainExceptOnCreate is Retain once the stack is made."""

    @functools.wraps(delete)
    def delete_resources(self: Any) -> None:
        kept = [
            name
            for name, resource in self._resource_json_map.items()
            if resource.get("DeletionPolicy") in ("Retain", "RetainExceptOnCreate")
        ]
        self._resource_json_map = {n: r for n, r in self._resource_json_map.items() if n not in kept}
        delete(self)

    return delete_resources


def versioned(create: Callable[..., Any]) -> Any:
    """A bucket with its versioning."""

    def create_from_cloudformation_json(
        cls: Any, resource_name: str, cloudformation_json: Any, *rest: Any, **kw: Any
    ) -> Any:
        bucket = create(resource_name, cloudformation_json, *rest, **kw)
        bucket.versioning_status = cloudformation_json["Properties"].get("VersioningConfiguration", {}).get("Status")
        return bucket

    return classmethod(create_from_cloudformation_json)


def as_text(put: Callable[..., Any]) -> Callable[..., Any]:
    """A template's policy as IAM answers with it: JSON, without the statements that are AWS::NoValue."""

    @functools.wraps(put)
    def put_policy(self: Any, policy_name: str, policy_json: Any) -> None:
        if isinstance(policy_json, dict):
            statements = [statement for statement in policy_json["Statement"] if statement is not None]
            policy_json = json.dumps({**policy_json, "Statement": statements})
        put(self, policy_name, policy_json)

    return put_policy


# ---- SageMaker


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
    """DeleteTrainingJob."""
    self.sagemaker_backend.training_jobs.pop(self._get_param("TrainingJobName"), None)
    return EmptyResult()


def delete_processing_job(self: Any) -> Any:
    """DeleteProcessingJob."""
    self.sagemaker_backend.processing_jobs.pop(self._get_param("ProcessingJobName"), None)
    return EmptyResult()


def list_training_jobs_for_hyper_parameter_tuning_job(self: Any) -> Any:
    """A search's trials: the training jobs whose names begin with its name."""
    name = self._get_param("HyperParameterTuningJobName")
    jobs = [
        job for job in self.sagemaker_backend.training_jobs.values() if job.training_job_name.startswith(f"{name}-")
    ]
    summaries = [
        {
            "TrainingJobName": job.training_job_name,
            "TrainingJobArn": job.arn,
            "CreationTime": job.creation_time,
            "TrainingJobStatus": job.training_job_status,
            "TunedHyperParameters": {},
        }
        for job in jobs
    ]
    return ActionResult({"TrainingJobSummaries": summaries})


def invoke_endpoint(self: Any) -> Any:
    """Says how many bytes an endpoint that there is was sent: moto serves no model, and takes text only."""
    name = self.parsed_url.path.split("/")[2]
    if name not in sagemaker_backends[self.current_account][self.region].endpoints:
        message = f"Endpoint {name} of account {self.current_account} not found."
        return 400, {"x-amzn-ErrorType": "ValidationError"}, json.dumps({"Message": message})
    return 200, {"Content-Type": "application/json"}, json.dumps({"bytes": len(self.body)})


BRIDGED: list[type] = []  # subclasses are held weakly otherwise
SAGEMAKER = (
    delete_model_package,
    delete_model_package_group,
    list_pipeline_execution_steps,
    stop_pipeline_execution,
    delete_training_job,
    delete_processing_job,
    list_training_jobs_for_hyper_parameter_tuning_job,
    update_endpoint,
)


@functools.cache
def install() -> None:
    """Change moto, once."""
    BRIDGED.extend(resource_class(*item) for item in TYPES.items())
    parsing.get_model_list.cache_clear()
    parsing.get_model_map.cache_clear()
    parsing.get_name_type_map.cache_clear()
    parsing.parse_and_create_resource = naming_failures(parsing.parse_and_create_resource)
    parsing.ResourceMap.build_resource_diff = only_present(parsing.ResourceMap.build_resource_diff)
    parsing.ResourceMap.delete = retaining(parsing.ResourceMap.delete)
    cloudformation.Stack.parse_template = staticmethod(parse_template)
    cloudformation.ChangeSet._parse_template = parse_own_template
    cloudformation.ChangeSet.diff = changes_of
    cloudformation.CloudFormationBackend.execute_change_set = execute_change_set
    Role.put_policy = as_text(Role.put_policy)
    FakeBucket.create_from_cloudformation_json = versioned(FakeBucket.create_from_cloudformation_json)
    for operation in SAGEMAKER:
        setattr(SageMakerResponse, operation.__name__, operation)
    SageMakerRuntimeResponse.invoke_endpoint = invoke_endpoint
    SageMakerRuntimeResponse.use_raw_body = True


def backends() -> Any:
    """SageMaker's state in moto, for tests that have to look behind the API."""
    return sagemaker_backends


if __name__ == "__main__":
    from moto.server import main

    install()
    main(["--host", "127.0.0.1", "--port", sys.argv[1]])
