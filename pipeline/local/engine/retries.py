"""RetryPolicies of a step: whether a failure is tried again, and when.

As "Retry policy for pipeline steps" in the guide has it: the exception type of a failure picks the policy.
"""

import time
from collections.abc import Sequence

from pipeline.local.store.state import Document


def retry_wait(policies: Sequence[Document], code: str | None, used: int, started: float) -> float | None:
    """Seconds until the next attempt: Interval * Backoff^(n-1); None when no policy gives one.

    Args:
        policies: the step's RetryPolicies.
        code: the failure's exception type.
        used: retries so far.
        started: `time.monotonic()` at the first attempt.
    """
    policy = next((policy for policy in policies if code in exception_types(policy)), None)
    if policy is None:
        return None
    wait = float(policy.get("IntervalSeconds", 1)) * float(policy.get("BackoffRate", 2.0)) ** used
    if "ExpireAfterMin" in policy:
        return wait if time.monotonic() - started + wait < 60 * policy["ExpireAfterMin"] else None
    return wait if used < policy.get("MaxAttempts", 5) else None


def exception_types(policy: Document) -> list[str]:
    """ExceptionType: a list, or one name as the published schema of definitions has it."""
    found = policy.get("ExceptionType") or []
    return [found] if isinstance(found, str) else list(found)
