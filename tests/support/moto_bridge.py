"""What moto lacks of the services that the product uses, added to moto; the product knows nothing of it.

`install()` changes moto in this process.

CloudFormation: resource types (alarm, schedule, subscription, policies), conditions that turn true or false with an
update, the outputs of a stack made by a change set, what a change set would change when parameters do, the rollback of
a failed change set with its reason in the events, a bucket's versioning, and a role's policies as JSON.
SageMaker: updating endpoints, stopping executions, deleting model packages, groups and job records, a search's trials,
and the steps of an execution, which are none unless a test sets them.
SageMaker Runtime: requests that are no text. Service Quotas: those that a test sets.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

from moto.cloudformation import models as cloudformation
from moto.cloudformation import parsing
from moto.ecr.models import Repository
from moto.iam.models import Role
from moto.s3.models import FakeBucket
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from moto.servicequotas.responses import ServiceQuotasResponse
from moto.ssm.models import Parameter
from moto_resources import TYPES, resource_class
from moto_sagemaker import SAGEMAKER, invoke_endpoint
from moto_stacks import (
    changes_of,
    execute_change_set,
    naming_failures,
    only_present,
    parameters_as_given,
    parse_own_template,
    parse_template,
    retaining,
)


def versioned(create: Callable[..., Any]) -> Any:
    """A bucket with its versioning."""

    def create_bucket(cls: Any, name: str, written: Any, *rest: Any, **named: Any) -> Any:
        bucket = create(name, written, *rest, **named)
        bucket.versioning_status = written["Properties"].get("VersioningConfiguration", {}).get("Status")
        return bucket

    return classmethod(create_bucket)


def as_text(put: Callable[..., Any]) -> Callable[..., Any]:
    """A template's policy as IAM answers with it: JSON."""

    def put_policy(self: Any, policy_name: str, policy_json: Any) -> None:
        put(self, policy_name, json.dumps(policy_json) if isinstance(policy_json, dict) else policy_json)

    return put_policy


def emptied(delete: Callable[..., Any]) -> Callable[..., Any]:
    """A repository of a stack goes with its images, as EmptyOnDelete says."""

    def delete_repository(self: Any, *where: str) -> None:
        self.images.clear()
        delete(self, *where)

    return delete_repository


def list_service_quotas(self: Any) -> str:
    """Those that a test has set, by name: `defaults`, or `quotas` where the account's are asked for."""
    quotas = getattr(self.backend, "defaults" if "Default" in self.headers["X-Amz-Target"] else "quotas", {})
    return json.dumps({"Quotas": [{"QuotaName": name, "Value": value} for name, value in quotas.items()]})


def without_no_value(clean: Callable[..., Any]) -> Callable[..., Any]:
    """A list has no members that are AWS::NoValue."""

    def clean_json(resource_json: Any, resources_map: Any) -> Any:
        found = clean(resource_json, resources_map)
        return [item for item in found if item is not None] if isinstance(found, list) else found

    return clean_json


BRIDGED: list[type] = []  # subclasses are held weakly otherwise


@functools.cache
def install() -> None:
    """Change moto, once."""
    BRIDGED.extend(resource_class(*item) for item in TYPES.items())
    parsing.get_model_list.cache_clear()
    parsing.get_model_map.cache_clear()
    parsing.get_name_type_map.cache_clear()
    parsing.parse_and_create_resource = naming_failures(parsing.parse_and_create_resource)
    parsing.clean_json = without_no_value(parsing.clean_json)
    parsing.ResourceMap.build_resource_diff = only_present(parsing.ResourceMap.build_resource_diff)
    parsing.ResourceMap.delete = retaining(parsing.ResourceMap.delete)
    cloudformation.Stack.parse_template = staticmethod(parse_template)
    cloudformation.Stack.parameter_list = property(parameters_as_given)
    cloudformation.ChangeSet._parse_template = parse_own_template
    cloudformation.ChangeSet.diff = changes_of
    cloudformation.CloudFormationBackend.execute_change_set = execute_change_set
    Role.put_policy = as_text(Role.put_policy)
    Parameter.has_cfn_attr = staticmethod(lambda name: name == "Value")
    Parameter.get_cfn_attribute = lambda self, name: self.value
    FakeBucket.create_from_cloudformation_json = versioned(FakeBucket.create_from_cloudformation_json)
    Repository.delete = emptied(Repository.delete)
    for name in ("list_service_quotas", "list_aws_default_service_quotas"):
        setattr(ServiceQuotasResponse, name, list_service_quotas)
    for operation in SAGEMAKER:
        setattr(SageMakerResponse, operation.__name__, operation)
    SageMakerRuntimeResponse.invoke_endpoint = invoke_endpoint
    SageMakerRuntimeResponse.use_raw_body = True
