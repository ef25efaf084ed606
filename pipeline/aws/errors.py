"""Errors of AWS as one sentence: what botocore says, and for what users meet most, what to do about it."""

from botocore import exceptions
from botocore.exceptions import ClientError

LOG_IN = "log in again (for example with `aws sso login`) and repeat the command"
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")
THROTTLING = (
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "PriorRequestNotComplete", "SlowDown",
    "EC2ThrottledException",
)  # fmt: skip
MISSING = (
    "ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException", "NoSuchBucket", "NoSuchEntity",
    "RepositoryNotFoundException", "ImageNotFoundException", "404",
)  # fmt: skip
MISSING_WORDS = ("not find", "does not exist", "not found", "cannot be found")  # SageMaker's is a ValidationException
HINTS = {
    (
        "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "InvalidToken",
        "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSignatureException",
    ): LOG_IN,
    DENIED: "whoever administers the policies of that role, user or account can allow it",
    THROTTLING: "AWS is throttling this account; wait a minute and repeat the command",
    (
        "ResourceLimitExceeded", "LimitExceeded", "LimitExceededException", "ServiceQuotaExceededException",
        "TooManyBuckets",
    ): "ask for more in Service Quotas, or choose another instance type or fewer instances in pipeline.yaml",
    MISSING: "check its name, and on AWS account and aws.region",
}  # fmt: skip
UNREACHED = (exceptions.ConnectionError, exceptions.HTTPClientError)
CLIENT_SIDE: dict[tuple[type[Exception], ...], str] = {
    (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError): (
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with `aws sso login`"
    ),
    (exceptions.ProfileNotFound,): "correct AWS_PROFILE, or make it with `aws configure sso`",
    (exceptions.SSOError, exceptions.TokenRetrievalError): LOG_IN,
    (exceptions.NoRegionError,): "set aws.region in pipeline.yaml",
    UNREACHED: "AWS cannot be reached; check the network, a proxy, and aws.region",
}


def explain(error: Exception) -> str:
    """Return one sentence about an error of botocore; about any other error, its own text."""
    text = " ".join(str(error).split())
    if not isinstance(error, ClientError):
        hint = next((hint for kinds, hint in CLIENT_SIDE.items() if isinstance(error, kinds)), None)
        return f"{text.rstrip('.')}: {hint}." if hint else text
    answer = error.response.get("Error", {})
    code, message = answer.get("Code", ""), " ".join((answer.get("Message") or text).split())
    hint = next((hint for codes, hint in HINTS.items() if code in codes), None)
    return f"{message.rstrip('.')} ({error.operation_name}, {code}): {hint}." if hint else message


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: it was throttled, failed within AWS, or AWS was not reached."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return error.response.get("Error", {}).get("Code", "") in THROTTLING or status >= 500
    return isinstance(error, UNREACHED)


def is_missing(error: ClientError) -> bool:
    """Whether the service answers that there is no such resource."""
    answer = error.response["Error"]
    return answer["Code"] in MISSING or any(words in answer.get("Message", "").lower() for words in MISSING_WORDS)
