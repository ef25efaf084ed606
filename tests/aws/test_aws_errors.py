"""Every error of botocore that a user meets, as one sentence."""

import botocore.exceptions as raised
import pytest

from pipeline.aws.errors import explain

LOG_IN = "log in again (for example with `aws sso login`) and repeat the command."


def client_error(code: str, message: str, operation: str = "CreatePipeline") -> raised.ClientError:
    return raised.ClientError({"Error": {"Code": code, "Message": message}}, operation)


NOT_AUTHORIZED = (
    "is not authorized to perform: sagemaker:CreatePipeline on resource: arn:aws:sagemaker:us-east-1:1:pipeline/p"
)
CLIENT_ERRORS = [
    (
        ("ThrottlingException", "Rate exceeded"),
        "AWS is throttling CreatePipeline for this account: wait a minute and repeat the command.",
    ),
    (
        ("SlowDown", "Please reduce your request rate."),
        "AWS is throttling CreatePipeline for this account: wait a minute and repeat the command.",
    ),
    (("ExpiredToken", "The provided token has expired."), f"The AWS credentials have expired: {LOG_IN}"),
    (
        ("UnrecognizedClientException", "The security token included in the request is invalid."),
        "AWS does not accept the credentials (UnrecognizedClientException): check AWS_PROFILE, or AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.",
    ),
    (
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        "AWS refuses the request because this machine's clock is wrong: set it and repeat the command.",
    ),
    (
        (
            "AccessDeniedException",
            f"User: arn:aws:sts::123456789012:assumed-role/Scientist/me {NOT_AUTHORIZED} because no identity-based "
            "policy allows the sagemaker:CreatePipeline action",
        ),
        "Role Scientist may not perform sagemaker:CreatePipeline on arn:aws:sagemaker:us-east-1:1:pipeline/p: "
        "allow it in a policy of the role Scientist.",
    ),
    (
        ("AccessDenied", f"User: arn:aws:iam::123456789012:user/team/anna {NOT_AUTHORIZED}"),
        "User team/anna may not perform sagemaker:CreatePipeline on arn:aws:sagemaker:us-east-1:1:pipeline/p: "
        "allow it in a policy of the user team/anna.",
    ),
    (
        (
            "AccessDeniedException",
            f"User: arn:aws:sts::123456789012:assumed-role/Scientist/me {NOT_AUTHORIZED} with an explicit deny in a "
            "service control policy",
        ),
        "Role Scientist may not perform sagemaker:CreatePipeline on arn:aws:sagemaker:us-east-1:1:pipeline/p: an "
        "explicit deny in a service control policy forbids it, which only the owner of that policy can lift.",
    ),
    (
        (
            "AccessDeniedException",
            f"User: arn:aws:sts::123456789012:assumed-role/Scientist/me {NOT_AUTHORIZED} because no permissions "
            "boundary allows the sagemaker:CreatePipeline action",
        ),
        "Role Scientist may not perform sagemaker:CreatePipeline on arn:aws:sagemaker:us-east-1:1:pipeline/p: "
        "allow it in the permissions boundary of the role Scientist.",
    ),
    (
        ("AccessDenied", "Access Denied"),
        "The credentials may not perform CreatePipeline here: allow it in a policy of their role or user.",
    ),
    (
        (
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.m5.xlarge for training job usage' is 0 Instances, with current "
            "utilization of 0 Instances and a request delta of 1 Instances. Please use AWS Service Quotas to request "
            "an increase for this quota.",
        ),
        "The quota 'ml.m5.xlarge for training job usage' of the account is 0 Instances, which is too little: ask for "
        "more in Service Quotas, or choose another instance type or fewer instances in pipeline.yaml.",
    ),
    (
        ("LimitExceededException", "Cannot exceed quota for RolesPerAccount: 1000"),
        "A quota of the account is used up (Cannot exceed quota for RolesPerAccount: 1000): ask for more in Service "
        "Quotas or use less.",
    ),
    (
        ("ConflictException", "Pipeline p has a pipeline execution in progress."),
        "The pipeline is executing (Pipeline p has a pipeline execution in progress): wait for its end, or use "
        "`run_pipeline.py stop`.",
    ),
    (
        ("ResourceInUse", "The endpoint is being updated."),
        "Something else is under way (The endpoint is being updated): repeat the command once that has ended.",
    ),
    (("ValidationException", "Pipeline p\ndoes not exist."), "Pipeline p does not exist."),
]


@pytest.mark.parametrize(("said", "sentence"), CLIENT_ERRORS, ids=lambda value: value[0] if len(value) == 2 else "")
def test_what_a_service_says(said, sentence):
    assert explain(client_error(*said)) == sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            raised.NoCredentialsError(),
            "No AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in "
            "with `aws sso login`.",
        ),
        (
            raised.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            "The AWS credentials are incomplete: Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY.",
        ),
        (
            raised.ProfileNotFound(profile="work"),
            "The config profile (work) could not be found: correct AWS_PROFILE, or make it with `aws configure sso`.",
        ),
        (raised.UnauthorizedSSOTokenError(), f"The AWS login has ended: {LOG_IN}"),
        (
            raised.EndpointConnectionError(endpoint_url="https://s3.amazonaws.com/"),
            'AWS cannot be reached (Could not connect to the endpoint URL: "https://s3.amazonaws.com/"): check the '
            "network, a proxy, and aws.region.",
        ),
        (raised.NoRegionError(), "No AWS region is set: set aws.region in pipeline.yaml."),
        (
            raised.ParamValidationError(report='Missing required parameter in input: "PipelineName"'),
            'Parameter validation failed: Missing required parameter in input: "PipelineName".',
        ),
        (raised.DataNotFoundError(data_path="x"), "Unable to load data for: x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_happens_before_a_service_answers(error, sentence):
    assert explain(error) == sentence
