"""The roles of a made stack allow what is done with them: on the resources that are named, by IAM's own documents."""

import ast
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import botocore.client
import pytest
from moto.s3.models import s3_backends
from policies import allows, as_list, statements_of

from pipeline.aws import stack
from pipeline.compile.bundle import DEPLOY, DESCRIBE_INPUTS, bundle
from pipeline.service.aws_target import AwsTarget
from pipeline.service.sources import Source
from pipeline.service.staging import definition_of, open_project

SHIPPED = Path(__file__).parents[2] / "pipeline.yaml"
ACCOUNT, NAME = "123456789012", "image-classification"
INLINE_POLICIES_LENGTH = 10240  # characters without white space, IAM's quota for a role
NAMED = {"EndpointName": "endpoint", "EndpointConfigName": "endpoint-config", "ModelName": "model"}
CASES, ATTACKS, JOB_ROLE = (
    json.loads((Path(__file__).with_name("cases") / f"{name}.json").read_text())
    for name in ("permissions", "attacks", "job_role")
)
ACTIONS_OF_STEPS = CASES["steps"]  # what the service does under the execution role for a step, by resource; more below
JOB_LOGS = {"Processing": "ProcessingJobs", "Training": "TrainingJobs", "Tuning": "TrainingJobs"}
PULL = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
IMAGE_KEYS = ("ImageUri", "TrainingImage")  # that the step itself runs
WRITTEN = ("S3OutputPath", "S3Output", "CheckpointConfig", "HookParameters", "DebugHookConfig", "ProfilerConfig")
ROLES_OF = {
    "sagemaker": ["PipelineRole"],
    "iam": ["PipelineRole"],
    "lambda": ["PipelineRole"],
    "kms": ["PipelineRole", "JobRole"],
}
NETWORK_CHANGES = (
    "CreateNetworkInterface", "CreateNetworkInterfacePermission", "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
)  # fmt: skip
NETWORK_LOOKS = (
    "DescribeDhcpOptions", "DescribeNetworkInterfaces", "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs",
)  # fmt: skip
HANDLER_SERVICES = {"sagemaker": "sagemaker", "application-autoscaling": "application-autoscaling"}


def simulated(client: Any, made: dict[str, str], role: str, request: list[Any]) -> bool:
    """Whether a role's policies and the bucket's allow a request: action, resource, and condition keys."""
    role_arn, (action, resource, *keys) = made[f"{role}Arn"], request
    bucket = s3_backends[ACCOUNT]["aws"].get_bucket(made["BucketName"])
    statements = [*statements_of(client, role_arn), *bucket.whole_policy]
    context = {"aws:PrincipalArn": role_arn, **(keys[0] if keys else {})}
    return allows(statements, action, resource.format(**made), context)


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:us-east-1:{ACCOUNT}:{resource}"


