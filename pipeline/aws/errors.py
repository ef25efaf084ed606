"""What botocore raises, as one sentence that says what happened and what to do."""

import re
from collections.abc import Callable, Mapping

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

DENIAL = re.compile(
    r"(?:User: )?(?P<who>arn:\S+) is not authorized to perform: (?P<action>[\w-]+:\w+)(?: on resource: (?P<what>\S+))?"
)
QUOTA = re.compile(r"service limit '(?P<name>[^']+)' is (?P<limit>[\d.]+ ?\w*)")
EXPLICIT = re.compile(r"explicit deny(?: in an? (?P<where>[a-z -]+?))?(?:$|[.,])")
LOG_IN = "log in again (for example with `aws sso login`) and repeat the command"


def explain(error: Exception) -> str:
    """One sentence about an error of botocore; of any other, its own text."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        return SENTENCES.get(code, said)(error)
    for kind, sentence in CLIENT_SIDE.items():
        if isinstance(error, kind):
            return sentence(error)
    return one_line(str(error))


def passes(error: Exception) -> bool:
    """Whether the same request may succeed in a while: AWS throttles it, fails by itself, or is not reached."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return error.response.get("Error", {}).get("Code", "") in THROTTLED or status >= 500
    return isinstance(error, EndpointConnectionError | ConnectTimeoutError | ReadTimeoutError)


def said(error: ClientError) -> str:
    """What the service said."""
    return one_line(error.response.get("Error", {}).get("Message") or str(error))


def throttled(error: ClientError) -> str:
    """Too many requests."""
    return f"AWS is throttling {error.operation_name} for this account: wait a minute and repeat the command."


def expired(error: ClientError) -> str:
    """A session's end."""
    return f"The AWS credentials have expired: {LOG_IN}."


def unknown_credentials(error: ClientError) -> str:
    """Keys that the account does not have, or that do not belong together."""
    return (
        f"AWS does not accept the credentials ({error.response['Error']['Code']}): check AWS_PROFILE, or "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
    )


def wrong_clock(error: ClientError) -> str:
    """A signature from another time."""
    return "AWS refuses the request because this machine's clock is wrong: set it and repeat the command."


def denied(error: ClientError) -> str:
    """Which action is missing, and to whom."""
    message = said(error)
    match = DENIAL.search(message)
    if match is None:
        return (
            f"The credentials may not perform {error.operation_name} here: allow it in a policy of their role or user."
        )
    target = f" on {match['what'].rstrip('.')}" if match["what"] else ""
    who = principal(match["who"])
    return f"{who[0].upper()}{who[1:]} may not perform {match['action']}{target}: {remedy(message, who)}."


def principal(arn: str) -> str:
    """A role or user by its name."""
    kind, _, name = arn.rpartition(":")[2].partition("/")
    names = {"assumed-role": f"role {name.partition('/')[0]}", "role": f"role {name}", "user": f"user {name}"}
    return names.get(kind, arn)


def remedy(message: str, who: str) -> str:
    """A policy has to allow it, unless one forbids it."""
    if match := EXPLICIT.search(message):
        where = f"in a {match['where']}" if match["where"] else "in a policy"
        return f"an explicit deny {where} forbids it, which only the owner of that policy can lift"
    if "permissions boundary" in message:
        return f"allow it in the permissions boundary of the {who}"
    return f"allow it in a policy of the {who}"


def over_quota(error: ClientError) -> str:
    """Which quota, if the service says."""
    match = QUOTA.search(said(error))
    if match is None:
        message = said(error).rstrip(".")
        return f"A quota of the account is used up ({message}): ask for more in Service Quotas or use less."
    return (
        f"The quota '{match['name']}' of the account is {match['limit']}, which is too little: "
        "ask for more in Service Quotas, or choose another instance type or fewer instances in pipeline.yaml."
    )


def busy(error: ClientError) -> str:
    """A change or an execution is under way."""
    message = said(error).rstrip(".")
    if re.search(r"execut", message, re.IGNORECASE):
        return f"The pipeline is executing ({message}): wait for its end, or use `run_pipeline.py stop`."
    return f"Something else is under way ({message}): repeat the command once that has ended."


def no_credentials(error: Exception) -> str:
    """Nothing found anywhere in the chain."""
    return (
        "No AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "or log in with `aws sso login`."
    )


def half_credentials(error: Exception) -> str:
    """One of a pair."""
    return f"The AWS credentials are incomplete: {one_line(str(error))}".rstrip(".") + "."


def logged_out(error: Exception) -> str:
    """The end of a single sign-on."""
    return f"The AWS login has ended: {LOG_IN}."


def unknown_profile(error: Exception) -> str:
    """A name that the configuration files do not have."""
    return f"{one_line(str(error)).rstrip('.')}: correct AWS_PROFILE, or make it with `aws configure sso`."


def unreachable(error: Exception) -> str:
    """No answer."""
    return f"AWS cannot be reached ({one_line(str(error)).rstrip('.')}): check the network, a proxy, and aws.region."


def no_region(error: Exception) -> str:
    """No region anywhere."""
    return "No AWS region is set: set aws.region in pipeline.yaml."


def not_acceptable(error: Exception) -> str:
    """What botocore's validation found; its first line is a heading."""
    details = "; ".join(line.strip() for line in str(error).splitlines()[1:])
    return f"A value is not acceptable to AWS: {details or one_line(str(error))}."


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


THROTTLED = (
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "SlowDown",
    "EC2ThrottledException",
)
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
UNKNOWN = (
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "AuthFailure",
    "InvalidToken",
    "MissingAuthenticationToken",
    "IncompleteSignature",
)
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")
QUOTAS = (
    "ResourceLimitExceeded",
    "LimitExceeded",
    "LimitExceededException",
    "ServiceQuotaExceededException",
    "TooManyBuckets",
)
BUSY = ("ConflictException", "ResourceInUse", "ResourceInUseException", "OperationAborted", "ResourceConflictException")

SENTENCES: Mapping[str, Callable[[ClientError], str]] = {
    **dict.fromkeys(THROTTLED, throttled),
    **dict.fromkeys(EXPIRED, expired),
    **dict.fromkeys(UNKNOWN, unknown_credentials),
    **dict.fromkeys(DENIED, denied),
    **dict.fromkeys(QUOTAS, over_quota),
    **dict.fromkeys(BUSY, busy),
    "RequestTimeTooSkewed": wrong_clock,
}
CLIENT_SIDE: Mapping[type[BotoCoreError], Callable[[Exception], str]] = {
    NoCredentialsError: no_credentials,
    PartialCredentialsError: half_credentials,
    ProfileNotFound: unknown_profile,
    SSOTokenLoadError: logged_out,
    UnauthorizedSSOTokenError: logged_out,
    TokenRetrievalError: logged_out,
    CredentialRetrievalError: no_credentials,
    EndpointConnectionError: unreachable,
    ConnectTimeoutError: unreachable,
    ReadTimeoutError: unreachable,
    NoRegionError: no_region,
    ParamValidationError: not_acceptable,
}
