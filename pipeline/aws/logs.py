"""The end of a log in CloudWatch, as a person reads it after a failure."""

from typing import Any

from botocore.exceptions import ClientError


def last_lines(logs: Any, group: str, prefix: str, count: int) -> list[str]:
    """Return the last lines of a job's newest stream, or of the group's newest stream if there is no prefix.

    A job on several instances has a stream for each. Empty where there is no stream yet or where it cannot be read, as
    the reason of the failure has been told already.
    """
    try:
        if prefix:
            answer = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{prefix}/")
        else:
            answer = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        newest = max(answer["logStreams"], key=lambda stream: stream.get("lastEventTimestamp", 0), default=None)
        if newest is None:
            return []
        answer = logs.get_log_events(
            logGroupName=group, logStreamName=newest["logStreamName"], startFromHead=False, limit=count
        )
    except ClientError:
        return []
    return [event["message"].rstrip() for event in answer["events"]][-count:]