@dataclass
class Calls:
    """The requests that were sent: service, operation and parameters."""

    seen: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """A block in which every request of every client is kept."""
        send = botocore.client.BaseClient._make_api_call

        def record(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
            self.seen.append((client.meta.service_model.service_name, operation, parameters))
            return send(client, operation, parameters)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(botocore.client.BaseClient, "_make_api_call", record)
            yield

    def operations(self) -> set[str]:
        return {f"{service}:{operation}" for service, operation, _ in self.seen}

    def denied(self, statements: list[dict[str, Any]]) -> list[str]:
        """What the statements do not allow."""
        return [
            f"{action} on {resource}"
            for service, operation, parameters in self.seen
            for action, resource in needed(service, operation, parameters)
            if not allows(statements, action, resource)
        ]


def needed(service: str, operation: str, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """The actions that IAM asks for, each with its resource."""
    if service == "s3":
        return needed_of_s3(operation, parameters)
    return [(f"{service}:{operation}", resource) for resource in resources(service, operation, parameters)]


def needed_of_s3(operation: str, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """S3's actions are not all named after operations; a missing object is only told from a hidden one by a listing."""
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    read, written = ("s3:GetObject", f"{bucket}/{parameters['Key']}"), ("s3:PutObject", f"{bucket}/{parameters['Key']}")
    if operation in ("HeadObject", "GetObject"):
        return [read, ("s3:ListBucket", bucket)]
    if operation == "CopyObject":
        return [written, ("s3:GetObject", f"arn:aws:s3:::{parameters['CopySource']}")]  # as botocore has written it
    return [{"PutObject": written, "DeleteObject": ("s3:DeleteObject", written[1])}[operation]]


def resources(service: str, operation: str, parameters: dict[str, Any]) -> list[str]:
    """The ARNs that IAM compares with for a request; SageMaker writes names in lower case into them."""
    if service == "application-autoscaling":
        return [arn(service, "scalable-target/1234567890abcdef")]
    if "ResourceArn" in parameters:
        return [parameters["ResourceArn"]]
    if operation.startswith("List"):
        return ["*"]
    if "ModelPackageName" in parameters:
        return [parameters["ModelPackageName"]]
    return [arn(service, f"{kind}/{parameters[key].lower()}") for key, kind in NAMED.items() if key in parameters]


@pytest.fixture
def calls() -> Calls:
    """No requests yet."""
    return Calls()


def test_the_deploy_role_allows_every_call_of_the_handler(client, config, made, register, deliver, calls):
    statements = statements_of(client, made["DeployRoleArn"])

    def changed(kind: str, **detail: str) -> None:
        with calls.recorded():
            deliver(kind, detail, AUTOSCALING_MAX="3", KEEP_VERSIONS="1")

    for _ in range(4):
        version = register(made["BucketName"])
        changed("Model Package", ModelPackageArn=version)
    changed("Endpoint", EndpointName=config.deploy.endpoint_name)
    for number in (4, 3, 2, 1):  # the last leaves none, and the champion goes
        arn = f"{version.rpartition('/')[0]}/{number}"
        client("sagemaker").update_model_package(ModelPackageArn=arn, ModelApprovalStatus="Rejected")
        changed("Model Package", ModelPackageArn=arn)
    calls.seen = [call for call in calls.seen if call[0] != "lambda"]  # which the test asks for the function
    assert calls.denied(statements) == []
    assert {
        "sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint", "sagemaker:CreateModel", "sagemaker:DeleteModel",
        "sagemaker:CreateEndpointConfig", "sagemaker:DeleteEndpointConfig", "sagemaker:ListModelPackages",
        "application-autoscaling:RegisterScalableTarget", "application-autoscaling:PutScalingPolicy",
        "s3:HeadObject", "s3:GetObject", "s3:CopyObject", "s3:PutObject", "s3:DeleteObject",
    } <= calls.operations()  # fmt: skip


@pytest.fixture
def places(client: Any, configured: Any, apply: Any) -> dict[str, str]:
    """What the tables name, of a stack with every option that gives a role more."""
    config = configured(aws={"vpc": VPC, "kms_key_arn": KEY}, data={"source": "s3://pictures/animals"})
    apply(config)
    made = {**stack.outputs(client, NAME), **stack.outputs(client, f"{NAME}-app")}
    bucket = f"arn:aws:s3:::{made['BucketName']}"
    folder, sagemaker = f"{bucket}/{NAME}", arn("sagemaker", "").rstrip(":")
    return {**made, "bucket": bucket, "folder": folder, "sagemaker": sagemaker, "key": KEY}


def test_each_role_may_do_what_it_needs_and_nothing_else(client, places):
    wrong = [
        f"{case['role']}: {kind} {request}"
        for case in CASES["roles"]
        for kind in ("allowed", "denied")
        for request in case[kind]
        if simulated(client, places, case["role"], request) != (kind == "allowed")
    ]
    assert wrong == []


def test_every_attack_is_denied_also_to_a_role_that_somebody_gave_all_of_s3(client, places):
    allowed = [
        f"{case['attack']}: {role} {request}"
        for case in ATTACKS
        for role in case["roles"]
        for request in case["requests"]
        if simulated(client, places, role, request)
    ]
    assert allowed == []
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    name = places["JobRoleArn"].rpartition("/")[2]
    client("iam").put_role_policy(RoleName=name, PolicyName="wide", PolicyDocument=json.dumps(everything))
    assert simulated(client, places, "JobRole", ["s3:PutObject", "{folder}/data/1.jpg"])
    protected = [request for case in ATTACKS[:2] for request in case["requests"]]
    assert not [request for request in protected if simulated(client, places, "JobRole", request)]


@pytest.mark.parametrize("auto_approve", [True, False])
def test_the_pipeline_may_approve_only_where_pipeline_yaml_lets_it(client, configured, apply, auto_approve):
    apply(configured(aws={"auto_approve": auto_approve}))
    version, key = arn("sagemaker", f"model-package/{NAME}/7"), {"sagemaker:ModelApprovalStatus": "Approved"}
    approve = ["sagemaker:CreateModelPackage", version, key]
    assert simulated(client, stack.outputs(client, NAME), "PipelineRole", approve) == auto_approve


def test_every_action_and_resource_of_the_job_role_is_in_the_list_with_a_reason(client, places):
    listed = {
        (action, resource.format(**places))
        for entry in JOB_ROLE
        if len(entry["why"].split()) > 4
        for action in entry["actions"]
        for resource in entry["resources"]
    }
    held = {
        (action, resource)
        for statement in statements_of(client, places["JobRoleArn"])
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }
    assert held == listed
    assert not [action for action, _ in held if action.partition(":")[0] in ("sagemaker", "iam", "sts", "lambda")]


def operations_of(sources: dict[str, bytes], client: Any) -> set[str]:
    """Every operation that Python code names, as a method or as the word that a paginator is asked for."""
    methods = {
        method: f"{prefix}:{operation}"
        for service, prefix in HANDLER_SERVICES.items()
        for method, operation in client(service).meta.method_to_api_mapping.items()
    }
    names = {
        getattr(node, "attr", None) or getattr(node, "value", None)
        for name, source in sources.items()
        if name.endswith(".py")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    return {operation for method, operation in methods.items() if method in names}


@pytest.mark.parametrize(
    ("role", "code"), [("DeployRole", DEPLOY), ("InputsRole", DESCRIBE_INPUTS)], ids=["deploy", "inputs"]
)
def test_a_functions_role_has_every_action_that_its_code_names(client, made, role, code):
    found = operations_of(bundle(code).files, client)
    assert "sagemaker:ListModelPackages" in found
    statements = statements_of(client, made[f"{role}Arn"])
    allowed = {action for statement in statements for action in as_list(statement["Action"])}
    assert found - allowed == set()


def needs_of(step: dict[str, Any], group: str) -> Iterator[tuple[str, str]]:
    """Action and resource of what a step makes the service do under the execution role."""
    kind, arguments = step["Type"], step["Arguments"]
    for resource, actions in ACTIONS_OF_STEPS[kind].items():
        is_search = step["Type"] == "Tuning"
        name = f"{'' if is_search else 'pipelines-'}abc123-{step['Name'][:7]}-x"
        yield from ((f"sagemaker:{action}", arn("sagemaker", f"{resource}/{name}")) for action in actions)
    if kind == "Lambda":
        yield "lambda:InvokeFunction", step["FunctionArn"]
    if kind == "RegisterModel":
        version = arn("sagemaker", f"model-package/{group}/7")
        yield from ((f"sagemaker:{action}ModelPackage", version) for action in ("Create", "Describe"))
        yield "sagemaker:DescribeModelPackageGroup", arn("sagemaker", f"model-package-group/{group}")
    if kind in JOB_LOGS:
        stream = arn("logs", f"log-group:/aws/sagemaker/{JOB_LOGS[kind]}:log-stream:pipelines-abc123-x/algo-1")
        yield from ((f"logs:{action}", stream) for action in ("CreateLogStream", "DescribeLogStreams", "PutLogEvents"))
        yield from (("cloudwatch:PutMetricData", "*"), ("ecr:GetAuthorizationToken", "*"))
        yield from needs_within(arguments, written=False)


def needs_within(value: Any, *, written: bool) -> Iterator[tuple[str, str]]:
    """What the arguments of a job need: its objects, images, role, network and key."""
    if isinstance(value, list):
        for member in value:
            yield from needs_within(member, written=written)
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        text = as_text(member)
        if key in ("S3Uri", "S3OutputPath") and text:
            yield from object_needs(text, written=written or key in WRITTEN)
        elif key in IMAGE_KEYS:
            repository = arn("ecr", f"repository/{text.partition('/')[2].partition(':')[0]}")
            yield from ((f"ecr:{action}", repository) for action in PULL)
        elif key == "RoleArn":
            yield "iam:PassRole", text
        elif key in ("KmsKeyId", "VolumeKmsKeyId"):
            yield from ((f"kms:{action}", text) for action in ("Decrypt", "GenerateDataKey", "CreateGrant"))
        elif key == "VpcConfig":
            yield from network_needs(member)
        else:
            yield from needs_within(member, written=written or key in WRITTEN)


def network_needs(vpc: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Network interfaces of a job in a VPC."""
    yield from ((f"ec2:{action}", "*") for action in NETWORK_LOOKS)
    places = [f"subnet/{name}" for name in vpc["Subnets"]] + [
        f"security-group/{name}" for name in vpc["SecurityGroupIds"]
    ]
    yield from (("ec2:CreateNetworkInterface", arn("ec2", place)) for place in places)
    yield from ((f"ec2:{action}", arn("ec2", "network-interface/eni-1")) for action in NETWORK_CHANGES)


def object_needs(uri: str, *, written: bool) -> Iterator[tuple[str, str]]:
    """Reading or writing below a prefix; writing in parts may have to be given up."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    objects = f"arn:aws:s3:::{bucket}/{key.rstrip('/')}/file"
    yield "s3:ListBucket", f"arn:aws:s3:::{bucket}"
    for action in ("PutObject", "AbortMultipartUpload", "GetObject") if written else ("GetObject",):
        yield f"s3:{action}", objects


def as_text(value: Any) -> str:
    """A string; of an expression, with x where a value is known at run time only. Empty for what a step gives."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and "Std:Join" in value:
        join = value["Std:Join"]
        return str(join["On"]).join(as_text(member) or "x" for member in join["Values"])
    return ""


def all_steps(definition: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of branches included."""
    for step in definition["Steps"]:
        yield step
        for branch in ("IfSteps", "ElseSteps"):
            yield from step["Arguments"].get(branch, [])


VPC = {"subnet_ids": ["subnet-0123456789abcdef0"], "security_group_ids": ["sg-0123456789abcdef0"]}
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize("options", [{}, {"vpc": VPC, "kms_key_arn": KEY}], ids=["as shipped", "in a VPC, with a key"])
def test_the_roles_allow_what_every_step_of_the_compiled_definition_does(client, configured, apply, options):
    config = configured(aws=options, data={"source": "s3://pictures/animals"})
    apply(config)
    placement = AwsTarget(config).placement
    project = replace(open_project(SHIPPED), config=config, source=Source("", uri=config.data.source))
    definition = json.loads(definition_of(project, placement))
    steps = list(all_steps(definition))
    assert {step["Type"] for step in steps} == set(ACTIONS_OF_STEPS)
    held = {"PipelineRole": statements_of(client, placement.role_arn),
            "JobRole": statements_of(client, placement.job_role_arn)}  # fmt: skip
    needs = {need for step in steps for need in needs_of(step, config.registry.model_package_group)}
    needs |= set(object_needs(definition_default(definition, "InputDataUri"), written=False))
    missing = [
        f"{role}: {action} on {on}"
        for action, on in sorted(needs)
        for role in ROLES_OF.get(action.partition(":")[0], ["JobRole"])
        if not allows(held[role], action, on)
    ]
    assert missing == []
    asked = {action.partition(":")[0] for action, _ in needs}
    assert asked >= {"sagemaker", "s3", "ecr", "logs", "iam", "lambda", "cloudwatch"}
    assert ("ec2" in asked) == ("vpc" in options)


def definition_default(definition: dict[str, Any], name: str) -> str:
    """The default of a parameter."""
    (default,) = (item["DefaultValue"] for item in definition["Parameters"] if item["Name"] == name)
    return str(default)


def test_the_queue_takes_what_the_rules_could_not_deliver(client, made):
    queue = client("sqs").get_queue_url(QueueName=f"{NAME}-dead-letters")["QueueUrl"]
    attributes = client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["Policy"])
    policy = json.loads(attributes["Attributes"]["Policy"])["Statement"]
    rules = [rule["Arn"] for rule in client("events").list_rules()["Rules"]]
    assert len(rules) == 5
    for rule in rules:
        assert allows(policy, "sqs:SendMessage", made["DeadLetterQueueArn"], {"aws:SourceArn": rule})
    other = {"aws:SourceArn": arn("events", "rule/another-rule")}
    assert not allows(policy, "sqs:SendMessage", made["DeadLetterQueueArn"], other)


def test_the_policies_of_each_role_fit_into_it_with_every_option_on(client, configured, apply):
    vpc = {
        "subnet_ids": [f"subnet-0123456789abcde{number:02}" for number in range(16)],
        "security_group_ids": [f"sg-0123456789abcde{number:02}" for number in range(5)],
    }
    full = {
        "aws": {"vpc": vpc, "kms_key_arn": KEY, "project": "p" * 40, "deploy_function": "f" * 64},
        "registry": {"model_package_group": "g" * 63},
        "deploy": {"endpoint_name": "e" * 63},
        "data": {"source": "s3://pictures/animals"},
    }
    apply(configured(**full))
    for role in client("iam").list_roles()["Roles"]:
        text = json.dumps(statements_of(client, role["Arn"]), separators=(",", ":"))
        assert len(text) < INLINE_POLICIES_LENGTH
