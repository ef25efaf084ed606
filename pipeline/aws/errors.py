"""Errors of AWS as one sentence: what happened, and what to do about it."""

import re
from collections.abc import Callable

from botocore import exceptions
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

THROTTLING = (
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "PriorRequestNotComplete", "SlowDown",
    "EC2ThrottledException",
)  # fmt: skip
BAD_CREDENTIALS = (
    "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "InvalidSignatureException", "AuthFailure", "InvalidToken", "MissingAuthenticationToken", "IncompleteSignature",
)  # fmt: skip
MISSING = (
    "ResourceNotFound", "ResourceNotFoundException", "ObjectNotFoundException", "NoSuchBucket", "NoSuchEntity",
    "RepositoryNotFoundException", "ImageNotFoundException", "404",
)  # fmt: skip
MISSING_WORDS = (
    "not find",
    "does not exist",
    "not found",
    "cannot be found",
)  # SageMaker's code is ValidationException
DENIAL = re.compile(
    r"(?:User: )?(?P<who>arn:\S+) is not authorized to perform: (?P<action>[\w-]+:\w+)(?: on resource: (?P<what>\S+))?"
)
EXPLICIT_DENY = re.compile(r"explicit deny(?: in an? (?P<where>[a-z -]+?))?(?:$|[.,])")
QUOTA = re.compile(r"service limit '(?P<name>[^']+)' is (?P<limit>[\d.]+ ?\w*)")
UNREACHABLE = "AWS cannot be reached ({error}): check the network, a proxy, and aws.region."
LOG_IN = "log in again (for example with `aws sso login`) and repeat the command"


def explain(error: Exception) -> str:
    """Return one sentence about an error of botocore; about any other error, its own text."""
    text = " ".join(str(error).split())
    if not isinstance(error, ClientError):
        for kind, sentence in CLIENT_SIDE:
            if isinstance(error, kind):
                return sentence.format(error=text.rstrip("."))
        return text
    answer = error.response.get("Error", {})
    message = " ".join((answer.get("Message") or text).split())
    explained: Explanation = SENTENCES.get(answer.get("Code", ""), "{message}")
    if callable(explained):
        return explained(message, error.operation_name)
    return explained.format(message=message, code=answer.get("Code"), operation=error.operation_name)


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later: it was throttled, failed within AWS, or AWS was not reached."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return error.response.get("Error", {}).get("Code", "") in THROTTLING or status >= 500
    return isinstance(error, ConnectionError | HTTPClientError)


def is_missing(error: ClientError) -> bool:
    """Whether the service answers that there is no such resource."""
    answer = error.response["Error"]
    return answer["Code"] in MISSING or any(words in answer.get("Message", "").lower() for words in MISSING_WORDS)


def explain_denial(message: str, operation: str) -> str:
    """Say which action is missing, and who has to allow it to whom."""
    denial = DENIAL.search(message)
    if denial is None:
        return f"The credentials may not perform {operation} here: allow it in a policy of their role or user."
    kind, _, name = denial["who"].rpartition(":")[2].partition("/")
    names = {"assumed-role": f"role {name.partition('/')[0]}", "role": f"role {name}", "user": f"user {name}"}
    who = names.get(kind, denial["who"])
    remedy = f"allow it in a policy of the {who}"
    if deny := EXPLICIT_DENY.search(message):
        place = deny["where"] or "policy"
        remedy = f"an explicit deny in a {place} forbids it, which only the owner of that policy can lift"
    elif "permissions boundary" in message:
        remedy = f"allow it in the permissions boundary of the {who}"
    target = f" on {denial['what'].rstrip('.')}" if denial["what"] else ""
    return f"{who[0].upper()}{who[1:]} may not perform {denial['action']}{target}: {remedy}."


def explain_quota(message: str, operation: str) -> str:
    quota = QUOTA.search(message)
    if quota is None:
        return f"A quota of the account is used up ({message.rstrip('.')}): ask for more in Service Quotas or use less."
    return (
        f"The quota '{quota['name']}' of the account is {quota['limit']}, which is too little: "
        "ask for more in Service Quotas, or choose another instance type or fewer instances in pipeline.yaml."
    )


def explain_conflict(message: str, operation: str) -> str:
    message = message.rstrip(".")
    if "execut" in message.lower():
        return f"The pipeline is executing ({message}): wait for its end, or use `run_pipeline.py stop`."
    return f"Something else is under way ({message}): repeat the command once that has ended."


Explanation = str | Callable[[str, str], str]  # of {message}, {operation}, {code}; a function is given the first two
BY_CODES: tuple[tuple[tuple[str, ...], Explanation], ...] = (
    (THROTTLING, "AWS is throttling {operation} for this account: wait a minute and repeat the command."),
    (("ExpiredToken", "ExpiredTokenException", "RequestExpired"), f"The AWS credentials have expired: {LOG_IN}."),
    (
        BAD_CREDENTIALS,
        "AWS does not accept the credentials ({code}): check AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
        "and AWS_SESSION_TOKEN.",
    ),
    (("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"), explain_denial),
    (("ResourceLimitExceeded", "LimitExceeded", "LimitExceededException", "TooManyBuckets"), explain_quota),
    (("ServiceQuotaExceededException",), explain_quota),
    (("ConflictException", "ResourceInUse", "ResourceInUseException"), explain_conflict),
    (("OperationAborted", "ResourceConflictException"), explain_conflict),
    (
        ("RequestTimeTooSkewed",),
        "AWS refuses the request because this machine's clock is wrong: set it and repeat the command.",
    ),
)
SENTENCES = {code: explanation for codes, explanation in BY_CODES for code in codes}
CLIENT_SIDE: tuple[tuple[type[Exception], str], ...] = (  # a sentence about {error}
    (
        exceptions.NoCredentialsError,
        "No AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in "
        "with `aws sso login`.",
    ),
    (exceptions.PartialCredentialsError, "The AWS credentials are incomplete: {error}."),
    (exceptions.CredentialRetrievalError, "{error}: check what AWS_PROFILE names, or log in with `aws sso login`."),
    (exceptions.ProfileNotFound, "{error}: correct AWS_PROFILE, or make it with `aws configure sso`."),
    (exceptions.SSOError, f"The AWS login has ended: {LOG_IN}."),
    (exceptions.TokenRetrievalError, f"The AWS login has ended: {LOG_IN}."),
    (ConnectionError, UNREACHABLE),
    (HTTPClientError, UNREACHABLE),
    (exceptions.NoRegionError, "No AWS region is set: set aws.region in pipeline.yaml."),
    (exceptions.ParamValidationError, "{error}."),
    (exceptions.WaiterError, "{error}: look at it in the console, then repeat the command."),
)
